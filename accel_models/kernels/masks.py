"""Set bits of packed masks: per row, column, tile and lane. Numbers in, numbers out.

A mask is `words: uint64[rows, ceil(row_bits / 64)]`: element i of a row is bit i % 64, from the least significant, of
word i // 64; bits past `row_bits` are 0. Popcounts are written so that LLVM knows them for one instruction, which
keeps a pass near the speed of reading the words.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import config, njit
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Counts = NDArray[np.int64]

ONE, TWO, FOUR, TOP_BYTE = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)
PAIRS, NIBBLES, BYTES = (np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F))
BYTE_SUM = np.uint64(0x0101010101010101)
LOW_SIX = 63
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


class LaneWork(NamedTuple):
    """What lanes that wait for each other do: `steps` of the slowest lane of every group, and set bits in all."""

    steps: int
    total: int


if config.DISABLE_JIT:  # type: ignore[attr-defined]

    def popcount(word: np.uint64) -> int:
        """Set bits of one word; without the compiler its multiplication would warn of the overflow that is meant."""
        return int(word).bit_count()

else:

    @njit(cache=True)
    def popcount(word: np.uint64) -> int:
        """Set bits of one word: sums in pairs, nibbles and bytes, and the bytes by a product (Warren, fig. 5-2)."""
        word = word - ((word >> ONE) & PAIRS)
        word = (word & NIBBLES) + ((word >> TWO) & NIBBLES)
        word = (word + (word >> FOUR)) & BYTES
        return np.int64((word * BYTE_SUM) >> TOP_BYTE)  # type: ignore[return-value]


@njit(cache=True)
def bit(words: Words, row: int, i: int) -> int:
    """Element i of a row: 0 or 1."""
    return np.int64((words[row, i >> 6] >> np.uint64(i & LOW_SIX)) & ONE)  # type: ignore[return-value]


@njit(cache=True)
def count_range(words: Words, row: int, start: int, stop: int) -> int:
    """Set bits among elements start..stop-1 of a row; 0 where stop <= start."""
    if stop <= start:
        return 0
    first, last = start >> 6, (stop - 1) >> 6
    head = ALL << np.uint64(start & LOW_SIX)
    tail = ALL >> np.uint64(LOW_SIX - ((stop - 1) & LOW_SIX))
    if first == last:
        return popcount(words[row, first] & head & tail)
    total = popcount(words[row, first] & head) + popcount(words[row, last] & tail)
    for j in range(first + 1, last):
        total += popcount(words[row, j])
    return total


@njit(cache=True)
def count_rows(words: Words, out: Counts) -> None:
    """Set bits of every row into out[rows]."""
    for row in range(words.shape[0]):
        total = 0
        for j in range(words.shape[1]):
            total += popcount(words[row, j])
        out[row] = total


@njit(cache=True)
def count_columns(words: Words, out: Counts) -> None:
    """Set bits of every column into out[64 x words of a row], which is cleared first."""
    out[:] = 0
    for row in range(words.shape[0]):
        for j in range(words.shape[1]):
            word = words[row, j]
            if word:
                for i in range(64):
                    out[64 * j + i] += np.int64((word >> np.uint64(i)) & ONE)


@njit(cache=True)
def count_tiles(words: Words, row_bits: int, tile_rows: int, tile_bits: int, out: Counts) -> None:
    """Set bits of every tile of tile_rows x tile_bits, edge tiles included, into out[tiles down, tiles across]."""
    out[:] = 0
    across = out.shape[1]
    if 64 % tile_bits == 0:
        _count_parts(words, tile_rows, tile_bits, out)
        return
    for row in range(words.shape[0]):
        down = row // tile_rows
        for tile in range(across):
            start = tile * tile_bits
            out[down, tile] += count_range(words, row, start, min(start + tile_bits, row_bits))


@njit(cache=True)
def _count_parts(words: Words, tile_rows: int, tile_bits: int, out: Counts) -> None:
    """Tiles that never cross a word: parts of it are masked and counted."""
    parts = 64 // tile_bits
    part = ALL >> np.uint64(64 - tile_bits)
    for row in range(words.shape[0]):
        down = row // tile_rows
        for j in range(words.shape[1]):
            for i in range(min(parts, out.shape[1] - j * parts)):
                out[down, j * parts + i] += popcount((words[row, j] >> np.uint64(i * tile_bits)) & part)


@njit(cache=True)
def count_lanes(words: Words, row_bits: int, lanes: int, tile_bits: int) -> LaneWork:
    """Work of `lanes` PEs that take neighbouring rows, a set bit a step, and wait for the slowest after every tile."""
    steps = total = 0
    rows = words.shape[0]
    across = -(-row_bits // tile_bits)
    aligned = across == 1 or tile_bits % 64 == 0
    tile_words = words.shape[1] if across == 1 else tile_bits // 64
    for first in range(0, rows, lanes):
        last = min(first + lanes, rows)
        for tile in range(across):
            slowest = 0
            for row in range(first, last):
                if aligned:
                    count = _count_words(words, row, tile * tile_words, min((tile + 1) * tile_words, words.shape[1]))
                else:
                    count = count_range(words, row, tile * tile_bits, min((tile + 1) * tile_bits, row_bits))
                total += count
                slowest = max(slowest, count)
            steps += slowest
    return LaneWork(steps, total)


@njit(cache=True)
def _count_words(words: Words, row: int, first: int, last: int) -> int:
    part = words[row, first:last]  # indices from 0 need no wrap-around check, so the loop becomes vector code
    total = 0
    for j in range(part.size):
        total += popcount(part[j])
    return total
