"""Fast passes of lanes that skip weights, one row each, and wait for the slowest after every segment.

The same cycles as `sparse_pass.run_passes` finds for these arrays, near the speed of reading the words: the segments of
a word are counted, compared and summed side by side in its fields (Warren, Hacker's Delight, sections 2-18 and 5-1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel_models.kernels.masks import ALL, BYTES, FOUR, NIBBLES, ONE, PAIRS, TWO, Words, popcount

EIGHT, SIXTEEN, ZERO = np.uint64(8), np.uint64(16), np.uint64(0)
HALVES, WORDS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
NIBBLE_PAIRS, LOW_HALF = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0xFFFFFFFF)
Row = NDArray[np.uint64]
PACKED = (4, 8, 16, 32)
"""Segments that are counted side by side."""


class LanePasses(NamedTuple):
    """Sums over passes: cycles of the slowest lane, mean of the lanes (rounded up), of all lanes; set bits."""

    waited: int
    balanced: int
    busy: int
    kept: int


@njit(cache=True, nogil=True)
def network_passes(
    flat: Row, layers: NDArray[np.int64], lanes: int, segment: int, width: int, least: int, out: NDArray[np.int64]
) -> None:
    """One pass over all layers of a network. flat: uint64, their words one after the other; layers: int64 [layers, 4],
    offset, rows, words of a row, elements of a row; out: int64 [layers, 4], as `LanePasses`. segment 0: a whole row."""
    for i in range(layers.shape[0]):
        offset, rows, row_words, row_bits = layers[i, 0], layers[i, 1], layers[i, 2], layers[i, 3]
        words = flat[offset : offset + rows * row_words].reshape(rows, row_words)
        one = lane_passes(words, row_bits, lanes, segment if segment else row_bits, width, least)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = one.waited, one.balanced, one.busy, one.kept


@njit(cache=True, nogil=True)
def lane_passes(words: Words, row_bits: int, lanes: int, segment: int, width: int, least: int) -> LanePasses:
    """All passes of `lanes` neighbouring rows; segment: the row, a multiple of 64, or one of `PACKED`."""
    waited = balanced = busy = kept = 0
    row_words = words.shape[1]
    packed = segment < row_bits and segment % 64 != 0
    step = row_words if segment >= row_bits else segment // 64
    field_ones = ALL // (ALL >> np.uint64(64 - segment)) if packed else ONE
    most = np.zeros(row_words, np.uint64)
    for first in range(0, words.shape[0], lanes):
        last = min(first + lanes, words.shape[0])
        if packed:
            steps, total, bits = _packed_pass(words[first:last], row_bits, segment, width, least, field_ones, most)
        else:
            steps, total, bits = _word_pass(words[first:last], step, width, least)
        waited += steps
        busy += total
        kept += bits
        balanced += -(-total // (last - first))
    return LanePasses(waited, balanced, busy, kept)


@njit(cache=True, nogil=True)
def _word_pass(words: Words, step: int, width: int, least: int) -> tuple[int, int, int]:
    """Segments of whole words."""
    waited = busy = kept = 0
    for start in range(0, words.shape[1], step):
        slowest = 0
        for row in range(words.shape[0]):
            part = words[row, start : min(start + step, words.shape[1])]
            bits = 0
            for j in range(part.size):
                bits += popcount(part[j])
            work = bits if width == 1 else -(-bits // width)
            work = max(work, least)
            kept += bits
            busy += work
            slowest = max(slowest, work)
        waited += slowest
    return waited, busy, kept


@njit(cache=True, nogil=True)
def _packed_pass(
    words: Words, row_bits: int, segment: int, width: int, least: int, ones: np.uint64, most: Row
) -> tuple[int, int, int]:
    """Segments inside a word: each field of `most` takes the largest count of the lanes."""
    row_words, per_word = words.shape[1], 64 // segment
    top = ones << np.uint64(segment - 1)
    most[:] = ZERO
    kept = above = nonzero = 0
    for row in range(words.shape[0]):
        part = words[row]
        for j in range(row_words):
            kept += popcount(part[j])
            x = _fields(part[j], segment)
            less = ((most[j] | top) - x) & top
            keep = (less - (less >> np.uint64(segment - 1))) | less
            most[j] = (most[j] & keep) | (x & ~keep)
            nonzero += popcount(((x | top) - ones) & top)
        if width == 1 and least < 2:
            continue
        for level in range(least * width + 1, segment + 1, width):
            limit = ones * np.uint64(level)
            for j in range(row_words):
                above += popcount(((_fields(part[j], segment) | top) - limit) & top)
    segments = -(-row_bits // segment)
    waited = least * (segments - per_word * row_words)  # fields behind the end of a row are none
    for j in range(row_words):
        if width == 1 and least < 2:
            empty = per_word - popcount(((most[j] | top) - ones) & top)
            waited += _sum_fields(most[j], segment) + least * empty
            continue
        x = most[j]
        for _ in range(per_word):
            count = np.int64(x & (ALL >> np.uint64(64 - segment)))
            waited += max(least, -(-count // width))
            x >>= np.uint64(segment)
    fields = words.shape[0] * segments
    if width == 1 and least < 2:
        return waited, kept + (fields - nonzero if least == 1 else 0), kept
    return waited, least * fields + above, kept


@njit(cache=True, nogil=True)
def _fields(x: np.uint64, segment: int) -> np.uint64:
    """Set bits of every field of 4, 8, 16 or 32 bits, in that field."""
    x = x - ((x >> ONE) & PAIRS)
    x = (x & NIBBLES) + ((x >> TWO) & NIBBLES)
    if segment >= 8:
        x = (x + (x >> FOUR)) & BYTES
    if segment >= 16:
        x = (x + (x >> EIGHT)) & HALVES
    if segment >= 32:
        x = (x + (x >> SIXTEEN)) & WORDS
    return x


@njit(cache=True, nogil=True)
def _sum_fields(x: np.uint64, segment: int) -> int:
    """Sum of the fields of a word."""
    if segment < 8:
        x = (x & NIBBLE_PAIRS) + ((x >> FOUR) & NIBBLE_PAIRS)
    if segment < 16:
        x = (x & HALVES) + ((x >> EIGHT) & HALVES)
    if segment < 32:
        x = (x & WORDS) + ((x >> SIXTEEN) & WORDS)
    return int(np.int64((x & LOW_HALF) + (x >> np.uint64(32))))
