"""A layer on the lanes of a sparse array: the shape they see, mask-exact and expected counts, and passes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np

from accel_models.activation_masks import Bools, runs_of
from accel_models.layer_zeros import LayerZeros, Structure
from accel_models.layers import Conv2d, Gemm
from accel_models.masks import Mask, in_lane_order
from accel_models.sparse_array import SparseArray, SparseCounts, SparseShape, Zeros
from accel_models.sparse_engine import run_masks
from accel_models.sparse_expectation import Expectation, expected_counts
from accel_models.sparse_fields import Lanes
from accel_models.sparse_layers import PlanarTiling, matrix_inputs, matrix_shape, planar_inputs, planar_tiling
from accel_models.sparse_planar import planar_counts
from accel_models.sparse_report import SparseReport
from accel_models.sparse_sampling import draw_mask, run_weights
from accel_models.sparse_statistics import Rows
from accel_models.sparsity import kernels_per_row

SAMPLES = 4
"""Random groups of pixels that stand for all where inputs of a density meet an actual mask."""
_COUNTS = fields(SparseCounts)


@dataclass(frozen=True)
class LaneLayer:
    """A layer cut for lanes: `times` runs of one shape."""

    array: SparseArray
    shape: SparseShape
    times: int
    filled: float = 1.0
    """Share of the inputs in the shape that exist; the others lie outside the image."""
    tapped: float = 1.0
    """Share of the weights in the shape that exist; the others fill up the phases of a stride."""
    stride: tuple[int, int] = (1, 1)
    tiling: PlanarTiling | None = None
    """Of planar lanes."""

    @property
    def planar(self) -> bool:
        return self.array.accumulator_banks > 0

    @property
    def output_blocks(self) -> int:
        """Of one group and one run."""
        return -(-self.shape.outputs // (self.array.lane_outputs * self.array.tile_outputs))

    @property
    def pixel_blocks(self) -> int:
        """Of one group, over all runs."""
        return self.times * -(-self.shape.pixels // (self.array.lane_pixels * self.array.tile_pixels))


@lru_cache(maxsize=4096)
def lay_out(layer: Conv2d | Gemm, lanes: Lanes) -> LaneLayer:
    """How a layer runs on the lanes.

    Raises
    ------
    InvalidInputError
        The accumulators of planar lanes hold no tile of the layer.
    """
    if lanes.accumulators is None:
        return LaneLayer(lanes.array, matrix_shape(layer), 1)
    image = as_images(layer)
    tiling = planar_tiling(replace(image, n=1), lanes.array, lanes.accumulators)
    taps = image.r * image.s / (tiling.shape.weight_unit * image.stride[0] * image.stride[1])
    return LaneLayer(tiling.array, tiling.shape, tiling.cuts * image.n, tiling.fill, taps, image.stride, tiling)


def as_images(layer: Conv2d | Gemm) -> Conv2d:
    """The layer as a convolution that planar lanes can run: a dilated one as a product, a product as 1 x 1 filters over
    a nearly square image of its rows."""
    if isinstance(layer, Conv2d) and layer.dilation == (1, 1):
        return layer
    gemm = layer.as_gemm()
    width = math.isqrt(gemm.m)
    return Conv2d(
        name=layer.name,
        k=gemm.groups * gemm.n,
        c=gemm.groups * gemm.k,
        p=-(-gemm.m // width),
        q=width,
        r=1,
        s=1,
        groups=gemm.groups,
        bits=layer.bits,
    )


def count_lanes(layer: Conv2d | Gemm, zeros: LayerZeros, laid: LaneLayer, skips_weights: bool) -> SparseReport:
    """Counts of all runs of a layer; weights that are stored dense are not skipped."""
    zeros = as_walked(layer, zeros, laid)
    if not skips_weights:
        zeros = replace(zeros, mask=None, structure=_gated(laid.array, zeros.weights))
        laid = replace(laid, array=replace(laid.array, skip=_without_weights(laid.array)))
    expected = _expected(laid, _structure(laid, zeros.weights), zeros.inputs)
    runs = _captured_counts(laid, layer, zeros)
    if runs:
        cycles = tuple(run.cycles for run in runs)
        return SparseReport(_mean(runs), expected.counts, expected.standard_error, cycles)
    exact = None if zeros.mask is None else _exact_counts(laid, layer, zeros.mask, zeros.inputs)
    return SparseReport(exact, expected.counts, expected.standard_error)


def as_walked(layer: Conv2d | Gemm, zeros: LayerZeros, laid: LaneLayer) -> LayerZeros:
    """Rows of the mask of the weights in the order of the lanes; planar ones walk them as they lie in files."""
    if zeros.mask is None or laid.planar:
        return zeros
    return replace(zeros, mask=in_lane_order(zeros.mask, layer, zeros.structure))


def _gated(array: SparseArray, weights: Structure | None) -> Structure | None:
    return weights if array.gates("weight") else None


def _without_weights(array: SparseArray) -> Zeros:
    return "input" if array.skips("input") else "none"


def _structure(laid: LaneLayer, weights: Structure | None) -> Structure | None:
    """As the lanes meet it: phases of a stride scatter a row, so that only its density is known."""
    if weights is None or (isinstance(weights, float | int) and laid.tapped == 1.0):
        return weights
    if not laid.planar or (laid.stride == (1, 1) and laid.tapped == 1.0):
        return weights
    if isinstance(weights, float | int):
        return float(weights) * laid.tapped
    return weights.k / weights.n * laid.tapped


@lru_cache(maxsize=4096)
def _expected(laid: LaneLayer, weights: Structure | None, inputs: float | None) -> Expectation:
    """Mean counts of all runs."""
    if not laid.planar:
        return expected_counts(laid.array, laid.shape, weights, inputs)
    if weights is None and laid.tapped < 1.0:
        weights = laid.tapped
    counts = planar_counts(laid.array, laid.shape, weights, 1.0 if inputs is None else inputs, laid.filled)
    return Expectation(scaled(counts, laid.times), 0.0)


def _exact_counts(laid: LaneLayer, layer: Conv2d | Gemm, mask: Mask, inputs: float | None) -> SparseCounts:
    """Counts from a mask of the weights; inputs of a density are drawn."""
    if laid.planar:
        rows, density = phases_of(mask, laid, layer), 1.0 if inputs is None else inputs
        return scaled(planar_counts(laid.array, laid.shape, rows, density, laid.filled), laid.times)
    seen = laid.array.skips("input") or laid.array.gates("input")
    if inputs is None or not seen:
        return run_masks(laid.array, laid.shape, mask)
    return run_weights(laid.array, laid.shape, mask, inputs, SAMPLES)


def _captured_counts(laid: LaneLayer, layer: Conv2d | Gemm, zeros: LayerZeros) -> list[SparseCounts]:
    """Counts of every captured run; none, where no inputs were captured or the lanes make nothing of their zeros."""
    inputs, array = zeros.input_mask, laid.array
    if inputs is None or not (array.skips("input") or array.gates("input")):
        return []
    weights = known_weights(layer, zeros)
    if not laid.planar:
        taken = (in_lane_order(matrix_inputs(layer, run), layer, zeros.structure) for run in runs_of(inputs, layer))
        return [run_masks(array, laid.shape, weights, run) for run in taken]
    if weights is None and laid.tapped < 1.0:
        weights = Mask.from_bool(np.ones((layer.weight_elements // layer.as_gemm().k, layer.as_gemm().k), np.bool_))
    taps = None if weights is None else phases_of(weights, laid, layer)
    return [_planar_run(laid, layer, taps, run) for run in runs_of(inputs, layer)]


def _planar_run(laid: LaneLayer, layer: Conv2d | Gemm, taps: Mask | None, run: Bools) -> SparseCounts:
    """All images of a run, cut by cut."""
    assert laid.tiling is not None
    image = replace(as_images(layer), n=1)
    planes = run if isinstance(layer, Conv2d) and layer.dilation == (1, 1) else _as_planes(layer, run)
    cuts = [cut for plane in planes for cut in planar_inputs(image, laid.tiling, plane[np.newaxis])]
    counts = [run_masks(laid.array, laid.shape, taps, cut) for cut in cuts]
    return SparseCounts(**{field.name: sum(getattr(one, field.name) for one in counts) for field in _COUNTS})


def _as_planes(layer: Conv2d | Gemm, run: Bools) -> Bools:
    """Inputs of `as_images`: every row of the matrix product is a pixel of one image, [1, channels, height, width]."""
    gemm, image = layer.as_gemm(), as_images(layer)
    pixels = np.zeros((gemm.groups, image.p * image.q, gemm.k), np.bool_)
    pixels[:, : gemm.m] = matrix_inputs(layer, run).to_bool().reshape(gemm.groups, gemm.m, gemm.k)
    return pixels.transpose(0, 2, 1).reshape(1, image.c, image.p, image.q)


def known_weights(layer: Conv2d | Gemm, zeros: LayerZeros) -> Mask | None:
    """The mask of the weights; one random mask, always the same, of a structure or a density; None: dense."""
    if zeros.mask is not None or zeros.structure is None or zeros.structure == 1:
        return zeros.mask
    gemm, known = layer.as_gemm(), zeros.structure
    rows = Rows(float(known) if isinstance(known, int) else known, gemm.k, 1, kernels_per_row(layer)[1])
    return draw_mask(rows, layer.weight_elements // gemm.k, np.random.default_rng(0))


def _mean(runs: list[SparseCounts]) -> SparseCounts:
    if len(runs) == 1:
        return runs[0]
    return SparseCounts(**{field.name: sum(getattr(run, field.name) for run in runs) / len(runs) for field in _COUNTS})


def phases_of(mask: Mask, laid: LaneLayer, layer: Conv2d | Gemm) -> Mask:
    """Rows of weights as planar lanes read them: channel x phase of the stride, then the taps of that phase."""
    (down, across), taps = laid.stride, laid.shape.filter
    if (down, across) == (1, 1):
        return mask
    assert isinstance(layer, Conv2d)
    padded = np.zeros((mask.rows, layer.c // layer.groups, taps[0] * down, taps[1] * across), np.bool_)
    padded[:, :, : layer.r, : layer.s] = mask.as_matrix().reshape(mask.rows, -1, layer.r, layer.s)
    split = padded.reshape(mask.rows, -1, taps[0], down, taps[1], across).transpose(0, 1, 3, 5, 2, 4)
    return Mask.from_bool(split.reshape(mask.rows, -1))


def scaled(counts: SparseCounts, times: int) -> SparseCounts:
    """So many runs."""
    if times == 1:
        return counts
    return SparseCounts(**{field.name: times * getattr(counts, field.name) for field in _COUNTS})
