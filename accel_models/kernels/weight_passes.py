"""Passes of lanes that skip weights, near the speed of reading the masks: whole networks in one call.

The same cycles as `sparse_pass.run_passes` finds for these arrays, for one group of pixels that takes one vector.
`layers` is int64 [layers, 4]: first word in `flat`, rows, words of a row, elements of a row. Every kernel fills one row
of `out` for every layer, with the columns below.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel_models.kernels.bit_vectors import Row, add_columns, count_words, fold_fields
from accel_models.kernels.masks import popcount

Table = NDArray[np.int64]
TOTAL, WAITED, BALANCED, BUSY, KEPT, VECTORS, PRESENT = range(7)
"""Sums over passes: cycles of the slowest lane with and without metadata, mean of the lanes (rounded up), of all lanes.
Then of all tiles: elements, vectors, and indices with any."""
COLUMNS = 7


@njit(cache=True, nogil=True)
def field_passes(
    flat: Row,
    layers: Table,
    lanes: int,
    size: int,
    fields: tuple[np.integer[Any], ...],
    least: int,
    metadata: int,
    out: Table,
) -> None:
    """Lanes of one row that wait for each other after every segment of `size` elements: 4, 8, 16, 32 or 64.

    fields: as in `fold_fields`; metadata: cycles of a segment before its first product.
    """
    for i in range(layers.shape[0]):
        offset, rows, row_words, row_bits = layers[i, 0], layers[i, 1], layers[i, 2], layers[i, 3]
        behind = 64 * row_words // size - -(-row_bits // size)  # fields past the end of a row are none
        segments = -(-row_bits // size)
        out[i] = 0
        for first in range(0, rows, lanes):
            many = min(lanes, rows - first)
            waited, busy, kept = -least * behind, -least * behind * many, 0
            at = offset + first * row_words
            end = at + row_words
            while at < end:
                if at + 8 <= end:
                    part = fold_fields(flat, at, row_words, many, least, fields, 8)
                    at += 8
                elif at + 4 <= end:
                    part = fold_fields(flat, at, row_words, many, least, fields, 4)
                    at += 4
                else:
                    part = fold_fields(flat, at, row_words, many, least, fields, 1)
                    at += 1
                waited += part[0]
                busy += part[1]
                kept += part[2]
            _add_pass(out[i], waited, waited + metadata * segments, busy, many, kept)
        out[i, VECTORS] = out[i, PRESENT] = out[i, KEPT]


@njit(cache=True, nogil=True)
def row_passes(
    flat: Row, layers: Table, lanes: int, width: int, least: int, metadata: NDArray[np.int64], out: Table
) -> None:
    """Lanes of one row that wait at the end of the row; metadata: int64 [layers], cycles of a row."""
    for i in range(layers.shape[0]):
        offset, rows, row_words = layers[i, 0], layers[i, 1], layers[i, 2]
        out[i] = 0
        for first in range(0, rows, lanes):
            many = min(lanes, rows - first)
            waited = busy = kept = 0
            for row in range(first, first + many):
                bits = count_words(flat, offset + row * row_words, row_words)
                work = max(least, bits if width == 1 else -(-bits // width))
                kept += bits
                busy += work
                waited = max(waited, work)
            _add_pass(out[i], waited, waited + metadata[i], busy, many, kept)
        out[i, VECTORS] = out[i, PRESENT] = out[i, KEPT]


@njit(cache=True, nogil=True)
def ahead_passes(
    flat: Row,
    layers: Table,
    lanes: int,
    step: int,
    look_ahead: int,
    width: int,
    least: int,
    metadata: int,
    out: Table,
) -> None:
    """Lanes of one row that share a buffer of `look_ahead` segments of `step` words; 0: of all."""
    for i in range(layers.shape[0]):
        offset, rows, row_words = layers[i, 0], layers[i, 1], layers[i, 2]
        segments = -(-row_words // step)
        work = np.empty(lanes * segments, np.int32)
        finish = np.empty(lanes, np.int32)
        freed = np.empty(look_ahead if look_ahead else segments, np.int32)
        out[i] = 0
        for first in range(0, rows, lanes):
            many = min(lanes, rows - first)
            start = offset + first * row_words
            jobs = work[: many * segments]
            kept = _count_segments(flat[start : start + many * row_words], row_words, step, jobs)
            busy = kept
            if width != 1 or least != 0:
                busy = 0
                for j in range(jobs.size):
                    jobs[j] = max(least, -(-np.int64(jobs[j]) // width))
                    busy += jobs[j]
            waited = _wait_ahead(jobs, segments, finish[:many], freed, 0)
            total = waited if metadata == 0 else _wait_ahead(jobs, segments, finish[:many], freed, metadata)
            _add_pass(out[i], waited, total, busy, many, kept)
        out[i, VECTORS] = out[i, PRESENT] = out[i, KEPT]


@njit(cache=True, nogil=True)
def _count_segments(words: Row, row_words: int, step: int, jobs: NDArray[np.int32]) -> int:
    """Set bits of every segment of `step` words of every row; their sum. One long loop where rows have whole ones."""
    if step == 2 and row_words % 2 == 0:
        for j in range(jobs.size):
            jobs[j] = popcount(words[2 * j]) + popcount(words[2 * j + 1])
    else:
        jobs[:] = 0
        segments = -(-row_words // step)
        for row in range(words.size // row_words):
            for j in range(row_words):
                jobs[row * segments + j // step] += popcount(words[row * row_words + j])
    kept = 0
    for j in range(jobs.size):
        kept += jobs[j]
    return kept


@njit(cache=True, nogil=True)
def _wait_ahead(
    jobs: NDArray[np.int32], segments: int, finish: NDArray[np.int32], freed: NDArray[np.int32], metadata: int
) -> int:
    """Cycles until the slowest lane is done; the slot of a segment is free when every lane is done with it."""
    finish[:] = 0
    freed[:] = 0
    last, more = np.int32(0), np.int32(metadata)
    for s in range(segments):
        gate, own = freed[s % freed.size], jobs[s:]
        last = np.int32(0)
        for lane in range(finish.size):
            done = np.int32(np.int32(max(finish[lane], gate) + more) + own[lane * segments])
            finish[lane] = done
            last = max(last, done)
        freed[s % freed.size] = last
    return np.int64(last)  # type: ignore[return-value]


@njit(cache=True, nogil=True)
def tile_sums(flat: Row, layers: Table, tile_rows: int, shift: int, sums: Table) -> None:
    """Elements, vectors of 2^shift elements and occupied indices of tiles of rows, into sums[tiles, 3], layer by layer.

    A tile has one element of each of its rows at a reduction index; at most `bit_vectors.MOST_ROWS` rows.
    """
    tile = 0
    for i in range(layers.shape[0]):
        offset, rows, row_words = layers[i, 0], layers[i, 1], layers[i, 2]
        for first in range(0, rows, tile_rows):
            many = min(tile_rows, rows - first)
            kept = vectors = present = 0
            at = offset + first * row_words
            end = at + row_words
            while at < end:
                if at + 8 <= end:
                    part = add_columns(flat, at, row_words, many, shift, 8)
                    at += 8
                elif at + 4 <= end:
                    part = add_columns(flat, at, row_words, many, shift, 4)
                    at += 4
                else:
                    part = add_columns(flat, at, row_words, many, shift, 1)
                    at += 1
                kept += part[0]
                vectors += part[1]
                present += part[2]
            sums[tile, 0], sums[tile, 1], sums[tile, 2] = kept, vectors, present
            tile += 1


@njit(cache=True, nogil=True)
def tile_passes(
    layers: Table,
    sums: Table,
    tile_rows: int,
    lanes: int,
    met: tuple[int, int, int],
    metadata: Table,
    out: Table,
) -> None:
    """Lanes of one tile that wait at the end of the row, from `tile_sums`.

    met: vectors of the other operand, of the lane with the most and of all, and those lanes. metadata: int64
    [layers, 3], cycles of a pass, of a tile's vector, of an occupied index of it.
    """
    tile = 0
    for i in range(layers.shape[0]):
        tiles = -(-layers[i, 1] // tile_rows)
        out[i] = 0
        for first in range(0, tiles, lanes):
            many = min(lanes, tiles - first)
            waited = total = busy = kept = 0
            for t in range(tile, tile + many):
                work = met[0] * sums[t, 1]
                more = metadata[i, 0] + metadata[i, 1] * sums[t, 1] + metadata[i, 2] * sums[t, 2]
                waited, total = max(waited, work), max(total, work + more)
                busy += met[1] * sums[t, 1]
                kept += sums[t, 0]
                out[i, VECTORS] += sums[t, 1]
                out[i, PRESENT] += sums[t, 2]
            tile += many
            _add_pass(out[i], waited, total, busy, many * met[2], kept)


@njit(cache=True, nogil=True)
def _add_pass(out: NDArray[np.int64], waited: int, total: int, busy: int, lanes: int, kept: int) -> None:
    out[TOTAL] += total
    out[WAITED] += waited
    out[BALANCED] += -(-busy // lanes)
    out[BUSY] += busy
    out[KEPT] += kept
