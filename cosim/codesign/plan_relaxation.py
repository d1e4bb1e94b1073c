"""Budgets as prices: the best plan when every resource costs something, and the bound on all plans that follows.

For prices l >= 0 no plan within the budgets B is worth more than max over plans of value + l (B - cost): a Lagrangian
bound. Its smallest value over l is found with cutting planes (Kelley 1960; Held, Wolfe and Crowder 1974 for the use).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from cosim.codesign.plan_elimination import Elimination, is_exact, plan_elimination
from cosim.codesign.plan_tables import WORTHLESS, Array, Factor, Integers, Tables

HIGHEST = 1e6
"""Price of a resource's cost in the dense network, in importance: saving is all that counts."""
ROUNDS = 60
TIGHT = 1e-7
"""A bound that this little can improve is good enough, in importance."""


class Point(NamedTuple):
    """A plan, what it is worth and what it uses."""

    choices: tuple[int, ...]
    value: float
    cost: Array
    """[R]"""


@dataclass(frozen=True)
class Relaxation:
    """Tables of all factors, flat, and how to eliminate their decisions."""

    scopes: tuple[tuple[int, ...], ...]
    flat: tuple[Array, ...]
    """[1 + R, entries]: value, and minus the cost in units of `scale`, of each factor."""
    scale: Array
    """[R]: cost of the dense network, > 0."""
    elimination: Elimination
    exact: bool
    """Whether the plans found are the best ones for their prices."""
    worst: float
    """No plan that can run is worth less."""
    solved: dict[tuple[float, ...], tuple[float, tuple[int, ...]]] = field(default_factory=dict)

    def solve(self, prices: Array) -> tuple[float, tuple[int, ...]]:
        """(at least the largest value - prices cost / scale, choices) for prices [R] >= 0."""
        key = tuple(prices.tolist())
        if key not in self.solved:
            weights = np.array([1.0, *prices])
            tables = [
                (scope, (weights @ flat).reshape([self.elimination.sizes[i] for i in scope]))
                for scope, flat in zip(self.scopes, self.flat, strict=True)
            ]
            self.solved[key] = tuple(self.elimination.solve(tables))  # type: ignore[assignment]
        return self.solved[key]


def relax(tables: Tables, scale: Array, *, least: bool = False) -> Relaxation:
    """The relaxation of a problem; `least`: with what layers use at the very least, for a bound."""
    factors: Sequence[Factor] = (*tables.factors, *tables.floors)
    scopes = tuple(factor.scope for factor in factors)
    flat = []
    for factor in factors:
        cost = (factor.least if least else factor.cost).reshape(tables.resources, -1)
        flat.append(np.concatenate([factor.value.reshape(1, -1), -cost / scale[:, None]]))
    elimination = plan_elimination(tables.sizes, scopes)
    exact = is_exact(elimination, scopes) and not tables.wide
    worst = sum(float(f.value.min(initial=0.0, where=f.value > WORTHLESS / 2)) for f in factors)
    return Relaxation(scopes, tuple(flat), scale, elimination, exact, worst)


class Bounded(NamedTuple):
    """A bound on the value of all plans within the budgets, and the plans met on the way to it."""

    bound: float
    plans: tuple[tuple[int, ...], ...]


def bound_value(relaxation: Relaxation, budgets: Array, rows: Sequence[int]) -> Bounded:
    """The smallest Lagrangian bound over prices of the resources in `rows`; minus infinity: no plan is within the
    budgets, because the bound is below the value of the worst plan."""
    limits = budgets[list(rows)] / relaxation.scale[list(rows)]
    cuts: list[tuple[float, Array]] = []
    plans: list[tuple[int, ...]] = []
    best, prices = np.inf, np.zeros(len(rows))
    starts = [HIGHEST * np.eye(len(rows))[i] for i in range(len(rows))]
    for step in range(ROUNDS):
        full = np.zeros(len(budgets))
        full[list(rows)] = prices
        reached, choices = relaxation.solve(full)
        value, slope = _cut(relaxation, reached, choices, prices, rows, limits)
        best = min(best, value)
        cuts.append((value - float(slope @ prices), slope))
        plans.append(choices)
        if step < len(starts):
            prices = starts[step]
            continue
        lowest, prices = _lowest(cuts)
        if lowest >= best - TIGHT or best < relaxation.worst:
            break
    return Bounded(best if best >= relaxation.worst else -np.inf, tuple(dict.fromkeys(plans)))


def _cut(
    relaxation: Relaxation, reached: float, choices: tuple[int, ...], prices: Array, rows: Sequence[int], limits: Array
) -> tuple[float, Array]:
    """Bound at these prices, and its slope: what the plan leaves of each budget."""
    used = np.zeros(len(rows))
    for scope, flat in zip(relaxation.scopes, relaxation.flat, strict=True):
        at = np.ravel_multi_index([choices[i] for i in scope], [relaxation.elimination.sizes[i] for i in scope])
        used -= flat[[1 + row for row in rows], at if scope else 0]
    return reached + float(prices @ limits), limits - used


def _lowest(cuts: Sequence[tuple[float, Array]]) -> tuple[float, Array]:
    """Smallest height over which all cuts pass, and where: minimise t with t >= a + s l, 0 <= l <= HIGHEST."""
    slopes = np.stack([slope for _, slope in cuts])
    rows = np.hstack([slopes, -np.ones((len(cuts), 1))])
    right = -np.array([constant for constant, _ in cuts])
    goal = np.zeros(rows.shape[1])
    goal[-1] = 1.0
    limits = [(0.0, HIGHEST)] * slopes.shape[1] + [(None, None)]
    found = linprog(goal, A_ub=rows, b_ub=right, bounds=limits, method="highs")
    if not found.success:
        return np.inf, np.zeros(slopes.shape[1])
    return float(found.x[-1]), np.maximum(found.x[:-1], 0.0)


def points(tables: Tables, plans: Sequence[tuple[int, ...]] | Integers) -> list[Point]:
    """Plans with their value and cost."""
    rows = np.array(plans, np.int64).reshape(len(plans), len(tables.sizes))
    value, cost = tables.evaluate(rows)
    return [Point(tuple(row), float(v), c) for row, v, c in zip(rows.tolist(), value, cost, strict=True)]


__all__ = ["HIGHEST", "Bounded", "Point", "Relaxation", "bound_value", "points", "relax"]
