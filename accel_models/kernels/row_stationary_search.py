"""The cheapest row-stationary mapping of a layer, by trying every one that fits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from accel_models.kernels.row_stationary import (
    FITS,
    HELD_OUTPUT,
    Array,
    Pick,
    Prices,
    Problem,
    ceil_div,
    count,
    dram_words,
    energy,
    filter_folds,
    latency,
    rf_status,
    sets_that_fit,
    status,
)

ENERGY, LATENCY, EDP = 0, 1, 2


class Space(NamedTuple):
    """The mappings that are tried: all of those lists, with r and t as the array allows."""

    strips: np.ndarray
    """int64[:], ascending, like the others: e"""
    images: np.ndarray
    """n"""
    filters: np.ndarray
    """m and p"""
    channels: np.ndarray
    """c and q"""
    imperfect: bool
    """False: p t divides m, m the filters, q r divides c, c the channels."""
    input_held: bool
    """Also the order of loops that holds the input."""
    fill: bool
    """Only mappings on as many PEs as folding and replication reach."""
    goal: int
    """ENERGY, LATENCY or EDP."""


class Found(NamedTuple):
    pick: Pick
    cost: float
    """Infinite: nothing fits."""
    cycles: int
    evaluated: int


@njit(cache=True)
def divides(inside: int, total: int, space: Space) -> bool:
    return space.imperfect or total % inside == 0


@njit(cache=True)
def most_sets(sets: int, problem: Problem) -> int:
    """The largest r x t that the array allows, r dividing the channels and t the filters."""
    most = 1
    for r in range(1, min(sets, problem.channels) + 1):
        if problem.channels % r == 0:
            for t in range(1, min(sets // r, problem.filters) + 1):
                if problem.filters % t == 0:
                    most = max(most, r * t)
    return most


@njit(cache=True)
def folded_strip(problem: Problem, array_rows: int, array_cols: int) -> int:
    """Output rows of a set that is folded only as far as the array is too small for it (ISCA 2016, section V.B)."""
    _, fold_rows = filter_folds(problem, array_rows)
    widest = array_cols * (array_rows // fold_rows)
    return ceil_div(problem.out_rows, ceil_div(problem.out_rows, widest))


@njit(cache=True)
def least_pes(problem: Problem, array: Array, space: Space) -> int:
    """PEs that work when the set is folded as far as it must be and then replicated as often as it can be."""
    if not space.fill:
        return 1
    _, fold_rows = filter_folds(problem, array.rows)
    e = folded_strip(problem, array.rows, array.cols)
    return fold_rows * e * most_sets(sets_that_fit(array.rows, array.cols, fold_rows, e), problem)


@njit(cache=True)
def search(problem: Problem, array: Array, prices: Prices, space: Space) -> Found:
    """Try every mapping of a space, keep the cheapest; ties: the smaller latency, then the earlier mapping."""
    _, fold_rows = filter_folds(problem, array.rows)
    least = least_pes(problem, array, space)
    best = Found(Pick(0, 0, 0, 0, 0, 0, 0, 0, 0), np.inf, 0, 0)
    for e in space.strips:
        sets = sets_that_fit(array.rows, array.cols, fold_rows, e)
        least_sets = ceil_div(least, fold_rows * e)
        if sets < least_sets:
            continue
        for p in space.filters:
            for q in space.channels:
                if rf_status(problem, array, p, q) != FITS:
                    break
                for m in space.filters:
                    if m < p or not divides(p, m, space) or not divides(m, problem.filters, space):
                        continue
                    for t in range(1, min(sets, ceil_div(m, p)) + 1):
                        if divides(p * t, m, space):
                            best = _over_channels(
                                problem, array, prices, space, e, p, q, m, t, ceil_div(least_sets, t), sets // t, best
                            )
    return best


@njit(cache=True)
def _over_channels(
    problem: Problem,
    array: Array,
    prices: Prices,
    space: Space,
    e: int,
    p: int,
    q: int,
    m: int,
    t: int,
    least_r: int,
    most_r: int,
    best: Found,
) -> Found:
    for c in space.channels:
        if c < q or not divides(q, c, space) or not divides(c, problem.channels, space):
            continue
        for r in range(least_r, min(most_r, ceil_div(c, q)) + 1):
            if not divides(q * r, c, space):
                continue
            for n in space.images:
                if status(problem, array, Pick(m, n, e, c, p, q, r, t, HELD_OUTPUT)) != FITS:
                    break
                for held in range(2 if space.input_held else 1):
                    best = _better(problem, array, prices, space.goal, Pick(m, n, e, c, p, q, r, t, held), best)
    return best


@njit(cache=True)
def _better(problem: Problem, array: Array, prices: Prices, goal: int, pick: Pick, best: Found) -> Found:
    counts = count(problem, array.rows, pick)
    tried = best.evaluated + 1
    if goal == ENERGY and energy(counts, prices, 0) > best.cost:
        return Found(best.pick, best.cost, best.cycles, tried)
    cycles = latency(problem, array, pick, dram_words(counts))
    cost = energy(counts, prices, cycles)
    if goal == LATENCY:
        cost = float(cycles)
    elif goal == EDP:
        cost *= cycles
    if cost < best.cost or (cost == best.cost and cycles < best.cycles):
        return Found(pick, cost, cycles, tried)
    return Found(best.pick, best.cost, best.cycles, tried)
