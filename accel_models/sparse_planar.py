"""Cycles of lanes that own planar tiles (SCNN): from weights, a mask or a density of them, and a density of inputs.

A lane meets, at every reduction index, ceil(w / F) vectors of weights with ceil(a / I) vectors of its tile's inputs.
Weights are common to all lanes, so given them the lanes are independent, each a sum of many indices: the slowest of
them is taken from a normal distribution (an approximation; without zeros among the inputs it is exact). Tiles inside
the image are complete and set the pace; those at its edge idle, which counts as fragmentation. Bank conflicts of one
lane over `CONFLICT_INDICES` indices stand for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from accel_models import sparse_statistics as stats
from accel_models.layer_zeros import Structure
from accel_models.masks import Mask
from accel_models.sparse_array import SparseArray, SparseCounts, SparseShape
from accel_models.sparse_expectation import expected_counts
from accel_models.sparse_sampling import Axis
from accel_models.sparse_statistics import Rows
from accel_models.sparse_tiles import Side, tile_elements

CONFLICT_INDICES = 32
CONFLICT_STEPS = 20
"""Densities are rounded to so many steps where bank conflicts are sampled."""


@dataclass(frozen=True)
class _Vectors:
    """Weights of all tiles and indices of a layer: elements, vectors, squared vectors, tiles with any."""

    elements: float
    vectors: float
    squares: float
    present: float


def planar_counts(
    array: SparseArray, shape: SparseShape, weights: Structure | Mask | None, inputs: float, filled: float
) -> SparseCounts:
    """Counts of one run over all groups.

    Parameters
    ----------
    inputs : float
        Share of the inputs inside the image that are not zero, in [0, 1].
    filled : float
        Share of the tiles' elements that lie inside the image, in (0, 1].
    """
    w = _mask_vectors(array, shape, weights) if isinstance(weights, Mask) else _mean_vectors(array, shape, weights)
    pmf = stats.binomial(shape.input_unit, inputs)
    vectors = stats.vector_pmf(pmf, array.vector_pixels)
    mean, lanes = stats.mean(vectors), shape.pixels
    spread = math.sqrt(max(0.0, float(vectors @ np.arange(vectors.size) ** 2) - mean**2))
    passes = shape.groups * -(-shape.outputs // array.tile_outputs)
    waits = math.sqrt(w.squares / passes) * spread * largest_normal(lanes) * passes
    waited = min(w.vectors * mean + waits, w.vectors * -(-shape.input_unit // array.vector_pixels))
    busy = w.vectors * mean * lanes * filled
    products = w.elements * shape.pixels * shape.input_unit * inputs * filled
    ideal = math.ceil(products / array.multipliers - 1e-9)
    balanced = max(float(ideal), busy / array.lanes)
    conflicts = 0.0
    if array.accumulator_banks and products:
        conflicts = waited * _conflict_share(array, shape, _rounded(w.elements / _all_weights(shape)), _rounded(inputs))
    return SparseCounts(
        ideal_cycles=ideal,
        fragmentation_cycles=balanced - ideal,
        imbalance_cycles=max(0.0, waited - balanced),
        bank_conflict_cycles=conflicts,
        metadata_cycles=0.0,
        fill_cycles=array.pass_cycles * passes,
        macs_done=products,
        macs_gated=0.0,
        macs_skipped=shape.macs - products,
        weight_reads=w.elements * lanes * mean,
        input_reads=w.present * lanes * shape.input_unit * inputs * filled,
        output_updates=products,
        intersections=0.0,
    )


def _all_weights(shape: SparseShape) -> int:
    return shape.groups * shape.outputs * shape.reduction * shape.weight_unit


def _mask_vectors(array: SparseArray, shape: SparseShape, mask: Mask) -> _Vectors:
    parts = [_group_elements(array, shape, mask, g) for g in range(shape.groups)]
    elements = np.concatenate([part.ravel() for part in parts])
    vectors = -(-elements // array.vector_outputs)
    return _Vectors(
        float(elements.sum()), float(vectors.sum()), float((vectors**2).sum()), float(np.count_nonzero(elements))
    )


def _group_elements(array: SparseArray, shape: SparseShape, mask: Mask, group: int) -> NDArray[np.int64]:
    words = mask.words[group * shape.outputs : (group + 1) * shape.outputs]
    side = Side(words, shape.outputs, shape.weight_unit, array.tile_outputs, array.vector_outputs, array.lane_outputs)
    return tile_elements(side, shape.reduction)


def _mean_vectors(array: SparseArray, shape: SparseShape, weights: Structure | None) -> _Vectors:
    rows = Rows(weights, shape.reduction, shape.weight_unit, shape.kernel_size)
    axis = Axis(rows, shape.outputs, array.tile_outputs, array.vector_outputs, array.lane_outputs)
    indices = shape.groups * shape.reduction
    total = np.zeros(4)
    for size, tiles in axis.tiles():
        pmf = _index_pmf(rows, size)
        vectors = stats.vector_pmf(pmf, array.vector_outputs)
        squares = float(vectors @ np.arange(vectors.size) ** 2)
        total += tiles * indices * np.array([stats.mean(pmf), stats.mean(vectors), squares, 1.0 - pmf[0]])
    return _Vectors(*total.tolist())


def _index_pmf(rows: Rows, size: int) -> stats.Pmf:
    """Kept weights of a tile at an index; binomial where k of n does not fit the index."""
    if rows.structure is None:
        return stats.point(size * rows.unit)
    pmf = stats.count_pmf(rows, size, 0, 1)
    return (
        pmf if pmf is not None else stats.binomial(size * rows.unit, rows.kept_per_row / (rows.reduction * rows.unit))
    )


def _rounded(density: float) -> float:
    return max(1, round(density * CONFLICT_STEPS)) / CONFLICT_STEPS


def _conflict_share(array: SparseArray, shape: SparseShape, weights: float, inputs: float) -> float:
    few = replace(shape, pixels=1, groups=1, dense_macs=0, reduction=min(shape.reduction, CONFLICT_INDICES))
    few = replace(few, outputs=min(shape.outputs, array.tile_outputs))
    return _sampled_share(replace(array, lane_pixels=1), few, weights, inputs)


@lru_cache(maxsize=4096)
def _sampled_share(array: SparseArray, shape: SparseShape, weights: float, inputs: float) -> float:
    """Bank conflicts over other cycles, from two random runs of one lane."""
    part = expected_counts(array, shape, weights, inputs, 2).counts
    others = part.compute_cycles - part.bank_conflict_cycles
    return part.bank_conflict_cycles / others if others else 0.0


@lru_cache(maxsize=256)
def largest_normal(count: int) -> float:
    """Expected largest of independent standard normal values."""
    if count == 1:
        return 0.0
    x = np.linspace(-9.0, 9.0, 3601)
    below = np.array([0.5 * (1.0 + math.erf(value / math.sqrt(2.0))) for value in x]) ** count
    return float(x[-1] - np.sum((below[1:] + below[:-1]) / 2) * (x[1] - x[0]))
