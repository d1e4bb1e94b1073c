"""Cycles of lanes that multiply non-zeros, segment by segment, and wait for each other.

A lane owns a tile of outputs and a tile of pixels. At reduction index k its tile holds w[k] non-zero weights and a[k]
non-zero inputs; it multiplies F of the one by I of the other in a cycle, or V indices k of a segment together:

    work(segment) = max(least, ceil(sum over k of ceil(w[k] / F) * ceil(a[k] / I) / V))

The operands of a segment are fetched once for all lanes of a pass into a buffer of `look_ahead` segments; a slot is
free when every lane is done with it: finish[lane, s] = max(finish[lane, s - 1], max over lanes of
finish[:, s - look_ahead]) + work. Numbers in, numbers out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel_models.kernels.masks import ALL, LOW_SIX, Words, count_range, popcount

WEIGHT_BITS, BOTH_BITS, WEIGHT_COUNTS, BOTH_COUNTS = 0, 1, 2, 3
"""What is skipped and how it is counted: bits where a tile is one row of one element, vectors of F and I otherwise."""
HELD_NONE, HELD_FIRST, HELD_SECOND = 0, 1, 2
"""Which operand's vector stays in its registers while those of the other one stream past."""
Vectors = NDArray[np.int64]
Table = NDArray[np.int64]


class Timing(NamedTuple):
    """What a lane does with its non-zeros."""

    reduction: int
    segment: int
    width: int
    look_ahead: int
    """Segments in the shared buffer; 0: all of them."""
    least: int
    segment_cycles: int
    """Metadata: cycles a segment takes before its first product."""
    latch_cycles: int
    """Metadata: cycles to latch a vector of the held operand."""
    held: int


class PassCycles(NamedTuple):
    """Sums over passes, in cycles."""

    total: int
    """With metadata."""
    waited: int
    """Without: until the slowest lane of every pass is done."""
    balanced: int
    """The mean of the lanes that have a tile, rounded up per pass."""
    busy: int
    """Of all lanes together."""


@njit(cache=True, nogil=True)
def run_passes(
    mode: int,
    words: Words,
    other_words: Words,
    vectors: Vectors,
    other_vectors: Vectors,
    order: Table,
    order_times: Table,
    columns: Table,
    shares: Table,
    times: Table,
    timing: Timing,
) -> PassCycles:
    """All passes: every group of output tiles in `order` meets every group of pixel tiles in `columns`.

    words, other_words: masks of the skipped operand and of the other one, uint64 (BITS modes). vectors, other_vectors:
    ceil(w / F) and ceil(a / I), int64 [tiles, reduction] (COUNTS modes). order: int64 [passes, lanes, tiles of a lane],
    -1: none; order_times: int64 [passes], equal ones that one entry stands for. columns: int64 [groups, lanes], a
    pixel tile, -1: none; in the WEIGHT modes the vectors that a dense tile takes, 0: no tile. shares: int64
    [groups, lanes], equal lanes that one entry stands for. times: int64 [groups], equal groups.
    """
    total = waited = balanced = busy = 0
    for o in range(order.shape[0]):
        for q in range(columns.shape[0]):
            one = _one_pass(mode, words, other_words, vectors, other_vectors, order[o], columns[q], shares[q], timing)
            repeats = order_times[o] * times[q]
            total += repeats * one.total
            waited += repeats * one.waited
            balanced += repeats * one.balanced
            busy += repeats * one.busy
    return PassCycles(total, waited, balanced, busy)


@njit(cache=True, nogil=True)
def _one_pass(
    mode: int,
    words: Words,
    other_words: Words,
    vectors: Vectors,
    other_vectors: Vectors,
    rows: Table,
    columns: Table,
    shares: Table,
    timing: Timing,
) -> PassCycles:
    lanes, depth, across = rows.shape[0], rows.shape[1], columns.size
    segments = -(-timing.reduction // timing.segment)
    slots = timing.look_ahead if 0 < timing.look_ahead < segments else 0
    finish = np.zeros((2, lanes * across), np.int64)
    freed = np.zeros((2, max(slots, 1)), np.int64)
    busy = 0
    for s in range(segments):
        start, stop = s * timing.segment, min((s + 1) * timing.segment, timing.reduction)
        slot = s % slots if slots and s >= slots else -1
        gate, gate_metadata = (freed[0, slot], freed[1, slot]) if slot >= 0 else (0, 0)
        last = last_metadata = 0
        for lane in range(lanes):
            if rows[lane, 0] < 0:
                continue
            for p in range(across):
                column, i = columns[p], lane * across + p
                if column < 0 or (column == 0 and mode in (WEIGHT_BITS, WEIGHT_COUNTS)):
                    continue
                work, metadata = 0, timing.segment_cycles
                for d in range(depth):
                    if rows[lane, d] < 0:
                        continue
                    items, latches = _tile_items(
                        mode,
                        words,
                        other_words,
                        vectors,
                        other_vectors,
                        rows[lane, d],
                        column,
                        start,
                        stop,
                        timing.held,
                    )
                    work += max(timing.least, -(-items // timing.width))
                    metadata += timing.latch_cycles * latches
                busy += work * shares[p]
                finish[0, i] = max(finish[0, i], gate) + work
                finish[1, i] = max(finish[1, i], gate_metadata) + work + metadata
                last, last_metadata = max(last, finish[0, i]), max(last_metadata, finish[1, i])
        if slots:
            freed[0, s % slots], freed[1, s % slots] = last, last_metadata
    occupied = 0
    for lane in range(lanes):
        for p in range(across):
            if rows[lane, 0] >= 0 and (columns[p] > 0 or (columns[p] == 0 and mode in (BOTH_BITS, BOTH_COUNTS))):
                occupied += shares[p]
    balanced = -(-busy // occupied) if occupied else 0
    return PassCycles(finish[1].max(), finish[0].max(), balanced, busy)


@njit(cache=True, nogil=True)
def _tile_items(
    mode: int,
    words: Words,
    other_words: Words,
    vectors: Vectors,
    other_vectors: Vectors,
    row: int,
    column: int,
    start: int,
    stop: int,
    held: int,
) -> tuple[int, int]:
    """Pairs of vectors that a tile multiplies in a segment, and vectors that it latches for them."""
    items = latches = 0
    if mode == WEIGHT_BITS:
        items = count_range(words, row, start, stop) * column
        if held != HELD_NONE:
            latches = items // column if held == HELD_FIRST else items
    elif mode == BOTH_BITS:
        items = count_both(words, other_words, row, column, start, stop)
        latches = items if held != HELD_NONE else 0
    elif mode == WEIGHT_COUNTS:
        present = 0
        for k in range(start, stop):
            items += vectors[row, k]
            present += vectors[row, k] > 0
        if held != HELD_NONE:
            latches = items if held == HELD_FIRST else present * column
        items *= column
    else:
        for k in range(start, stop):
            items += vectors[row, k] * other_vectors[column, k]
        if held != HELD_NONE:
            for k in range(start, stop):
                first, second = vectors[row, k], other_vectors[column, k]
                if first > 0 and second > 0:
                    latches += first if held == HELD_FIRST else second
    return items, latches


@njit(cache=True, nogil=True)
def count_both(words: Words, other_words: Words, row: int, column: int, start: int, stop: int) -> int:
    """Elements start..stop-1 that are set in a row of the one mask and in a row of the other."""
    first, last = start >> 6, (stop - 1) >> 6
    head = ALL << np.uint64(start & LOW_SIX)
    tail = ALL >> np.uint64(LOW_SIX - ((stop - 1) & LOW_SIX))
    if first == last:
        return popcount(words[row, first] & other_words[column, first] & head & tail)
    total = popcount(words[row, first] & other_words[column, first] & head)
    total += popcount(words[row, last] & other_words[column, last] & tail)
    for j in range(first + 1, last):
        total += popcount(words[row, j] & other_words[column, j])
    return total
