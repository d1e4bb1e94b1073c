"""Kernels of the exact k-subset distribution p(z) ∝ exp(Σ z_i θ_i), Σ z_i = k: draws, marginals, their gradient.

Every row is tilted by the λ for which Σ σ(θ_i + λ) = k. That changes no conditional probability, and the sum of the n
independent draws q_i = σ(θ_i + λ) then has its mode at k, so that plain (not logarithmic) probabilities neither
overflow nor vanish where they count. Work and memory of one row: O(n k).

Source: Ahmed, Zeng, Niepert, Van den Broeck, "SIMPLE: a gradient estimator for k-subset sampling", ICLR 2023,
arXiv 2210.01941, section 3 (the estimator: an exact draw forward, the gradient of the marginals backward). The tilt
and the recursions in probabilities are ours. Numbers in, numbers out.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_STEPS = 200
"""Bisections of the tilt; it ends earlier at neighbouring floats."""


@njit(cache=True)
def _sigmoid(x):  # type: ignore[no-untyped-def]
    if x >= 0.0:
        return 1.0 / (1.0 + np.exp(-x))
    e = np.exp(x)
    return e / (1.0 + e)


@njit(cache=True)
def _tilt(theta, k, yes, no):  # type: ignore[no-untyped-def]
    """Fill q_i = σ(θ_i + λ) and 1 - q_i for the λ with Σ q = k, 0 < k < n."""
    low, high = -theta.max() - 50.0, -theta.min() + 50.0
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if middle <= low or middle >= high:
            break
        total = 0.0
        for i in range(theta.size):
            total += _sigmoid(theta[i] + middle)
        if abs(total - k) < 1e-9 * k:
            low = high = middle
            break
        if total < k:
            low = middle
        else:
            high = middle
    shift = 0.5 * (low + high)
    for i in range(theta.size):
        yes[i] = _sigmoid(theta[i] + shift)
        no[i] = _sigmoid(-theta[i] - shift)


@njit(cache=True)
def _prefix(yes, no, h, k, count, value):  # type: ignore[no-untyped-def]
    """count[i, j] = P(j of the first i), value[i, j] = E[Σ h z; j of the first i]; both [n + 1, k + 1]."""
    count[:], value[:] = 0.0, 0.0
    count[0, 0] = 1.0
    for i in range(yes.size):
        count[i + 1, 0] = count[i, 0] * no[i]
        value[i + 1, 0] = value[i, 0] * no[i]
        for j in range(1, k + 1):
            count[i + 1, j] = count[i, j] * no[i] + count[i, j - 1] * yes[i]
            value[i + 1, j] = value[i, j] * no[i] + (value[i, j - 1] + h[i] * count[i, j - 1]) * yes[i]


@njit(cache=True)
def exact_marginals_vjp(logits, k, temperature, grad, marginals, out):  # type: ignore[no-untyped-def]
    """Marginals μ_i = P(z_i = 1) at θ = Φ / τ, and the gradient of Σ grad ⊙ μ with respect to Φ.

    ∂(h·μ)/∂θ_m = Cov(z_m, Σ h z) = μ_m (E[Σ h z | z_m = 1] - E[Σ h z]).

    Parameters
    ----------
    logits, grad : float [rows, n]
    k : int, 1 <= k <= n
    temperature : float
    marginals, out : float [rows, n], filled
    """
    rows, n = logits.shape
    if k == n:
        marginals[:], out[:] = 1.0, 0.0
        return
    yes, no, h, theta = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    count, value = np.empty((n + 1, k + 1)), np.empty((n + 1, k + 1))
    right, right_value = np.empty(k + 1), np.empty(k + 1)
    for r in range(rows):
        for i in range(n):
            theta[i], h[i] = logits[r, i] / temperature, grad[r, i]
        _tilt(theta, k, yes, no)
        h -= (yes * h).sum() / k  # a constant changes nothing but the rounding
        _prefix(yes, no, h, k, count, value)
        whole, mean = count[n, k], value[n, k] / count[n, k]
        right[:], right_value[:] = 0.0, 0.0
        right[0] = 1.0
        for m in range(n - 1, -1, -1):
            ways, weighted = 0.0, 0.0
            for j in range(k):
                ways += count[m, j] * right[k - 1 - j]
                weighted += value[m, j] * right[k - 1 - j] + count[m, j] * right_value[k - 1 - j]
            chance = ways * yes[m] / whole
            marginals[r, m] = chance
            out[r, m] = chance * (weighted / ways + h[m] - mean) / temperature if ways > 0.0 else 0.0
            for j in range(k, 0, -1):
                right_value[j] = right_value[j] * no[m] + (right_value[j - 1] + h[m] * right[j - 1]) * yes[m]
                right[j] = right[j] * no[m] + right[j - 1] * yes[m]
            right_value[0] *= no[m]
            right[0] *= no[m]


@njit(cache=True)
def draw_exactly(logits, noise, uniform, picks):  # type: ignore[no-untyped-def]
    """One k-subset of every row from p(z) ∝ exp(Σ z Φ / c), in index order.

    Parameters
    ----------
    logits : float [rows, n]
    noise : float
        c > 0.
    uniform : float64 [rows, n]
        In [0, 1): one for every unit.
    picks : int32 [rows, k], filled
    """
    rows, n = logits.shape
    k = picks.shape[1]
    yes, no, theta, h = np.empty(n), np.empty(n), np.empty(n), np.zeros(n)
    count, value = np.empty((n + 1, k + 1)), np.empty((n + 1, k + 1))
    for r in range(rows):
        for i in range(n):
            theta[i] = logits[r, i] / noise
        if k < n:
            _tilt(theta, k, yes, no)
            _prefix(yes, no, h, k, count, value)
        left = k
        for i in range(n - 1, -1, -1):
            if left == 0:
                break
            sure = left == i + 1
            chance = 1.0 if sure else count[i, left - 1] * yes[i] / count[i + 1, left]
            if sure or uniform[r, i] < chance:
                left -= 1
                picks[r, left] = i
