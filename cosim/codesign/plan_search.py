"""The plan of most importance within budgets: Lagrangian plans, and exchange moves around them.

Few decisions are enumerated. Otherwise plans that are best for fixed prices of the resources are collected, and around
those near the budgets one or two decisions are changed. One budget has two neighbours among these plans on the upper
hull of importance over cost; between them a local search climbs through fixed smaller budgets. Of several budgets each
is also taken alone, at fixed levels. None of the plans looked at hangs on the budgets, only which of them are allowed:
a looser budget is never worth less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from cosim.codesign.plan_relaxation import HIGHEST, Point, Relaxation, bound_value, points
from cosim.codesign.plan_tables import WORTHLESS, Array, Integers, Tables

FEW_PLANS = 200_000
"""Plans that are enumerated."""
MAGNITUDES = (*np.geomspace(1e-2, 1e2, 97).tolist(), HIGHEST)
"""Prices of all budgeted resources together, in importance per cost of the dense network."""
PARTS = {1: 1, 2: 8, 3: 4}
"""Into how many parts a price is split over that many resources; into 3 for more."""
RUNGS = 12
"""Smaller budgets between two neighbours on the hull."""
LEVEL = 0.99
MOST_LEVELS = 200
"""Fixed levels of one of several budgets: the cost of the dense network, times 0.99 again and again."""
SLACK = 1e-12
"""Relative rounding of a sum of costs."""
NEAR = 2
"""Steps of one decision in moves around a plan of the collection."""


class Pool(NamedTuple):
    """Plans, and what they are worth and use; all can run."""

    plans: Integers
    """[P, decisions]"""
    value: Array
    """[P]"""
    cost: Array
    """[P, R]"""

    def point(self, row: int) -> Point:
        return Point(tuple(self.plans[row].tolist()), float(self.value[row]), self.cost[row])


class Found(NamedTuple):
    """The best plan within the budgets (None: none was found), a bound on all, and plans that hang on no budget."""

    best: Point | None
    bound: float
    exact: bool
    """Whether all plans of these choices were looked at."""
    pool: Pool


@dataclass(frozen=True)
class Search:
    """A planning problem without its budgets."""

    tables: Tables
    relaxation: Relaxation
    for_bound: Relaxation
    """With the least that layers use."""

    def adjacent(self) -> np.ndarray:
        """[decisions, decisions]: whether two share a layer, so that their changes do not add up."""
        near = np.eye(len(self.tables.sizes), dtype=bool)
        for scope in (*(f.scope for f in self.tables.factors), *(w.scope for w in self.tables.wide)):
            for i, j in itertools.product(scope, repeat=2):
                near[i, j] = True
        return near


def find_plan(search: Search, budgets: Array, limits: Array, rows: Sequence[int]) -> Found:
    """The best plan.

    Parameters
    ----------
    budgets : Array [R]
        Of the tables' costs; infinite where there is none.
    limits : Array [R]
        Of the costs that the bound counts: the budgets, unless the tables overestimate.
    rows
        Resources that the relaxation prices.
    """
    tables = search.tables
    budgets = np.where(np.isfinite(budgets), budgets * (1 + SLACK), np.inf)
    bounded = bound_value(search.for_bound, limits, rows)
    pool = collect(search, rows)
    best = _best(pool, budgets)
    if is_small(tables):
        own = best is not None and not tables.prices.accelerator.keep_outputs
        return Found(best, best.value if best is not None and own else bounded.bound, True, pool)
    near = search.adjacent()
    for row in np.argsort(-pool.value, kind="stable"):
        best = _better(best, _around(pool.point(int(row)), search, budgets, near, best))
    if len(rows) == 1 and search.relaxation.exact:
        best = _better(best, _climb(search, budgets, rows[0], near))
    elif search.relaxation.exact:
        for row in rows:
            best = _better(best, _step_down(search, budgets, row, near, best))
    return Found(best, bounded.bound, False, pool)


def is_small(tables: Tables) -> bool:
    """Whether all plans are looked at."""
    return not tables.wide and prod(tables.sizes) <= FEW_PLANS


def collect(search: Search, rows: Sequence[int]) -> Pool:
    """All plans where they are few; else those that are best for prices on a fixed grid."""
    tables, relaxation = search.tables, search.relaxation
    if is_small(tables):
        return _pool(tables, np.indices(tables.sizes).reshape(len(tables.sizes), -1).T)
    parts, magnitudes = PARTS.get(len(rows), 3), MAGNITUDES[:: 8 if tables.wide else 1]
    found = {relaxation.solve(np.zeros(tables.resources))[1]: None}
    for split in _splits(len(rows), parts):
        for magnitude in (*magnitudes, HIGHEST):
            prices = np.zeros(tables.resources)
            prices[list(rows)] = magnitude * np.array(split) / parts
            choices = relaxation.solve(prices)[1]
            found[choices if relaxation.exact else _polish(search, choices, prices)] = None
    if not relaxation.exact:
        found |= dict.fromkeys(_descend(search, rows))
    return _pool(tables, np.array(list(found), np.int64))


def _descend(search: Search, rows: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """From the dense plan down: each time the decision that loses least importance for what it saves."""
    tables, weights = search.tables, np.zeros(search.tables.resources)
    weights[list(rows)] = 1 / search.relaxation.scale[list(rows)]
    plan = np.array([d.choices - 1 if d.counts else 0 for d in tables.decisions], np.int64)
    down = np.diag([-1 if d.counts else 1 for d in tables.decisions])
    sizes = np.array(tables.sizes)
    while True:
        yield tuple(plan.tolist())
        plans = plan + down
        plans = plans[((plans >= 0) & (plans < sizes)).all(axis=1)]
        value, cost = tables.evaluate(np.vstack([plan[None], plans]))
        lost, saved = value[0] - value[1:], (cost[0] - cost[1:]) @ weights
        lost = np.where(saved > 0, lost / np.where(saved > 0, saved, 1.0), np.inf)
        if not len(lost) or not np.isfinite(lost.min()):
            return
        plan = plans[int(np.argmin(lost))]


def _pool(tables: Tables, plans: Integers) -> Pool:
    value, cost = tables.evaluate(plans)
    runs = value > WORTHLESS / 2
    return Pool(plans[runs], value[runs], cost[runs])


def _splits(count: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `parts` as a sum of so many numbers."""
    if count == 1:
        yield (parts,)
        return
    for first in range(parts + 1):
        for rest in _splits(count - 1, parts - first):
            yield (first, *rest)


def _polish(search: Search, choices: tuple[int, ...], prices: Array) -> tuple[int, ...]:
    """Change one decision at a time as long as value minus priced cost grows; where tables are only bounds."""
    weights = prices / search.relaxation.scale
    plan = np.array(choices, np.int64)
    for _ in range(2 * len(plan)):
        moves = _moves(plan, search.tables.sizes, NEAR)
        value, cost = search.tables.evaluate(np.vstack([plan[None], moves[1]]))
        merit = value - cost @ weights
        best = int(np.argmax(merit))
        if merit[best] <= merit[0] + SLACK:
            break
        plan = moves[1][best - 1]
    return tuple(plan.tolist())


def _moves(plan: Integers, sizes: Sequence[int], steps: int | None) -> tuple[Integers, Integers]:
    """(decision changed [M], plan after it [M, decisions])."""
    changed, plans = [], []
    for decision, size in enumerate(sizes):
        for choice in range(size):
            if choice != plan[decision] and (steps is None or abs(choice - plan[decision]) <= steps):
                other = plan.copy()
                other[decision] = choice
                changed.append(decision)
                plans.append(other)
    return np.array(changed, np.int64), np.array(plans, np.int64).reshape(len(plans), len(sizes))


def _around(
    point: Point, search: Search, budgets: Array, near: np.ndarray, best: Point | None, steps: int | None = NEAR
) -> Point | None:
    """The best plan within the budgets that differs from `point` in at most two decisions that share no layer."""
    tables, plan = search.tables, np.array(point.choices, np.int64)
    changed, plans = _moves(plan, tables.sizes, steps)
    if not len(plans):
        return None
    value, cost = tables.evaluate(plans)
    gain, more = value - point.value, cost - point.cost
    if best is not None and point.value + 3 * max(0.0, float(gain.max())) < best.value:
        return None
    if bool((point.cost + 3 * np.minimum(more.min(axis=0), 0.0) > budgets).any()):
        return None
    allowed = ~near[np.ix_(changed, changed)]
    pair = np.where(allowed, gain[:, None] + gain[None, :], -np.inf)
    np.fill_diagonal(pair, gain)  # twice the same move: that move alone
    for row in np.flatnonzero(np.isfinite(budgets)):
        both = more[:, row][:, None] + more[:, row][None, :]
        np.fill_diagonal(both, more[:, row])
        pair[point.cost[row] + both > budgets[row]] = -np.inf
    i, j = divmod(int(np.argmax(pair)), len(plans))
    if not pair[i, j] > -np.inf:
        return None
    plan = plans[i].copy()
    plan[changed[j]] = plans[j][changed[j]]
    found = points(tables, [tuple(plan.tolist())])[0]
    return found if bool((found.cost <= budgets).all()) else None


def _climb(search: Search, budgets: Array, row: int, near: np.ndarray) -> Point | None:
    """Local search from the plan on the hull just below one budget, through fixed budgets towards the plan above."""
    hull = points(search.tables, bound_value(search.relaxation, budgets, [row]).plans)
    below = [point for point in hull if point.cost[row] <= budgets[row] and point.value > WORTHLESS / 2]
    above = [point for point in hull if point.cost[row] > budgets[row] and point.value > WORTHLESS / 2]
    if not below or not above:
        return max(below, key=lambda point: (point.value, point.choices), default=None)
    low = max(below, key=lambda point: (point.value, point.choices))
    high = min(above, key=lambda point: (point.cost[row], point.choices))
    best: Point | None = low
    at = _around(high, search, budgets, near, None, None)
    point = low
    for rung in range(RUNGS):
        limit = budgets.copy()
        limit[row] = low.cost[row] + (high.cost[row] - low.cost[row]) * rung / RUNGS
        if limit[row] > budgets[row]:
            break
        point = _local(point, search, limit, near)
        best = _better(best, point)
    return _better(_better(best, at), _around(low, search, budgets, near, None, None))


def _step_down(search: Search, budgets: Array, row: int, near: np.ndarray, best: Point | None) -> Point | None:
    """As if one budget were alone, at fixed levels up to it: what also keeps the others. A level counts if its plan on
    the hull keeps them, so that looser ones only add levels."""
    full = search.relaxation.scale[row]
    first = max(0, math.ceil(math.log(budgets[row] / full) / math.log(LEVEL) - SLACK))
    for number in range(first, first + MOST_LEVELS):
        alone = np.full(len(budgets), np.inf)
        alone[row] = full * LEVEL**number * (1 + SLACK)
        bounded = bound_value(search.relaxation, alone, [row])
        if bounded.bound == -math.inf or (best is not None and bounded.bound <= best.value):
            break
        hull = [point for point in points(search.tables, bounded.plans) if point.cost[row] <= alone[row]]
        low = max(hull, key=lambda point: (point.value, point.choices), default=None)
        if low is None or not bool((low.cost <= budgets).all()):
            continue
        other = _climb(search, alone, row, near)
        kept = other if other is not None and bool((other.cost <= budgets).all()) else low
        best = _better(best, kept)
    return best


def _local(point: Point, search: Search, budgets: Array, near: np.ndarray) -> Point:
    """Change decisions, two at a time, until nothing within the budgets is better."""
    while True:
        other = _around(point, search, budgets, near, None, None)
        if other is None or other.value <= point.value + SLACK:
            return point
        point = other


def _best(pool: Pool, budgets: Array) -> Point | None:
    """The plan of most importance within the budgets; of equal ones the cheapest."""
    rows = np.flatnonzero((pool.cost <= budgets).all(axis=1))
    if not len(rows):
        return None
    rows = rows[pool.value[rows] >= pool.value[rows].max() - SLACK]
    return pool.point(int(rows[np.lexsort(pool.cost[rows].T[::-1])[0]]))


def _better(one: Point | None, other: Point | None) -> Point | None:
    """More importance; of equal ones the cheaper, then the first by its choices."""
    if one is None or other is None:
        return one or other
    if abs(one.value - other.value) > SLACK:
        return one if one.value > other.value else other
    return min(one, other, key=lambda point: (*point.cost.tolist(), point.choices))


__all__ = ["Found", "Pool", "Search", "collect", "find_plan"]
