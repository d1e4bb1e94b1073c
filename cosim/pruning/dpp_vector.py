"""Exponential, logarithm and Gumbel noise of float32 arrays in vector code that gives the same bits on every machine.

Plain arithmetic on arrays, which the compiler turns into vector instructions without reordering anything; no library
of vector functions is needed. Numbers in, numbers out.

Sources: polynomial and split constants of Cephes `expf` (S. L. Moshier, netlib.org/cephes/single); the logarithm's
polynomial is our fit of least relative error on [sqrt(1/2), sqrt(2)] in the form of Cephes `logf`; the counter-based
generator is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, section 3):
draw i of a key is the mixed key + i · golden ratio, so that the order of drawing is free.
"""

from __future__ import annotations

import numpy as np
from numba import njit

CHUNK = 512
"""Values worked on at once: five buffers of this size stay in the first cache."""
_f = np.float32
_i = np.int32
_u = np.uint64
_GOLDEN = _u(0x9E3779B97F4A7C15)
_LN2_HIGH, _LN2_LOW, _LOG2E = _f(0.693359375), _f(-2.12194440e-4), _f(1.44269504088896341)
_LN2 = _f(0.6931471805599453)
_LOWEST = _f(-87.0)
"""exp of less is no normal float32."""
_ROOT_HALF_BITS = _i(0x3F3504F3)


@njit(cache=True)
def exp_float32(x, out, power):  # type: ignore[no-untyped-def]
    """out = exp(x) for x <= 88; below -87 it is exp(-87). Relative error <= 2e-7.

    Parameters
    ----------
    x, out : float32 [n]
    power : int32 [n], scratch
    """
    for i in range(x.size):
        v = max(x[i], _LOWEST)
        z = np.floor(v * _LOG2E + _f(0.5))
        v = v - z * _LN2_HIGH
        v = v - z * _LN2_LOW
        p = _f(1.9875691500e-4)
        p = p * v + _f(1.3981999507e-3)
        p = p * v + _f(8.3334519073e-3)
        p = p * v + _f(4.1665795894e-2)
        p = p * v + _f(1.6666665459e-1)
        p = p * v + _f(5.0000001201e-1)
        out[i] = p * (v * v) + v + _f(1.0)
        power[i] = _i(_i(z) + _i(127)) << _i(23)
    factor = power.view(np.float32)
    for i in range(x.size):
        out[i] *= factor[i]


@njit(cache=True)
def log_float32(x, out, exponent, mantissa):  # type: ignore[no-untyped-def]
    """out = log(x) for normal x > 0. Relative error <= 2e-5, near 1 too: enough for noise.

    Parameters
    ----------
    x, out : float32 [n], not the same memory
    exponent : float32 [n], mantissa : int32 [n], scratch
    """
    bits = x.view(np.int32)
    for i in range(x.size):
        t = _i(bits[i] - _ROOT_HALF_BITS)
        exponent[i] = _f(_i(t >> _i(23)))
        mantissa[i] = _i(_i(t & _i(0x007FFFFF)) + _ROOT_HALF_BITS)
    significand = mantissa.view(np.float32)
    for i in range(x.size):
        f = significand[i] - _f(1.0)
        p = _f(-0.14592280983924866)
        p = p * f + _f(0.2177649438381195)
        p = p * f + _f(-0.25245025753974915)
        p = p * f + _f(0.3328547179698944)
        square = f * f
        out[i] = f * square * p - _f(0.5) * square + f + exponent[i] * _LN2


@njit(cache=True)
def fill_gumbel(key, first, out, work):  # type: ignore[no-untyped-def]
    """out = -g, g ~ Gumbel(0, 1) in [-2.9, 16.7] (the uniform draw has 23 bits): draws from `first` on of the key.

    One number of the generator makes two neighbouring draws: of its bits 40 to 63 and 8 to 31.

    Parameters
    ----------
    key : uint64
    first : int, >= 0
    out : float32 [n]
    work : int32 [3, n + 2], scratch
    """
    n, odd = out.size, first % 2
    pairs = (n + odd + 1) // 2
    bits, high, low = work[0], work[1], work[2]
    start = key + _u(first // 2) * _GOLDEN
    for i in range(pairs):
        z = start + _u(i + 1) * _GOLDEN
        z = (z ^ (z >> _u(30))) * _u(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> _u(27))) * _u(0x94D049BB133111EB)
        z = z ^ (z >> _u(31))
        high[i] = _i(z >> _u(40))
        low[i] = _i((z >> _u(8)) & _u(0xFFFFFF))
    even, uneven = bits[: 2 * pairs : 2], bits[1 : 2 * pairs : 2]
    for i in range(pairs):
        even[i], uneven[i] = high[i], low[i]
    chosen, uniform = bits[odd : odd + n], work[1].view(np.float32)[:n]
    for i in range(n):
        uniform[i] = _f(chosen[i] | _i(1)) * _f(2.0**-24)  # odd / 2^24: never 0 or 1
    exponent, mantissa = work[0].view(np.float32)[:n], work[2][:n]
    log_float32(uniform, out, exponent, mantissa)
    for i in range(n):
        uniform[i] = -out[i]
    log_float32(uniform, out, exponent, mantissa)


@njit(cache=True)
def add_gumbel(logits, key, noise, scores):  # type: ignore[no-untyped-def]
    """scores = logits + noise · g; logits and scores float [n], key uint64, noise float32."""
    drawn, work = np.empty(CHUNK, np.float32), np.empty((3, CHUNK + 2), np.int32)
    for start in range(0, logits.size, CHUNK):
        given, filled = logits[start : start + CHUNK], scores[start : start + CHUNK]
        noises = drawn[: given.size]
        fill_gumbel(key, start, noises, work)
        for i in range(given.size):
            filled[i] = given[i] - noise * noises[i]
