"""Passes of a sparse array on random masks: what one operand is known for, drawing it, and the mean over samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError
from accel_models.kernels.sparse_draw import select_k_of_n
from accel_models.masks import Mask
from accel_models.sparse_array import SparseArray, SparseCounts, SparseShape
from accel_models.sparse_engine import run_masks
from accel_models.sparse_statistics import Rows


@dataclass(frozen=True)
class Cycles:
    """Means of one group, in cycles; `variance` of the sampled sum."""

    waited: float
    metadata: float
    balanced: float
    busy: float
    """Of all lanes together."""
    conflicts: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True)
class Axis:
    """One operand: how many rows it has, how they are tiled, and what is known of their zeros."""

    rows: Rows
    count: int
    tile: int
    vector: int
    lanes: int

    @property
    def single(self) -> bool:
        return self.tile == self.rows.unit == 1

    def tiles(self) -> list[tuple[int, int]]:
        """(rows of a tile, tiles alike)."""
        full, rest = divmod(self.count, self.tile)
        return [(size, n) for size, n in ((self.tile, full), (rest, 1)) if size and n]

    def passes(self) -> list[tuple[list[tuple[int, int]], int]]:
        """([(rows of a tile, lanes alike)], passes alike)."""
        full, rest = divmod(self.count, self.tile)
        many, left = divmod(full, self.lanes)
        last = [(size, n) for size, n in ((self.tile, left), (rest, 1)) if size and n]
        return ([([(self.tile, self.lanes)], many)] if many else []) + ([(last, 1)] if last else [])

    def vectors(self, size: int) -> int:
        return -(-size * self.rows.unit // self.vector)


def sampled_cycles(
    array: SparseArray, shape: SparseShape, weight: Axis, pixel: Axis, samples: int, seed: int
) -> Cycles:
    """Run passes of every kind with random masks; equal ones count as often as they come."""
    rng = np.random.default_rng(seed)
    sums, variance = np.zeros(5), 0.0
    for outputs, pixels, times in _kinds(array, weight, pixel):
        part = SparseShape(
            outputs=outputs,
            pixels=pixels,
            reduction=shape.reduction,
            weight_unit=shape.weight_unit,
            input_unit=shape.input_unit,
            filter=shape.filter,
            tile=shape.tile,
        )
        runs = np.array([_run_once(array, part, weight.rows, pixel.rows, rng) for _ in range(samples)])
        sums += times * runs.mean(0)
        variance += times**2 * float(runs[:, [0, 1, 4]].sum(1).var(ddof=1)) / samples
    waited, metadata, balanced, busy, conflicts = sums.tolist()
    return Cycles(waited, metadata, balanced, busy, conflicts, variance)


def run_weights(
    array: SparseArray, shape: SparseShape, weights: Mask, input_density: float, samples: int = 16, seed: int = 0
) -> SparseCounts:
    """Counts of an actual weight mask with inputs of a density: `samples` random groups of pixels stand for all.

    Parameters
    ----------
    input_density : float
        In [0, 1]; inputs are independent.
    samples : int
        Groups of pixels that the lanes take at a time, at least 1; an incomplete last group is run as well.
    """
    if not 0 <= input_density <= 1 or samples < 1:
        raise InvalidInputError(f"input_density = {input_density}, samples = {samples}: use [0, 1] and at least 1")
    rng = np.random.default_rng(seed)
    rows = Rows(float(input_density), shape.reduction, shape.input_unit, shape.kernel_size)
    passes, rest = divmod(shape.pixels, array.lane_pixels * array.tile_pixels)
    run = min(passes, samples)
    parts = [(run * array.lane_pixels * array.tile_pixels, passes / run if run else 0.0), (rest, 1.0)]
    total = np.zeros(len(fields(SparseCounts)))
    for pixels, times in parts:
        if pixels:
            part = replace(shape, pixels=pixels, dense_macs=0)
            counts = run_masks(array, part, weights, draw_mask(rows, shape.groups * pixels, rng))
            total += times * np.array([getattr(counts, field.name) for field in fields(SparseCounts)], np.float64)
    return SparseCounts(**{field.name: float(x) for field, x in zip(fields(SparseCounts), total, strict=True)})


def _kinds(array: SparseArray, weight: Axis, pixel: Axis) -> Iterator[tuple[int, int, int]]:
    """(outputs, pixels, passes alike); greedy pairs are chosen among all outputs."""
    outputs = [(sum(size * n for size, n in tiles), many) for tiles, many in weight.passes()]
    if array.balance == "greedy" and weight.rows.structure is not None:
        outputs = [(weight.count, 1)]
    for out, many in outputs:
        for tiles, times in pixel.passes():
            yield out, sum(size * n for size, n in tiles), many * times


def _run_once(
    array: SparseArray, part: SparseShape, weight: Rows, pixel: Rows, rng: np.random.Generator
) -> list[float]:
    counts = run_masks(array, part, draw_mask(weight, part.outputs, rng), draw_mask(pixel, part.pixels, rng))
    balanced = counts.ideal_cycles + counts.fragmentation_cycles
    waited = balanced + counts.imbalance_cycles
    return [waited, counts.metadata_cycles, balanced, counts.output_updates, counts.bank_conflict_cycles]


def draw_mask(rows: Rows, count: int, rng: np.random.Generator) -> Mask | None:
    """A random mask of `count` rows with this structure; None where it is dense."""
    bits = _draw(rows, count, rng)
    return None if bits is None else Mask.from_bool(bits)


def _draw(rows: Rows, count: int, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    s, elements = rows.structure, rows.reduction * rows.unit
    if s is None:
        return None
    if isinstance(s, float):
        return np.asarray(rng.random((count, elements), np.float32) < s)
    size = rows.kernel_size if s.granularity == "kernel" else 1
    kept = np.empty((count, elements // size), np.bool_)
    select_k_of_n(rng.random(kept.shape, np.float32), s.k, s.n, kept)
    return np.repeat(kept, size, axis=1)
