"""Second-order removal of the units of a row, one by one: numbers in, numbers out; what it is for is said in `refit`.

A row of weights comes in blocks of inputs that are taken to be uncorrelated: [blocks, width], with the inverse of the
inputs' covariance, [blocks, width, width]. A unit is `size` neighbouring weights of one block.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def unit_cost(weight, inverse, at, part, block):  # type: ignore[no-untyped-def]
    """Error that the loss of the weights from `at` on adds when the others are refitted; `part`, `block`: scratch."""
    size, cost = part.size, 0.0
    for i in range(size):
        part[i] = weight[at + i]
        for j in range(size):
            block[i, j] = inverse[at + i, at + j]
    for i in range(size):
        cost += part[i] * part[i] / block[i, i]
        for j in range(i + 1, size):
            share = block[j, i] / block[i, i]
            part[j] -= share * part[i]
            for other in range(i + 1, size):
                block[j, other] -= share * block[i, other]
    return cost


@njit(cache=True, nogil=True)
def remove_weight(weight, inverse, at, row):  # type: ignore[no-untyped-def]
    """Remove one weight and refit the others, in place; its row and column of the inverse become 0. `row`: scratch."""
    row[:] = inverse[at]
    lost = weight[at]
    for i in range(weight.size):
        share = row[i] / row[at]
        if share != 0.0:
            weight[i] -= share * lost
            for j in range(weight.size):
                inverse[i, j] -= share * row[j]
            inverse[i, at] = 0.0  # not what rounding leaves
    weight[at] = 0.0


@njit(cache=True, nogil=True)
def thin_row(weight, inverse, size, tiles, losses):  # type: ignore[no-untyped-def]
    """Remove units, the cheapest first, until every tile has lost as many as it is to lose; refit the others.

    weight : float64[blocks, width], in place
    inverse : float64[blocks, width, width], overwritten
    size : weights of a unit
    tiles : int64[blocks, width // size], of each unit; -1 where there is none; becomes -1 where one is removed
    losses : int64[tiles], becomes 0
    """
    blocks, units = tiles.shape
    costs, part, block = np.empty((blocks, units)), np.empty(size), np.empty((size, size))
    row, stale = np.empty(weight.shape[1]), np.ones(blocks, np.bool_)
    for _ in range(losses.sum()):
        least, b_least, u_least = np.inf, -1, -1
        for b in range(blocks):
            for u in range(units):
                if tiles[b, u] < 0 or losses[tiles[b, u]] == 0:
                    continue
                if stale[b]:
                    costs[b, u] = unit_cost(weight[b], inverse[b], u * size, part, block)
                if costs[b, u] < least or b_least < 0:
                    least, b_least, u_least = costs[b, u], b, u
            stale[b] = False
        for i in range(size):
            remove_weight(weight[b_least], inverse[b_least], u_least * size + i, row)
        losses[tiles[b_least, u_least]] -= 1
        tiles[b_least, u_least] = -1
        stale[b_least] = True
