"""Kernels of the k-of-n sampler for short rows (2:4, 4:8, 1:16): many tiles side by side, one in each vector lane.

The k softmaxes of a tile are computed one after the other as they are defined: with at most `TILE` units that costs
less than sorting. Ranks come from comparing all pairs. Numbers in, numbers out.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cosim.pruning.dpp_vector import exp_float32

TILE = 16
"""Longest row for these kernels."""
_SIDE = 64
"""Tiles worked on at once."""


@njit(cache=True)
def _load(tiles, first, count, out):  # type: ignore[no-untyped-def]
    """out [n, _SIDE] = the tiles from `first` on, transposed; lanes beyond `count` repeat the first tile."""
    for i in range(tiles.shape[1]):
        for lane in range(_SIDE):
            out[i, lane] = tiles[first + (lane if lane < count else 0), i]


@njit(cache=True)
def _rank(scores, rank):  # type: ignore[no-untyped-def]
    """Place of every unit in its tile, 0 = largest; of equal ones the lower index comes first. Both [n, _SIDE]."""
    n = scores.shape[0]
    rank[:] = 0
    for i in range(n):
        for j in range(n):
            if j < i:
                for lane in range(_SIDE):
                    rank[i, lane] += np.int32(1) if scores[j, lane] >= scores[i, lane] else np.int32(0)
            elif j > i:
                for lane in range(_SIDE):
                    rank[i, lane] += np.int32(1) if scores[j, lane] > scores[i, lane] else np.int32(0)


@njit(cache=True)
def keep_tiles(scores, k, values, out):  # type: ignore[no-untyped-def]
    """out = values where the unit is among the k largest scores of its tile, else 0.

    Parameters
    ----------
    scores : float32 [tiles, n], no NaN, n <= 16
    k : int
    values, out : [tiles, n]
    """
    tiles, n = scores.shape
    s, rank = np.empty((n, _SIDE), np.float32), np.empty((n, _SIDE), np.int32)
    for first in range(0, tiles, _SIDE):
        count = min(_SIDE, tiles - first)
        _load(scores, first, count, s)
        _rank(s, rank)
        for i in range(n):
            for lane in range(count):
                out[first + lane, i] = values[first + lane, i] if rank[i, lane] < k else 0


@njit(cache=True)
def tiles_vjp(scores, k, temperature, grad, values, out):  # type: ignore[no-untyped-def]
    """Gradient of Σ h ⊙ S with respect to Φ with h = grad ⊙ values, in score order.

    Σ_j p_j (h - p_j·h) / τ over the k softmaxes p_j.

    Parameters
    ----------
    scores : float32 [tiles, n], n <= 16
        Φ + g.
    k : int
    temperature : float
    grad, values, out : float32 [tiles, n]
    """
    tiles, n = scores.shape
    shape, inverse, zero = (n, _SIDE), np.float32(1.0 / temperature), np.float32(0.0)
    s, h, rank = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.int32)
    x, p, power = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(n * _SIDE, np.int32)
    total, top = np.empty(shape, np.float32), np.empty(_SIDE, np.float32)
    partition, mean = np.empty(_SIDE, np.float32), np.empty(_SIDE, np.float32)
    for first in range(0, tiles, _SIDE):
        count = min(_SIDE, tiles - first)
        _load(scores, first, count, s)
        _load(grad, first, count, h)
        _load(values, first, count, p)
        _rank(s, rank)
        total[:] = zero
        h *= p
        for pick in range(k):
            for i in range(n):
                for lane in range(_SIDE):
                    top[lane] = s[i, lane] if rank[i, lane] == pick else top[lane]
            for i in range(n):
                for lane in range(_SIDE):
                    x[i, lane] = min(s[i, lane] - top[lane], zero) * inverse
            exp_float32(x.ravel(), p.ravel(), power)
            partition[:] = zero
            mean[:] = zero
            for i in range(n):
                for lane in range(_SIDE):
                    p[i, lane] = p[i, lane] if rank[i, lane] >= pick else zero
                    partition[lane] += p[i, lane]
                    mean[lane] += p[i, lane] * h[i, lane]
            for lane in range(_SIDE):
                partition[lane] = np.float32(1.0) / partition[lane]
                mean[lane] *= partition[lane]
            for i in range(n):
                for lane in range(_SIDE):
                    total[i, lane] += p[i, lane] * partition[lane] * (h[i, lane] - mean[lane])
        for i in range(n):
            for lane in range(count):
                out[first + lane, i] = total[i, lane] * inverse


@njit(cache=True)
def tiles_entropy(logits, factor, out):  # type: ignore[no-untyped-def]
    """Σ_tiles H(softmax(Φ)) in nats; out = factor times its gradient.

    Parameters
    ----------
    logits : float32 [tiles, n], n <= 16
    factor : float
    out : float32 [tiles, n]
    """
    tiles, n = logits.shape
    shape = (n, _SIDE)
    s, x, p = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32)
    power, high = np.empty(n * _SIDE, np.int32), np.empty(_SIDE, np.float32)
    partition, mean, scale = np.empty(_SIDE, np.float32), np.empty(_SIDE, np.float32), np.float32(factor)
    entropy = 0.0
    for first in range(0, tiles, _SIDE):
        count = min(_SIDE, tiles - first)
        _load(logits, first, count, s)
        high[:] = s[0]
        for i in range(1, n):
            for lane in range(_SIDE):
                high[lane] = max(high[lane], s[i, lane])
        for i in range(n):
            for lane in range(_SIDE):
                x[i, lane] = s[i, lane] - high[lane]
        exp_float32(x.ravel(), p.ravel(), power)
        partition[:] = np.float32(0.0)
        mean[:] = np.float32(0.0)
        for i in range(n):
            for lane in range(_SIDE):
                partition[lane] += p[i, lane]
                mean[lane] += p[i, lane] * x[i, lane]
        for lane in range(_SIDE):
            mean[lane] /= partition[lane]
        for lane in range(count):
            entropy += np.log(partition[lane]) - mean[lane]
        for i in range(n):
            for lane in range(count):
                out[first + lane, i] = scale * p[i, lane] / partition[lane] * (mean[lane] - x[i, lane])
    return entropy
