"""How many elements of a tile are kept: distributions for densities and k-of-n structures, and the largest of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from accel_models.sparsity import KofN

Pmf = NDArray[np.float64]
"""Probability of 0, 1, 2, …"""
Structure = float | KofN | None
"""Where the non-zeros are: independent with a density, k of n, or dense."""


@dataclass(frozen=True)
class Rows:
    """Rows of one operand: `reduction` indices of `unit` elements each."""

    structure: Structure
    reduction: int
    unit: int
    kernel_size: int

    @property
    def kept_per_row(self) -> float:
        """Mean of the kept elements of a row."""
        elements, s = self.reduction * self.unit, self.structure
        if s is None:
            return elements
        if isinstance(s, float):
            return elements * s
        if s.granularity == "kernel":
            return s.k * self.kernel_size
        return elements // s.n * s.k + min(elements % s.n, s.k)

    @property
    def ragged(self) -> int:
        """Indices of a last tile of k of n that is shorter than n; units of one element."""
        s = self.structure
        return self.reduction % s.n if isinstance(s, KofN) and s.granularity == "weight" and self.unit == 1 else 0

    def kind(self, start: int, stop: int) -> tuple[int, ...]:
        """Equal for index ranges with the same distribution of kept elements."""
        s, first, last = self.structure, start * self.unit, stop * self.unit
        if s is None or isinstance(s, float):
            return (stop - start,)
        if (
            s.granularity == "weight"
            and first // s.n == (last - 1) // s.n
            and first // s.n < self.reduction * self.unit // s.n
        ):
            return (stop - start, -1, -1)  # inside one complete tile all places are alike
        period = self.kernel_size if s.granularity == "kernel" else s.n
        ragged = last > self.reduction * self.unit // period * period
        return (stop - start, first % period, first if ragged else -1)


@lru_cache(maxsize=8192)
def count_pmf(rows: Rows, tile: int, start: int, stop: int) -> Pmf | None:
    """Kept elements of `tile` rows at indices start..stop-1; None: no closed form is known here. Not to be written."""
    one = _row_pmf(rows, start * rows.unit, stop * rows.unit)
    if one is None:
        return None
    if isinstance(rows.structure, float):
        return binomial(tile * (stop - start) * rows.unit, rows.structure)
    return power(one, tile)


def _row_pmf(rows: Rows, start: int, stop: int) -> Pmf | None:
    """Kept elements of one row among elements start..stop-1."""
    s, elements = rows.structure, rows.reduction * rows.unit
    if s is None:
        return point(stop - start)
    if isinstance(s, float):
        return binomial(stop - start, s)
    if stop - start == elements:
        return point(round(rows.kept_per_row))
    if s.granularity == "kernel":
        size = rows.kernel_size
        return spread(hypergeometric(s.n, s.k, (stop - start) // size), size) if _whole(start, stop, size) else None
    if start % s.n == 0 and (stop % s.n == 0 or stop == elements):
        tiles, rest = divmod(stop - start, s.n)
        return point(tiles * s.k + min(rest, s.k))
    tile = start // s.n
    if (stop - 1) // s.n != tile:
        return None
    size = min(s.n, elements - tile * s.n)
    return hypergeometric(size, min(s.k, size), stop - start)


def _whole(start: int, stop: int, size: int) -> bool:
    return start % size == 0 and stop % size == 0


def point(value: int) -> Pmf:
    out = np.zeros(value + 1)
    out[value] = 1.0
    return out


@lru_cache(maxsize=4096)
def binomial(trials: int, share: float) -> Pmf:
    """Successes of independent trials."""
    if share <= 0 or share >= 1:
        return point(trials if share >= 1 else 0)
    x = np.arange(trials + 1)
    logs = _log_choose(trials) + x * math.log(share) + (trials - x) * math.log1p(-share)
    out = np.exp(logs)
    return np.asarray(out / out.sum())


@lru_cache(maxsize=4096)
def hypergeometric(total: int, kept: int, drawn: int) -> Pmf:
    """Kept elements among `drawn` of `total`."""
    ways = [math.comb(kept, x) * math.comb(total - kept, drawn - x) for x in range(min(kept, drawn) + 1)]
    every = math.comb(total, drawn)
    return np.array([w / every for w in ways])


@lru_cache(maxsize=1024)
def _log_choose(trials: int) -> Pmf:
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, trials + 1)))))
    return np.asarray(logs[-1] - logs - logs[::-1])


def power(pmf: Pmf, count: int) -> Pmf:
    """Sum of `count` independent values."""
    out, base = np.ones(1), pmf
    while count:
        if count & 1:
            out = np.convolve(out, base)
        count >>= 1
        if count:
            base = np.convolve(base, base)
    return out


def spread(pmf: Pmf, factor: int) -> Pmf:
    """Of factor x value."""
    out = np.zeros((pmf.size - 1) * factor + 1)
    out[::factor] = pmf
    return out


def vector_pmf(counts: Pmf, vector: int) -> Pmf:
    """Of ceil(counts / vector)."""
    return np.bincount(-(-np.arange(counts.size) // vector), weights=counts).astype(np.float64)


def work_pmf(vectors: Pmf, factor: int, width: int, least: int) -> Pmf:
    """Cycles of vectors x factor pairs, `width` a cycle, at least `least`."""
    cycles = np.maximum(least, -(-np.arange(vectors.size) * factor // width))
    return np.bincount(cycles, weights=vectors).astype(np.float64)


def mean(pmf: Pmf) -> float:
    return float(pmf @ np.arange(pmf.size))


def mean_largest(pmfs: Sequence[tuple[Pmf, int]]) -> float:
    """Expected largest of independent values, `count` of each distribution."""
    size = max(pmf.size for pmf, _ in pmfs)
    below = np.ones(size)
    for pmf, count in pmfs:
        cdf = np.ones(size)
        cdf[: pmf.size] = np.minimum(np.cumsum(pmf), 1.0)
        cdf[pmf.size - 1 :] = 1.0
        below *= cdf**count
    return float((1.0 - below[:-1]).sum()) if size > 1 else 0.0
