"""Nuclear norms of many small matrices at once, on the CPU: numbers in, numbers out.

LANES matrices lie interleaved, so that every scalar operation of the algorithm is one vector operation over them, and
none of them waits for another: no step depends on the values (no pivots, no convergence). Householder reflections from
both sides (Golub and Kahan 1965; Golub and Van Loan, Matrix Computations, section 5.4.8) leave an upper bidiagonal B
with the singular values of the matrix. Their sum is the trace of √(BᵀB), with √λ ≈ slope·λ + Σ weight·λ / (λ + pole).
Each term is a trace of (BᵀB + s)⁻¹, the derivative of log det(BᵀB + s), by the differential stationary quotient-
difference recurrence (Fernando and Parlett 1994, section 4.3): with s > 0 all its terms are positive, nothing cancels.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

LANES = 64
"""Matrices that are worked on together: measured on 32x32 maps, 64 are twice as fast as 16 or 32."""
PACKED_COLUMNS = 16
"""float32 in a cache line."""
NOTHING = np.float32(1e-30)
"""Square of a column that rounding leaves of a matrix of entries up to 1: its inverse stays finite in float32."""


@njit(cache=True, nogil=True, error_model="numpy")
def nuclear_norms_of_lanes(maps, first, last, poles, weights, slope, out):  # type: ignore[no-untyped-def]
    """Sums of singular values of the matrices first … last - 1.

    Parameters
    ----------
    maps : float32 [M, m, n], m >= n >= 1
        Of any scale: each matrix is divided by its largest entry.
    first, last : int, 0 <= first <= last <= M
    poles, weights : float64 [K], > 0
    slope : float
    out : float64 [M], filled from first to last
        NaN for a matrix that is not finite.
    """
    m, n = maps.shape[1], maps.shape[2]
    a = np.empty((m, n, LANES), np.float32)
    d, e = np.zeros((n, LANES), np.float32), np.zeros((n, LANES), np.float32)
    top, total = np.empty(LANES, np.float32), np.empty(LANES)
    for start in range(first, last, LANES):
        count = min(LANES, last - start)
        _pack(maps, start, count, a, top)
        _bidiagonalise(a, d, e)
        _sum_of_roots(d, e, poles, weights, slope, total)
        for lane in range(count):
            out[start + lane] = total[lane] * top[lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _pack(maps, start, count, a, top):  # type: ignore[no-untyped-def]
    """Copy `count` matrices into the lanes of `a` (zeros in the rest), each divided by its largest magnitude `top`.

    A few columns of all matrices at a time: both what is read and what is written then stays in the first-level cache.
    """
    m, n = maps.shape[1], maps.shape[2]
    a[:] = 0
    top[:] = 1
    for lane in range(count):
        largest = np.float32(0)
        for i in range(m):
            for j in range(n):
                largest = max(largest, abs(maps[start + lane, i, j]))
        top[lane] = largest if largest > 0 else np.float32(1)
    for i in range(m):
        for left in range(0, n, PACKED_COLUMNS):
            for lane in range(count):
                for j in range(left, min(left + PACKED_COLUMNS, n)):
                    a[i, j, lane] = maps[start + lane, i, j] / top[lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _bidiagonalise(a, d, e):  # type: ignore[no-untyped-def]
    """Squares of the diagonal `d` and of the superdiagonal `e` [n, LANES] of B; `a` [m, n, LANES] is used up.

    Step k reflects column k onto its first entry, then row k onto its second. The reflector v = x ± ‖x‖ e₁ stays where
    x was; the update of the rest by both reflectors is one pass over the rows.
    """
    m, n = a.shape[0], a.shape[1]
    w, u = np.empty((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    norm, scale, dot = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for k in range(n):
        norm[:] = 0
        for i in range(k, m):
            for lane in range(LANES):
                norm[lane] += a[i, k, lane] * a[i, k, lane]
        _reflector(norm, a[k, k], d[k], scale)
        for j in range(k + 1, n):
            for lane in range(LANES):
                w[j, lane] = 0
        for i in range(k, m):
            for j in range(k + 1, n):
                for lane in range(LANES):
                    w[j, lane] += a[i, k, lane] * a[i, j, lane]
        norm[:] = 0
        for j in range(k + 1, n):
            for lane in range(LANES):
                w[j, lane] *= scale[lane]
                u[j, lane] = a[k, j, lane] - a[k, k, lane] * w[j, lane]
                norm[lane] += u[j, lane] * u[j, lane]
        if k + 1 == n:
            break
        _reflector(norm, u[k + 1], e[k], scale)
        for i in range(k + 1, m):
            dot[:] = 0
            for j in range(k + 1, n):
                for lane in range(LANES):
                    x = a[i, j, lane] - a[i, k, lane] * w[j, lane]
                    a[i, j, lane] = x
                    dot[lane] += u[j, lane] * x
            for lane in range(LANES):
                dot[lane] *= scale[lane]
            for j in range(k + 1, n):
                for lane in range(LANES):
                    a[i, j, lane] -= dot[lane] * u[j, lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _reflector(squared, head, square_out, scale):  # type: ignore[no-untyped-def]
    """From ‖x‖² and x's first entry `head`: v's first entry there, 2 / vᵀv into `scale` (0 where x is nothing)."""
    for lane in range(LANES):
        x, norm = head[lane], math.sqrt(squared[lane])
        product = norm * (norm + abs(x))
        square_out[lane] = squared[lane]
        scale[lane] = np.float32(1) / product if product > NOTHING else np.float32(0)
        head[lane] = x + norm if x >= 0 else x - norm


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_of_roots(d, e, poles, weights, slope, out):  # type: ignore[no-untyped-def]
    """Trace of √(BᵀB) of each lane, from the squared entries of B.

    λ is measured in units of the trace, so that all lie in [0, 1]: `poles` and `slope` hold there.
    """
    n = d.shape[0]
    trace, t, g = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    for lane in range(LANES):
        trace[lane] = 0
        for i in range(n):
            trace[lane] += d[i, lane]
        for i in range(n - 1):
            trace[lane] += e[i, lane]
        out[lane] = slope
    for k in range(poles.shape[0]):
        for lane in range(LANES):
            t[lane], g[lane] = poles[k] * trace[lane], 1.0
        for i in range(n):
            for lane in range(LANES):
                s = poles[k] * trace[lane]
                q = np.float64(d[i, lane])
                inverse = 1.0 / (q + t[lane])
                out[lane] += weights[k] * (1.0 - s * g[lane] * inverse)
                ratio = e[i, lane] * inverse
                g[lane] = 1.0 + ratio * g[lane] * q * inverse
                t[lane] = s + ratio * t[lane]
    for lane in range(LANES):
        out[lane] = 0.0 if trace[lane] == 0 else out[lane] * math.sqrt(trace[lane])
