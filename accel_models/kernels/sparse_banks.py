"""Bank conflicts: of lanes that gather inputs from shared banks, and of products that scatter into accumulators."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel_models.kernels.masks import ONE, Words, bit, popcount
from accel_models.kernels.sparse_pass import Table


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
    lanes, width_words = order.shape[1], words.shape[1]
    place = np.zeros(lanes, np.int64)
    left = np.zeros(lanes, np.uint64)
    load = np.zeros(banks, np.int64)
    in_word = 64 % banks == 0  # then the bank does not depend on the word
    for o in range(order.shape[0]):
        for lane in range(lanes):
            row = order[o, lane, 0]
            place[lane] = width_words if row < 0 else 0
            left[lane] = words[row, 0] if row >= 0 else np.uint64(0)
        most = 1
        while most:
            load[:] = 0
            most = 0
            for lane in range(lanes):
                taken = 0
                while taken < window and place[lane] < width_words:
                    word = left[lane]
                    if word == 0:
                        place[lane] += 1
                        if place[lane] < width_words:
                            left[lane] = words[order[o, lane, 0], place[lane]]
                        continue
                    rest = word & (word - ONE)
                    i = popcount((word ^ rest) - ONE)
                    load[i & (banks - 1) if in_word else (64 * place[lane] + i) % banks] += 1
                    left[lane] = rest
                    taken += 1
                most = max(most, taken)
            conflicts += max(0, load.max() - -(-most // width))
    return conflicts


@njit(cache=True, nogil=True)
def scatter_passes(
    words: Words, other_words: Words, order: Table, columns: Table, reduction: int, scatter: Scatter
) -> int:
    """Cycles of all passes, each until its slowest lane has accumulated its last product.

    A cycle first retires one update of every bank's queue, then issues the next vector pair, unless one of its banks
    lacks room for all its updates (an empty queue takes any number). order, columns: as in `run_passes`.
    """
    total = 0
    weights = np.zeros((scatter.tile_outputs * scatter.filter_height * scatter.filter_width, 3), np.int64)
    inputs = np.zeros((scatter.tile_height * scatter.tile_width, 2), np.int64)
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
    queued = np.zeros(scatter.banks, np.int64)
    arriving = np.zeros(scatter.banks, np.int64)
    high = scatter.tile_height + scatter.filter_height - 1
    wide = scatter.tile_width + scatter.filter_width - 1
    cycles = 0
    for k in range(reduction):
        n_weights = _nonzero_weights(words, first, k, scatter, weights)
        n_inputs = _nonzero_inputs(other_words, column, k, scatter, inputs)
        for i in range(0, n_inputs, scatter.other_vector):
            for w in range(0, n_weights, scatter.vector):
                arriving[:] = 0
                for a in range(i, min(i + scatter.other_vector, n_inputs)):
                    for b in range(w, min(w + scatter.vector, n_weights)):
                        y = inputs[a, 0] - weights[b, 1] + scatter.filter_height - 1
                        x = inputs[a, 1] - weights[b, 2] + scatter.filter_width - 1
                        arriving[((weights[b, 0] * high + y) * wide + x) % scatter.banks] += 1
                room = False
                while not room:
                    cycles += 1
                    room = True
                    for j in range(scatter.banks):
                        queued[j] = max(queued[j] - 1, 0)
                        if arriving[j] and queued[j] and queued[j] + arriving[j] > scatter.queue:
                            room = False
                queued += arriving
    return cycles + max(0, queued.max() - 1)


@njit(cache=True, nogil=True)
def _nonzero_weights(words: Words, first: int, k: int, scatter: Scatter, out: NDArray[np.int64]) -> int:
    """Output, filter row and filter column of the kept weights of reduction index k, in the order of the mask."""
    n, size = 0, scatter.filter_height * scatter.filter_width
    for output in range(min(scatter.tile_outputs, words.shape[0] - first)):
        for i in range(size):
            if bit(words, first + output, k * size + i):
                out[n, 0], out[n, 1], out[n, 2] = output, i // scatter.filter_width, i % scatter.filter_width
                n += 1
    return n


@njit(cache=True, nogil=True)
def _nonzero_inputs(words: Words, column: int, k: int, scatter: Scatter, out: NDArray[np.int64]) -> int:
    """Row and column of the kept inputs of reduction index k in the lane's tile."""
    n, size = 0, scatter.tile_height * scatter.tile_width
    for i in range(size):
        if bit(words, column, k * size + i):
            out[n, 0], out[n, 1] = i // scatter.tile_width, i % scatter.tile_width
            n += 1
    return n
