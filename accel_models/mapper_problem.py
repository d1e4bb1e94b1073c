"""One padded layer on one hierarchy, searched below thresholds; the driver of `kernels/mapper.py`."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel_models.kernels import mapper as kernel
from accel_models.kernels import stage_list
from accel_models.kernels.nest_terms import value_of
from accel_models.kernels.stage_floor import FLOORS
from accel_models.mapping import DIMS, LoopShape
from accel_models.mapping_cost import MappingTable
from accel_models.mapping_space import Hierarchy, hardware_table, one_price_set, space_table, work_room

ENERGY, LATENCY, EDP = range(3)
NODES, GROUPS = 200_000, 1024
"""Between two looks at the clock, searching and listing."""


class Stage(NamedTuple):
    """The choices of one stage: groups by ascending bound, and their tiles by ascending bound."""

    pairs: NDArray[np.int64]
    """int64[X, 4]: vectors of group and tile, where the next group begins, number of the group"""
    bounds: NDArray[np.float64]
    """float64[X]"""
    floors: NDArray[np.float64]
    """float64[X, M, FLOORS]"""
    group_bounds: NDArray[np.float64]
    """float64[Y], the least of each group"""
    group_least: NDArray[np.float64]
    """float64[Y, M, FLOORS], the least of each group"""

    def costs(self) -> NDArray[np.float64]:
        """Of each choice and price set, a floor; float64[X, M]."""
        return np.maximum(self.floors[:, :, :4].min(axis=2), self.floors[:, :, -1])


class Budget:
    """Time and nodes left to a search."""

    def __init__(self, time_limit_s: float | None, max_nodes: int | None) -> None:
        self.deadline = inf if time_limit_s is None else perf_counter() + time_limit_s
        self.nodes: float = inf if max_nodes is None else max_nodes
        self.spent = 0

    def part(self, nodes: int) -> Budget:
        """A budget of its own, of at most so many nodes and half of these."""
        part = Budget(None, None)
        part.deadline, part.nodes = self.deadline, min(self.nodes / 2, nodes)
        return part

    def spend(self, nodes: int) -> None:
        self.nodes -= nodes
        self.spent += nodes

    def over(self) -> bool:
        return self.nodes <= 0 or perf_counter() > self.deadline


@dataclass
class Pass:
    """What one pass found."""

    value: float
    """The least value known, found in this pass or given."""
    table: MappingTable | None = None
    """The mapping of that value, where this pass found it."""
    ended: bool = True
    """Nothing below the threshold and the value was left out."""


class Problem:
    """The tables of a layer on a hierarchy and the floors of all stages.

    Parameters
    ----------
    objective : ENERGY, LATENCY or EDP
    cap : float, cycles that no mapping may exceed
    """

    def __init__(self, shape: LoopShape, hierarchy: Hierarchy, objective: int, cap: float = inf) -> None:
        self.shape, self.objective, self.cap = shape, objective, float(cap)
        self.n_levels = len(hierarchy.levels)
        self.sets = 1 if objective == ENERGY and cap == inf else 1 + self.n_levels
        self.extents = np.array([shape.extents[dim] for dim in DIMS], np.int64)
        self.hardware = hardware_table(shape, hierarchy, self.sets)
        self.space = space_table(shape, hierarchy, self.sets)
        self.room = work_room(self.n_levels, self.sets)
        self.single = [one_price_set(self.hardware, m) for m in range(self.sets)], work_room(self.n_levels, 1)
        self.sharp = False
        ways = self.space.ways[:, 0].astype(float)
        self.most = np.array([1.0, *(prod(ways[c - 1 :]) for c in range(1, self.n_levels + 1)), 1.0])
        self.rates = self.hardware.bandwidth * np.array([prod(ways[:level]) for level in range(self.n_levels)])
        self.columns = np.empty((self.n_levels + 1, len(self.space.vectors), self.sets, FLOORS))
        self.group_floors = np.empty(self.columns.shape[:3])
        stage_list.group_floors(self.extents, self.space, self.hardware, self.columns, self.group_floors)
        self.floors = np.zeros((self.n_levels + 2, self.sets))
        self.floors[1:-1] = self.group_floors[1:].min(axis=1)

    def bound(self) -> float:
        """A value that no mapping is below."""
        total = self.hardware.fixed + self.floors.sum(axis=0)
        return float(value_of(total, self.shape.macs / self.most[1], self.rates, self.objective, self.cap))

    def run(self, theta: float, best: float, budget: Budget) -> Pass:
        """Find the least value below theta and the best one known, within the budget."""
        self.sharpen()
        stages = self._stages(theta, budget)
        if stages is None:
            return Pass(best, ended=not budget.over())
        starts, lists = _joined(stages)
        pointer, state = np.zeros(self.n_levels + 2, np.int64), np.array([1, 0, 0], np.int64)
        pointer[1] = -1
        value, chosen = np.array([best]), np.zeros((self.n_levels + 1, 2), np.int64)
        order, trial = np.zeros((2, self.n_levels, 8), np.int64)
        search = (
            theta,
            self.objective,
            self.cap,
            int(min(NODES, budget.nodes)),
            self.extents,
            self.space,
            self.hardware,
            self.room,
        )
        found = pointer, state, value, chosen, order, trial
        call: tuple[Any, ...] = (*lists, starts, self._rests(stages), self.most, *search, *found)
        ended = False
        while not ended:
            done = int(state[1])
            ended = kernel.search_tiles(*call)
            budget.spend(int(state[1]) - done)
            if budget.over():
                break
        table = self._table(chosen, order) if value[0] < best else None
        return Pass(float(value[0]), table, ended)

    def _stages(self, theta: float, budget: Budget) -> list[Stage] | None:
        """The choices of every stage that may lead below theta; None where a stage has none or the budget is spent."""
        stages: list[Stage] = []
        tiles, costs = np.zeros(1, np.int64), np.zeros((1, self.sets))
        whole = self.hardware.fixed + self.floors.sum(axis=0)
        for c in range(1, self.n_levels + 1):
            rest = whole - self.floors[c]
            steps = self.shape.macs / self.most[1] * self.space.ways[c - 1, 0]
            goal = steps, self.rates, self.objective, self.cap
            layer = self.extents, self.space, self.hardware, self.columns, self.group_floors
            call: tuple[Any, ...] = (c, theta, rest, rest - self.floors[c - 1], *goal, *layer, tiles, costs)
            parts = _in_pieces(call, len(self.space.vectors), budget)
            if budget.over():
                return None
            pairs, bounds, floors = parts
            if c == 1:
                for m in range(self.sets):
                    exact = np.zeros(len(pairs))
                    self._price_first(pairs, exact, m, False)
                    floors[:, m, -1] = exact
                raised: tuple[Any, ...] = (floors, pairs, rest, *goal, self.space, bounds)
                kernel.set_bounds(*raised)
            keep = bounds < theta
            if not keep.any():
                return None
            stages.append(_sorted(pairs[keep], bounds[keep], floors[keep]))
            tiles, costs = stages[-1].pairs[:, 1].copy(), stages[-1].costs()
        return stages

    def _rests(self, stages: list[Stage]) -> NDArray[np.float64]:
        """Fixed sums and floors of the stages from c on, float64[L + 3, M]."""
        least = np.zeros((self.n_levels + 3, self.sets))
        for c, stage in enumerate(stages, start=1):
            least[c] = stage.costs().min(axis=0)
        return self.hardware.fixed + least[::-1].cumsum(axis=0)[::-1]

    def sharpen(self) -> None:
        """Raise the floors of the first stage to its least exact costs, where no instances outside it share."""
        if self.sharp or self.space.ways[0, 0] > 1:
            return
        self.sharp = True
        for m in range(self.sets):
            costs = self.group_floors[1, :, m]
            ascending = np.argsort(costs, kind="stable")
            pairs = np.stack([ascending, ascending], axis=1)
            self.floors[1, m] = self._price_first(pairs, costs[ascending], m, True)

    def _price_first(self, pairs: NDArray[np.int64], costs: NDArray[np.float64], m: int, only_least: bool) -> float:
        trial = np.zeros((self.n_levels, 8), np.int64)
        hardware, room = self.single[0][m], self.single[1]
        return float(kernel.price_first(pairs, costs, self.extents, self.space, hardware, room, trial, only_least))

    def _table(self, chosen: NDArray[np.int64], order: NDArray[np.int64]) -> MappingTable:
        groups, tiles = self.space.vectors[chosen[1:, 0]], self.space.vectors[chosen[1:, 1]]
        outside = np.vstack([self.extents, tiles[:-1]])
        factors = np.stack([outside // groups, groups // tiles]).astype(np.int32)
        return MappingTable(factors[:1], factors[1:], order[None].astype(np.int8))


def _sorted(pairs: NDArray[np.int64], bounds: NDArray[np.float64], floors: NDArray[np.float64]) -> Stage:
    """The stage from its choices, listed group by group."""
    firsts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    least = np.minimum.reduceat(bounds, firsts)
    ascending = np.argsort(least, kind="stable")
    rank = np.argsort(ascending)
    number = np.repeat(rank, np.diff(firsts, append=len(pairs)))
    order = np.lexsort((bounds, number))
    pairs, number = pairs[order], number[order]
    pairs[:, 2], pairs[:, 3] = np.searchsorted(number, number, side="right"), number
    group_least = np.minimum.reduceat(floors, firsts, axis=0)[ascending]
    return Stage(pairs, bounds[order], floors[order], least[ascending], group_least)


def _in_pieces(call: tuple[Any, ...], groups: int, budget: Budget) -> list[NDArray[Any]]:
    """`list_stage` of all groups, of fewer where the budget is spent."""
    parts = []
    for begin in range(0, groups, GROUPS):
        piece: tuple[Any, ...] = (*call, begin, min(begin + GROUPS, groups))
        *part, tried = stage_list.list_stage(*piece)
        parts.append(part)
        budget.spend(tried)
        if budget.over():
            break
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _joined(stages: list[Stage]) -> tuple[NDArray[np.int64], list[Any]]:
    """Where each stage begins, int64[L + 2]; and the lists of all, one after the other."""
    sizes = np.cumsum([0] + [len(stage.pairs) for stage in stages])
    heads = np.cumsum([0] + [len(stage.group_bounds) for stage in stages])
    for stage, start, head in zip(stages, sizes, heads, strict=False):
        stage.pairs[:, 2] += start
        stage.pairs[:, 3] += head
    return np.concatenate([[0], sizes]).astype(np.int64), [np.concatenate(part) for part in zip(*stages, strict=True)]
