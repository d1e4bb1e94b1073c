"""A layer on the lanes of a sparse array: the shape they see, mask-exact and expected counts, and passes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np

from accel_models.layer_zeros import LayerZeros, Structure
from accel_models.layers import Conv2d, Gemm
from accel_models.masks import Mask
from accel_models.sparse_array import SparseArray, SparseCounts, SparseShape, Zeros
from accel_models.sparse_engine import run_masks
from accel_models.sparse_expectation import Expectation, expected_counts
from accel_models.sparse_fields import Lanes
from accel_models.sparse_layers import matrix_shape, planar_tiling
from accel_models.sparse_planar import planar_counts
from accel_models.sparse_report import SparseReport
from accel_models.sparse_sampling import run_weights

SAMPLES = 4
"""Random groups of pixels that stand for all where inputs of a density meet an actual mask."""


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
    return LaneLayer(tiling.array, tiling.shape, tiling.cuts * image.n, tiling.fill, taps, image.stride)


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
    if not skips_weights:
        zeros = replace(zeros, mask=None, structure=_gated(laid.array, zeros.weights))
        laid = replace(laid, array=replace(laid.array, skip=_without_weights(laid.array)))
    expected = _expected(laid, _structure(laid, zeros.weights), zeros.inputs)
    exact = None if zeros.mask is None else _exact_counts(laid, layer, zeros.mask, zeros.inputs)
    return SparseReport(exact, expected.counts, expected.standard_error)


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
    return SparseCounts(**{field.name: times * getattr(counts, field.name) for field in fields(SparseCounts)})
