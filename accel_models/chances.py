"""Probability mass functions of counts, as arrays over 0 .. the most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def binomial_pmf(trials: int, probability: float) -> Floats:
    """P(i of `trials` succeed), i = 0 .. trials."""
    if probability in (0.0, 1.0) or trials == 0:
        return _certain(trials, trials if probability == 1.0 else 0)
    i = np.arange(trials, dtype=np.float64)
    return _from_ratios(np.log((trials - i) / (i + 1.0)) + np.log(probability) - np.log1p(-probability))


def hypergeometric_pmf(elements: int, nonzeros: int, drawn: int) -> Floats:
    """P(i of `drawn` elements are non-zeros), i = 0 .. drawn."""
    low, high = max(0, drawn - (elements - nonzeros)), min(drawn, nonzeros)
    i = np.arange(low, high, dtype=np.float64)
    zeros = elements - nonzeros - drawn
    ratios = np.log((nonzeros - i) * (drawn - i)) - np.log((i + 1.0) * (zeros + i + 1.0))
    out = np.zeros(drawn + 1)
    out[low : high + 1] = _from_ratios(ratios)
    return out


def sum_pmf(pmf: Floats, times: int) -> Floats:
    """Distribution of the sum of `times` independent draws."""
    out = np.ones(1)
    while times:
        if times & 1:
            out = np.convolve(out, pmf)
        times >>= 1
        if times:
            pmf = np.convolve(pmf, pmf)
    return out


def trimmed(pmf: Floats, least: float = 0.0) -> tuple[int, Floats]:
    """(first count, chances from it on) without the counts at both ends of chance `least` or less."""
    kept = np.flatnonzero(pmf > least)
    return int(kept[0]), pmf[kept[0] : kept[-1] + 1]


def _from_ratios(log_ratios: Floats) -> Floats:
    """Probabilities from the logarithms of p[i + 1] / p[i]."""
    logs = np.concatenate(([0.0], np.cumsum(log_ratios)))
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum(), np.float64)


def _certain(most: int, value: int) -> Floats:
    out = np.zeros(most + 1)
    out[value] = 1.0
    return out
