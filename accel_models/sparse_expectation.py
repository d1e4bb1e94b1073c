"""Cycles and accesses of a sparse array from densities: the mean over random masks.

Closed forms where lanes are independent: the largest of P binomials (or fixed counts) where lanes wait after every
segment or at the end of a pass, given the operand that they share. Elsewhere (a buffer of a few segments, banks, greedy
pairs, lanes along both axes) passes of random masks are run and averaged, with a fixed seed and a standard error.
Kept elements of a `float` structure are independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from accel_models import sparse_statistics as stats
from accel_models.errors import InvalidInputError
from accel_models.sparse_array import SparseArray, SparseCounts, SparseShape
from accel_models.sparse_sampling import Axis, Cycles, sampled_cycles
from accel_models.sparse_statistics import Rows, Structure


@dataclass(frozen=True)
class Expectation:
    """Mean over random masks."""

    counts: SparseCounts
    standard_error: float
    """Of the cycles, where passes were sampled; 0: closed form."""


@lru_cache(maxsize=8192)
def expected_counts(
    array: SparseArray, shape: SparseShape, weights: Structure, inputs: float | None, samples: int = 8, seed: int = 0
) -> Expectation:
    """Mean counts over random masks of these structures.

    Parameters
    ----------
    weights : float, KofN or None
        Density in [0, 1], k of n, or dense.
    inputs : float or None
        Density in [0, 1], or dense.
    samples : int
        Passes of every kind that are run where no closed form is known, at least 2.

    Raises
    ------
    InvalidInputError
        A density outside [0, 1], fewer than 2 samples.
    """
    for name, density in (("weights", weights), ("inputs", inputs)):
        if isinstance(density, int | float) and not 0 <= density <= 1:
            raise InvalidInputError(f"density of {name} = {density}: must lie in [0, 1]")
    if samples < 2:
        raise InvalidInputError(f"samples = {samples}: a standard error needs at least 2")
    w = _rows(weights, shape, shape.weight_unit)
    a = _rows(inputs, shape, shape.input_unit)
    weight = Axis(
        _seen(w, array.skips("weight")), shape.outputs, array.tile_outputs, array.vector_outputs, array.lane_outputs
    )
    pixel = Axis(
        _seen(a, array.skips("input")), shape.pixels, array.tile_pixels, array.vector_pixels, array.lane_pixels
    )
    cycles = _closed(array, weight, pixel) or sampled_cycles(array, shape, weight, pixel, samples, seed)
    return Expectation(
        _counts(array, shape, (w, a), (weight, pixel), cycles), math.sqrt(shape.groups**2 * cycles.variance)
    )


def _rows(structure: Structure, shape: SparseShape, unit: int) -> Rows:
    known = float(structure) if isinstance(structure, int) else structure
    return Rows(None if known == 1.0 else known, shape.reduction, unit, shape.kernel_size)


def _seen(rows: Rows, skipped: bool) -> Rows:
    return rows if skipped else Rows(None, rows.reduction, rows.unit, rows.kernel_size)


def _density(rows: Rows) -> float:
    return rows.kept_per_row / (rows.reduction * rows.unit)


def _counts(
    array: SparseArray, shape: SparseShape, known: tuple[Rows, Rows], axes: tuple[Axis, Axis], cycles: Cycles
) -> SparseCounts:
    dense, groups = shape.macs, shape.groups
    densities = [_density(rows) for rows in known]
    skips, gates = [[f(o) for o in ("weight", "input")] for f in (array.skips, array.gates)]
    slots = dense * math.prod(d for d, skip in zip(densities, skips, strict=True) if skip)
    done = dense * math.prod(d for d, s, g in zip(densities, skips, gates, strict=True) if s or g)
    ideal = math.ceil(dense * math.prod(densities) / array.multipliers - 1e-9)
    reads = _reads(array, *axes)
    both = all(axis.rows.structure is not None for axis in axes)
    pairs = math.prod(sum(n for _, n in axis.tiles()) for axis in axes) if both else 0
    passes = math.prod(sum(n for _, n in axis.passes()) for axis in axes)
    updates = slots if array.vector_reduction == 1 else groups * cycles.busy
    return SparseCounts(
        ideal_cycles=ideal,
        fragmentation_cycles=groups * cycles.balanced - ideal,
        imbalance_cycles=groups * (cycles.waited - cycles.balanced),
        bank_conflict_cycles=groups * cycles.conflicts,
        metadata_cycles=groups * cycles.metadata,
        fill_cycles=groups * array.pass_cycles * passes,
        macs_done=done,
        macs_gated=slots - done,
        macs_skipped=dense - slots,
        weight_reads=groups * reads[0],
        input_reads=groups * reads[1],
        output_updates=updates,
        intersections=groups * shape.reduction * pairs,
    )


def _reads(array: SparseArray, weight: Axis, pixel: Axis) -> tuple[float, float]:
    """Elements of a group that lanes read: those of a tile times the vectors (held: the tiles) that they meet."""
    totals = [_totals(axis) for axis in (weight, pixel)]
    (w_elements, w_vectors, w_present), (i_elements, i_vectors, i_present) = totals
    reduction = weight.rows.reduction
    return (
        w_elements * (i_present if array.held == "weight" else i_vectors) * reduction,
        i_elements * (w_present if array.held == "input" else w_vectors) * reduction,
    )


def _totals(axis: Axis) -> tuple[float, float, float]:
    """Means at one reduction index, over all tiles: elements, vectors, tiles that are not empty."""
    elements = axis.count * axis.rows.unit * _density(axis.rows)
    if axis.single:
        return elements, elements, elements
    reduction, ragged = axis.rows.reduction, axis.rows.ragged
    parts = [(0, (reduction - ragged) / reduction), (reduction - 1, ragged / reduction)]
    vectors = present = 0.0
    for size, n in axis.tiles():
        for index, share in parts:
            pmf = _index_pmf(axis, size, index)
            vectors += share * n * stats.mean(stats.vector_pmf(pmf, axis.vector))
            present += share * n * (1.0 - float(pmf[0]))
    return elements, vectors, present


def _index_pmf(axis: Axis, size: int, index: int) -> stats.Pmf:
    """Kept elements of a tile at an index; binomial where a k-of-n tile does not fit the index."""
    pmf = stats.count_pmf(axis.rows, size, index, index + 1)
    return pmf if pmf is not None else stats.binomial(size * axis.rows.unit, _density(axis.rows))


def _closed(array: SparseArray, weight: Axis, pixel: Axis) -> Cycles | None:
    """Means of a group without sampling; None: no closed form is known."""
    masked = [axis for axis in (weight, pixel) if axis.rows.structure is not None]
    if array.gather_banks or array.accumulator_banks or (array.balance == "greedy" and weight in masked):
        return None
    if array.latch_cycles and array.lanes > 1:
        return None
    if array.lanes == 1 and array.vector_reduction == 1 and array.least_cycles == 0:
        return _single_lane(array, weight, pixel)
    if len(masked) < 2:
        first, second = (pixel, weight) if masked == [pixel] else (weight, pixel)
        return _one_sided(array, first, second, _metadata(array, weight, pixel))
    if weight.single and pixel.single and not array.latch_cycles:
        for lanes, common in ((weight, pixel), (pixel, weight)):
            if common.lanes == 1 and isinstance(lanes.rows.structure, float):
                return _joined(array, lanes, common)
    return None


def _segments(array: SparseArray, rows: Rows) -> list[tuple[int, int, int]]:
    """(start, stop, segments alike) between which lanes may wait."""
    free = array.look_ahead == 0 and array.vector_reduction == 1 and array.least_cycles == 0
    size = rows.reduction if free or not array.segment else array.segment
    alike: dict[tuple[int, ...], tuple[int, int, int]] = {}
    for start in range(0, rows.reduction, size):
        stop = min(start + size, rows.reduction)
        kind = rows.kind(start, stop)
        alike[kind] = (start, stop, alike[kind][2] + 1 if kind in alike else 1)
    return list(alike.values())


def _adds_up(array: SparseArray, segments: list[tuple[int, int, int]]) -> bool:
    """Whether a pass is the sum of its segments' slowest lanes: one segment, or lanes in lockstep."""
    return array.look_ahead == 1 or sum(n for _, _, n in segments) == 1


def _one_sided(array: SparseArray, first: Axis, second: Axis, metadata: float) -> Cycles | None:
    """Lanes whose work is independent: only one operand has zeros that are skipped."""
    segments = _segments(array, first.rows)
    repeats = [n for _, _, n in segments]
    waited = balanced = busy = 0.0
    for tiles, many in first.passes():
        counts = [_vector_pmfs(first, tiles, start, stop) for start, stop, _ in segments]
        alike = sum(n for _, n in tiles) == 1 or all(_fixed(pmfs) for pmfs in counts)
        if not alike and not _adds_up(array, segments):
            return None
        for others, times in second.passes():
            factors = [(second.vectors(size), n) for size, n in others]
            steps = [_mean_step(array, pmfs, factors) for pmfs in counts if pmfs is not None]
            if len(steps) < len(segments):
                return None
            largest, together = (float(x) for x in np.array(steps).T @ repeats)
            occupied = sum(n for _, n in tiles) * sum(n for _, n in factors)
            waited += many * times * largest
            balanced += many * times * _rounded(together, occupied, largest)
            busy += many * times * together
    return Cycles(waited, metadata, balanced, busy)


def _fixed(pmfs: list[tuple[stats.Pmf, int]] | None) -> bool:
    """Whether all lanes have the same work without chance, so that none waits whatever the buffer."""
    return pmfs is not None and len(pmfs) == 1 and bool(pmfs[0][0][-1] == 1.0)


def _mean_step(
    array: SparseArray, pmfs: list[tuple[stats.Pmf, int]], factors: list[tuple[int, int]]
) -> tuple[float, float]:
    """Means of the slowest lane and of all lanes in one segment; lanes with equal rows differ only in their factor."""
    width, least = array.vector_reduction, array.least_cycles
    work = {f: [(stats.work_pmf(pmf, f, width, least), n) for pmf, n in pmfs] for f, _ in factors}
    busy = sum(stats.mean(pmf) * n * m for f, m in factors for pmf, n in work[f])
    return stats.mean_largest(work[max(work)]), busy


def _vector_pmfs(axis: Axis, tiles: list[tuple[int, int]], start: int, stop: int) -> list[tuple[stats.Pmf, int]] | None:
    """Vectors of a tile in a segment, (distribution, tiles alike); None: no closed form is known."""
    out: list[tuple[stats.Pmf, int]] = []
    for size, n in tiles:
        if axis.vector == 1 or stop - start == 1:
            pmf = stats.count_pmf(axis.rows, size, start, stop)
            pmf = None if pmf is None else stats.vector_pmf(pmf, axis.vector)
        elif isinstance(axis.rows.structure, float):
            one = stats.binomial(size * axis.rows.unit, axis.rows.structure)
            pmf = stats.power(stats.vector_pmf(one, axis.vector), stop - start)
        else:
            pmf = stats.point((stop - start) * axis.vectors(size)) if axis.rows.structure is None else None
        if pmf is None:
            return None
        out.append((pmf, n))
    return out


def _single_lane(array: SparseArray, weight: Axis, pixel: Axis) -> Cycles:
    """One lane never waits: vectors of independent operands, means multiply."""
    work = weight.rows.reduction * _totals(weight)[1] * _totals(pixel)[1]
    return Cycles(work, _metadata(array, weight, pixel), work, work)


def _joined(array: SparseArray, lanes: Axis, common: Axis) -> Cycles | None:
    """Lanes that join their row with one that they share: given its a non-zeros, their counts are binomial."""
    segments = _segments(array, common.rows)
    density = lanes.rows.structure
    if not isinstance(density, float) or not _adds_up(array, segments):
        return None
    repeats = [n for _, _, n in segments]
    shared = [stats.count_pmf(common.rows, 1, start, stop) for start, stop, _ in segments]
    if any(pmf is None for pmf in shared):
        return None
    waited = balanced = busy = 0.0
    for tiles, many in lanes.passes():
        occupied, times = sum(n for _, n in tiles), many * common.count
        steps = [
            _mean_join(pmf.tobytes(), density, occupied, array.vector_reduction, array.least_cycles)
            for pmf in shared
            if pmf is not None
        ]
        largest, together = (float(x) for x in np.array(steps).T @ repeats)
        waited += times * largest
        balanced += times * _rounded(together, occupied, largest)
        busy += times * together
    return Cycles(waited, _metadata(array, lanes, common), balanced, busy)  # no vector is latched here


@lru_cache(maxsize=4096)
def _mean_join(shared: bytes, density: float, lanes: int, width: int, least: int) -> tuple[float, float]:
    """Means of the slowest lane and of all lanes together; shared: distribution of the common non-zeros, float64."""
    largest = busy = 0.0
    for a, share in enumerate(np.frombuffer(shared)):
        if share > 1e-15:
            pmf = stats.work_pmf(stats.binomial(a, density), 1, width, least)
            largest += share * stats.mean_largest([(pmf, lanes)])
            busy += share * lanes * stats.mean(pmf)
    return largest, busy


def _metadata(array: SparseArray, weight: Axis, pixel: Axis) -> float:
    passes = math.prod(sum(n for _, n in axis.passes()) for axis in (weight, pixel))
    segments = -(-weight.rows.reduction // (array.segment or weight.rows.reduction))
    cycles = float(array.segment_cycles * segments * passes)
    if array.latch_cycles and array.held != "none":
        totals = [_totals(axis) for axis in (weight, pixel)]
        by_inputs = array.held == "input"
        vectors, present = (totals[1][1], totals[0][2]) if by_inputs else (totals[0][1], totals[1][2])
        cycles += array.latch_cycles * weight.rows.reduction * vectors * present
    return cycles


def _rounded(busy: float, lanes: int, largest: float) -> float:
    """Mean of ceil(busy / lanes): exact where it is fixed, else the remainder is taken as uniform."""
    least = busy / lanes
    if abs(largest - least) < 1e-9 * max(1.0, largest):
        return largest
    return min(largest, least + (lanes - 1) / (2 * lanes))
