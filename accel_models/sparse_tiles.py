"""Tiles of one operand of a sparse array: which lane owns which, vectors of them, elements that lanes read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel_models.kernels.masks import count_columns, count_rows, count_tiles
from accel_models.kernels.sparse_pass import HELD_FIRST, HELD_SECOND

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """One operand of a group: its mask, how it is tiled, and how many of it meet in a cycle."""

    words: NDArray[np.uint64] | None
    """None: no zeros are skipped."""
    rows: int
    unit: int
    tile: int
    vector: int
    lanes: int

    @property
    def tiles(self) -> int:
        return -(-self.rows // self.tile)

    @property
    def single(self) -> bool:
        """Whether a tile has one element at every reduction index."""
        return self.tile == self.unit == 1

    @property
    def full_vectors(self) -> int:
        return -(-self.tile * self.unit // self.vector)

    @property
    def dense_vectors(self) -> int:
        """Vectors of all dense tiles at one reduction index."""
        full, rest = divmod(self.rows, self.tile)
        return full * self.full_vectors + -(-rest * self.unit // self.vector)


@dataclass(frozen=True)
class Totals:
    """Sums over tiles and reduction indices, per index (two masks) or in one number (an array of one)."""

    elements: Any
    vectors: Any
    present: Any
    """Tiles that hold any element."""


def tile_order(side: Side, greedy: bool = False) -> tuple[Ints, Ints]:
    """Tiles of every lane in every pass, int64 [passes, lanes, tiles of a lane], -1: none; passes alike, int64
    [passes].

    Without a mask all complete tiles are alike: tile 0 stands for them, tile 1 for an incomplete one.
    Greedy pairs need a mask: they put the densest tile of a pass with its sparsest on one lane, and so on inwards;
    where a pass has fewer than two tiles a lane, the densest stay alone.
    """
    if side.words is None:
        return _dense_order(side)
    depth = 2 if greedy else 1
    passes = -(-side.tiles // (side.lanes * depth))
    order = np.full(passes * side.lanes * depth, -1, np.int64)
    times = np.ones(passes, np.int64)
    if depth == 1:
        order[: side.tiles] = np.arange(side.tiles)
        return order.reshape(passes, side.lanes, 1), times
    counts = np.empty(side.rows, np.int64)
    count_rows(side.words, counts)
    kept = np.add.reduceat(counts, np.arange(0, side.rows, side.tile))
    order[: side.tiles] = np.argsort(-kept, kind="stable")
    paired = np.full((passes, side.lanes, 2), -1, np.int64)
    for g, members in enumerate(order.reshape(passes, 2 * side.lanes)):
        first, second = members[: side.lanes], members[side.lanes :]
        paired[g, :, 0] = first
        paired[g, :, 1] = second[::-1]
    return paired, times


def _dense_order(side: Side) -> tuple[Ints, Ints]:
    full, rest = divmod(side.rows, side.tile)
    passes, left = divmod(full, side.lanes)
    order = np.full((2, side.lanes, 1), -1, np.int64)
    order[0] = 0
    order[1, :left] = 0
    if rest:
        order[1, left] = 1
    return order, np.array((passes, 1 if left or rest else 0), np.int64)


def dense_columns(side: Side) -> tuple[Ints, Ints, Ints]:
    """Vectors of the dense tiles of a pass, lanes that have as many, passes alike; an incomplete pass comes last."""
    full, rest = divmod(side.rows, side.tile)
    passes, left = divmod(full, side.lanes)
    last = -(-rest * side.unit // side.vector)
    kinds = [((side.full_vectors, 0), (side.lanes, 0), passes)] if passes else []
    if left or rest:
        kinds.append(((side.full_vectors if left else 0, last), (left, 1 if rest else 0), 1))
    columns, shares, times = zip(*kinds, strict=True)
    return np.array(columns, np.int64), np.array(shares, np.int64), np.array(times, np.int64)


def masked_columns(side: Side) -> tuple[Ints, Ints, Ints]:
    """Tiles of the lanes of every pass, one entry a lane."""
    passes = -(-side.tiles // side.lanes)
    columns = np.full((passes, side.lanes), -1, np.int64)
    columns.ravel()[: side.tiles] = np.arange(side.tiles)
    return columns, np.ones_like(columns), np.ones(passes, np.int64)


def tile_elements(side: Side, reduction: int) -> Ints:
    """Elements of every tile at every reduction index, int64 [tiles, reduction]; without a mask of the complete and the
    incomplete tile."""
    if side.words is None:
        return np.array(
            [[side.tile * side.unit] * reduction, [side.rows % side.tile * side.unit] * reduction], np.int64
        )
    out = np.empty((side.tiles, reduction), np.int64)
    count_tiles(side.words, reduction * side.unit, side.tile, side.unit, out)
    return out


def tile_vectors(side: Side, reduction: int) -> Ints:
    """Vectors of every tile at every reduction index."""
    return -(-tile_elements(side, reduction) // side.vector)


def count_reads(first: Side, second: Side, held: int, reduction: int, known: Totals | None) -> tuple[int, int]:
    """Elements of the two operands that the lanes read.

    A vector is read for every vector of the other operand that it meets; a held one once for every tile that it meets.
    known: of the first operand, where they were counted already.
    """
    if second.words is None:
        a = known or one_side(first, reduction)
        elements, vectors = second.rows * second.unit, second.dense_vectors
        return (
            a.elements * (second.tiles if held == HELD_FIRST else vectors),
            elements * (a.present if held == HELD_SECOND else a.vectors),
        )
    a, b = (_per_side(side, reduction) for side in (first, second))
    return (
        int((a.elements * (b.present if held == HELD_FIRST else b.vectors)).sum()),
        int((b.elements * (a.present if held == HELD_SECOND else a.vectors)).sum()),
    )


def one_side(side: Side, reduction: int) -> Totals:
    """Totals in one number each."""
    if side.words is not None and side.single:
        counts = np.empty(side.rows, np.int64)
        count_rows(side.words, counts)
        return Totals(*(int(counts.sum()),) * 3)
    if side.words is None:
        return Totals(side.rows * side.unit * reduction, side.dense_vectors * reduction, side.tiles * reduction)
    elements = tile_elements(side, reduction)
    return Totals(int(elements.sum()), int((-(-elements // side.vector)).sum()), int(np.count_nonzero(elements)))


def _per_side(side: Side, reduction: int) -> Totals:
    if side.single and side.words is not None:
        columns = np.empty(side.words.shape[1] * 64, np.int64)
        count_columns(side.words, columns)
        return Totals(*(columns[:reduction],) * 3)
    elements = tile_elements(side, reduction)
    return Totals(elements.sum(0), (-(-elements // side.vector)).sum(0), np.count_nonzero(elements, axis=0))
