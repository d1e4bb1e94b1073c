"""Kernels of the k-of-n sampler on the CPU: numbers in, numbers out; the tensors around them are in dpp_sampler."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def sort_keys(score_bits, keys):  # type: ignore[no-untyped-def]
    """One unique int64 per unit: ascending keys are descending scores, equal scores in index order.

    Parameters
    ----------
    score_bits : int32 [rows, n]
        The float32 scores, reinterpreted: magnitude in the lower 31 bits, sign in the top bit.
    keys : int64 [rows, n], filled
        Minus the score's signed magnitude in the upper 32 bits, the index in the lower.
    """
    for row in range(score_bits.shape[0]):
        for i in range(score_bits.shape[1]):
            bits = np.int64(score_bits[row, i])
            rank = (bits & 0x7FFFFFFF) if bits < 0 else -bits
            keys[row, i] = (rank << 32) + i


@njit(cache=True)
def picks_of_keys(keys, picks):  # type: ignore[no-untyped-def]
    """The indices in the first k of the sorted keys: int64 [rows, n] -> `picks` int64 [rows, k], filled."""
    for row in range(picks.shape[0]):
        for j in range(picks.shape[1]):
            picks[row, j] = keys[row, j] & 0xFFFFFFFF


@njit(cache=True)
def mask_of_picks(picks, mask):  # type: ignore[no-untyped-def]
    """Ones at the picks int64 [rows, k] of `mask` [rows, n], zeros elsewhere."""
    mask[:] = 0
    for row in range(picks.shape[0]):
        for j in range(picks.shape[1]):
            mask[row, picks[row, j]] = 1


@njit(cache=True)
def soft_mask_vjp(perturbed, picks, temperature, grad, out):  # type: ignore[no-untyped-def]
    """Gradient of Σ grad ⊙ S with respect to Φ, for picks in score order.

    Along the picks, with d_j = exp(x_j+1 - x_j) <= 1 and the pick's share p_j = exp(x_j) / Z_j of its own softmax:
    p_j = p_j+1 / (p_j+1 + d_j) from the last to the first, S_j = S_j-1 d_j-1 + p_j from the first to the last; D and
    D̄ are running means. No exponent is positive and no sum has mixed signs, so nothing can leave the range.

    Parameters
    ----------
    perturbed, grad : float [rows, n]
    picks : int64 [rows, k]
        Indices of the k largest, largest first.
    temperature : float
    out : float [rows, n]
        In: exp(x - x_k), x_k the smallest picked (at the picks: ignored). Out: the gradient.
    """
    rows, n = perturbed.shape
    k = picks.shape[1]
    share, decay, mean, soft = np.empty(k), np.empty(k), np.empty(k), np.empty(k)
    for row in range(rows):
        for j in range(k):
            out[row, picks[row, j]] = 0
        rest, rest_grad = 0.0, 0.0
        for i in range(n):
            rest += out[row, i]
            rest_grad += out[row, i] * grad[row, i]
        pick = picks[row, k - 1]
        share[k - 1] = 1.0 / (1.0 + rest)
        mean[k - 1] = (grad[row, pick] + rest_grad) * share[k - 1]
        for j in range(k - 2, -1, -1):
            after, pick = pick, picks[row, j]
            decay[j] = np.exp((perturbed[row, after] - perturbed[row, pick]) / temperature)
            share[j] = share[j + 1] / (share[j + 1] + decay[j])
            mean[j] = mean[j + 1] + (grad[row, pick] - mean[j + 1]) * share[j]
        soft[0] = share[0]
        for j in range(1, k):
            soft[j] = soft[j - 1] * decay[j - 1] + share[j]
            mean[j] = mean[j - 1] + (mean[j] - mean[j - 1]) * (share[j] / soft[j])
        for i in range(n):
            out[row, i] *= (grad[row, i] - mean[k - 1]) * (soft[k - 1] / temperature)
        for j in range(k):
            pick = picks[row, j]
            out[row, pick] = soft[j] * (grad[row, pick] - mean[j]) / temperature
