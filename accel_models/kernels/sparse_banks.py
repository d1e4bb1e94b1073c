"""Bank conflicts: of lanes that gather inputs from shared banks, and of products that scatter into accumulators."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel_models.kernels.masks import ALL, ONE, Words, bit, popcount
from accel_models.kernels.sparse_pass import Table

ZERO = np.uint64(0)
PLANES = 16
"""Bits of the loads of 64 banks that are counted side by side."""


class Scatter(NamedTuple):
    """Geometry of a lane's products: `vector` weights x `other_vector` inputs a cycle into banks with queues.

    Weights of a reduction index lie as [filter_height, filter_width], inputs as [tile_height, tile_width].
    """

    vector: int
    other_vector: int
    banks: int
    queue: int
    filter_height: int
    filter_width: int
    tile_height: int
    tile_width: int
    tile_outputs: int


@njit(cache=True, nogil=True)
def gather_conflicts(words: Words, order: Table, banks: int, window: int, width: int) -> int:
    """Cycles that lanes lose because inputs of one bank are picked more often than it can be read, over all passes.

    Element i lies in bank i % banks. A window holds the next `window` picks of every lane; inside it their order is
    free, and a schedule without conflicts takes as many cycles as the busiest lane or bank (Koenig 1916: a bipartite
    multigraph of maximal degree d has an edge colouring with d colours). order: int64 [passes, lanes, 1], -1: none.
    """
    conflicts = 0
    lanes, row_words = order.shape[1], words.shape[1]
    place = np.zeros(lanes, np.int64)
    left = np.zeros(lanes, np.uint64)
    load = np.zeros(banks, np.int64)
    planes = np.zeros(PLANES, np.uint64)
    waiting = np.zeros(8, np.uint64)
    sliced = 64 % banks == 0 and lanes * window < 2**PLANES  # a bank is a bit of the word, or of a part of it
    one_each = ALL >> np.uint64(64 - banks if sliced else 0)
    for o in range(order.shape[0]):
        for lane in range(lanes):
            row = order[o, lane, 0]
            place[lane] = row_words if row < 0 else 0
            left[lane] = words[row, 0] if row >= 0 else ZERO
        most = 1
        while most:
            load[:] = 0
            planes[:] = 0
            most = many = 0
            for lane in range(lanes):
                taken = 0
                while place[lane] < row_words:
                    word = left[lane]
                    count = popcount(word)
                    part = word if taken + count <= window else _lowest(word, window - taken)
                    if sliced:
                        for shift in range(0, 64, banks):
                            waiting[many & 7] = (part >> np.uint64(shift)) & one_each
                            many += 1
                            if many & 7 == 0:
                                _add_eight(planes, waiting)
                    else:
                        _add_places(load, part, 64 * place[lane], banks)
                    if part != word:
                        left[lane], taken = word ^ part, window
                        break
                    taken += count
                    place[lane] += 1
                    if place[lane] < row_words:
                        left[lane] = words[order[o, lane, 0], place[lane]]
                most = max(most, taken)
            for j in range(many & 7):
                _add_bits(planes, waiting[j], 0)
            busiest = _largest(planes) if sliced else load.max()
            conflicts += max(0, busiest - -(-most // width))
    return conflicts


@njit(cache=True, nogil=True)
def _lowest(word: np.uint64, count: int) -> np.uint64:
    """The lowest `count` set bits of a word that has more."""
    rest = word
    for _ in range(count):
        rest &= rest - ONE
    return word ^ rest


@njit(cache=True, nogil=True)
def _add_eight(planes: Words, words: Words) -> None:
    """Add eight words to the sums (Harley and Seal; Warren, section 5-1)."""
    ones, a = _carry_save(planes[0], words[0], words[1])
    ones, b = _carry_save(ones, words[2], words[3])
    twos, c = _carry_save(planes[1], a, b)
    ones, a = _carry_save(ones, words[4], words[5])
    ones, b = _carry_save(ones, words[6], words[7])
    twos, d = _carry_save(twos, a, b)
    fours, eights = _carry_save(planes[2], c, d)
    planes[0], planes[1], planes[2] = ones, twos, fours
    _add_bits(planes, eights, 3)


@njit(cache=True, nogil=True)
def _carry_save(a: np.uint64, b: np.uint64, c: np.uint64) -> tuple[np.uint64, np.uint64]:
    """(sum, carry) of three bits in every place."""
    either = a ^ b
    return either ^ c, (a & b) | (either & c)


@njit(cache=True, nogil=True)
def _add_bits(planes: Words, word: np.uint64, p: int) -> None:
    """Add 2^p to every bank whose bit is set; plane p holds bit p of the 64 sums."""
    while word:
        planes[p], word = planes[p] ^ word, planes[p] & word
        p += 1


@njit(cache=True, nogil=True)
def _largest(planes: Words) -> int:
    """Largest of the 64 sums, from its highest bit down."""
    largest, among = 0, ALL
    for p in range(planes.size - 1, -1, -1):
        those = among & planes[p]
        if those:
            among = those
            largest += 1 << p
    return largest


@njit(cache=True, nogil=True)
def _add_places(load: NDArray[np.int64], word: np.uint64, first: int, banks: int) -> None:
    while word:
        rest = word & (word - ONE)
        load[(first + popcount((word ^ rest) - ONE)) % banks] += 1
        word = rest


@njit(cache=True, nogil=True)
def scatter_passes(
    words: Words, other_words: Words, order: Table, columns: Table, reduction: int, scatter: Scatter
) -> int:
    """Cycles of all passes, each until its slowest lane has accumulated its last product.

    A cycle first retires one update of every bank's queue, then issues the next vector pair, unless one of its banks
    lacks room for all its updates (an empty queue takes any number). order, columns: as in `run_passes`.
    """
    total = 0
    weights = np.zeros(scatter.tile_outputs * scatter.filter_height * scatter.filter_width, np.int64)
    inputs = np.zeros(scatter.tile_height * scatter.tile_width, np.int64)
    for o in range(order.shape[0]):
        for q in range(columns.shape[0]):
            slowest = 0
            for lane in range(order.shape[1]):
                for p in range(columns.shape[1]):
                    if order[o, lane, 0] >= 0 and columns[q, p] >= 0:
                        first = order[o, lane, 0] * scatter.tile_outputs
                        cycles = _scatter_lane(
                            words, other_words, first, columns[q, p], reduction, scatter, weights, inputs
                        )
                        slowest = max(slowest, cycles)
            total += slowest
    return total


@njit(cache=True, nogil=True)
def _scatter_lane(
    words: Words,
    other_words: Words,
    first: int,
    column: int,
    reduction: int,
    scatter: Scatter,
    weights: NDArray[np.int64],
    inputs: NDArray[np.int64],
) -> int:
    queued = np.zeros(scatter.banks, np.int32)
    arriving = np.zeros(scatter.banks, np.int32)
    cycles = 0
    for k in range(reduction):
        n_inputs = _input_places(other_words, column, k, scatter, inputs)
        if n_inputs == 0:
            continue
        n_weights = _weight_places(words, first, k, scatter, weights)
        for i in range(0, n_inputs, scatter.other_vector):
            for w in range(0, n_weights, scatter.vector):
                arriving[:] = 0
                for a in range(i, min(i + scatter.other_vector, n_inputs)):
                    for b in range(w, min(w + scatter.vector, n_weights)):
                        place = inputs[a] + weights[b]
                        arriving[place - scatter.banks if place >= scatter.banks else place] += 1
                cycles += _cycles_to_issue(queued, arriving, scatter.queue)
    return cycles + max(0, queued.max() - 1)


@njit(cache=True, nogil=True)
def _cycles_to_issue(queued: NDArray[np.int32], arriving: NDArray[np.int32], queue: int) -> int:
    """Retire one update of every bank a cycle until all updates of a vector pair have room, and add them."""
    cycles, full = 0, 1
    while full:
        cycles += 1
        full = 0
        for j in range(queued.size):
            left = max(queued[j] - 1, 0)
            queued[j] = left
            full |= (arriving[j] > 0) & (left > 0) & (left + arriving[j] > queue)
    for j in range(queued.size):
        queued[j] += arriving[j]
    return cycles


@njit(cache=True, nogil=True)
def _weight_places(words: Words, first: int, k: int, scatter: Scatter, out: NDArray[np.int64]) -> int:
    """Share of the kept weights of reduction index k in the place of an update, modulo the banks, in mask order."""
    n, size = 0, scatter.filter_height * scatter.filter_width
    high, wide = scatter.tile_height + scatter.filter_height - 1, scatter.tile_width + scatter.filter_width - 1
    for output in range(min(scatter.tile_outputs, words.shape[0] - first)):
        for i in range(size):
            if bit(words, first + output, k * size + i):
                y = scatter.filter_height - 1 - i // scatter.filter_width
                x = scatter.filter_width - 1 - i % scatter.filter_width
                out[n] = ((output * high + y) * wide + x) % scatter.banks
                n += 1
    return n


@njit(cache=True, nogil=True)
def _input_places(words: Words, column: int, k: int, scatter: Scatter, out: NDArray[np.int64]) -> int:
    """The same of the kept inputs of reduction index k in the lane's tile."""
    n, size = 0, scatter.tile_height * scatter.tile_width
    wide = scatter.tile_width + scatter.filter_width - 1
    for i in range(size):
        if bit(words, column, k * size + i):
            out[n] = (i // scatter.tile_width * wide + i % scatter.tile_width) % scatter.banks
            n += 1
    return n
