"""A pruning plan without training: the most importance that latency, energy and memory budgets leave.

Decided are the width of every channel group and, where the accelerator gains from it, the mask and weight bits of each
layer. Costs come from the accelerator model, layer by layer; the figures of the result from one simulation of the
network that the plan leaves. See `plan_importance` for what importance is, `plan_search` for the search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import Tensor, nn

from accel_models.accelerator import Accelerator
from accel_models.cost import NetworkCost
from accel_models.evaluate import simulate
from cosim.codesign.plan_importance import Scores
from cosim.codesign.plan_problem import DENSE_BITS, PlanProblem, plan_problem
from cosim.codesign.plan_relaxation import Point, relax
from cosim.codesign.plan_search import Found, Pool, Search, find_plan
from cosim.codesign.plan_shapes import network_shapes
from cosim.codesign.plan_tables import ENERGY, LATENCY, MEMORY, Array
from cosim.errors import ConfigError, InfeasibleError
from cosim.extract import check_structures, extract_workload, weight_structures
from cosim.pruning.apply import plan_of_groups, prunable_groups, remove_filters
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.plan import FilterPlan, PruningPlan

ATTEMPTS = 6
"""Searches with corrected budgets, where the simulation of the whole network differs from the sum of its layers."""
KB = 1024
"""Bytes of a kB, as buffers are sized."""


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Limits of one inference; None: no limit.

    Raises
    ------
    ConfigError
        None is given, or one is not a number above 0.
    """

    latency_ms: float | None = None
    energy_mj: float | None = None
    memory_kb: float | None = None
    """Stored weights and the peak of the activations together, in kB of 1024 bytes."""

    def __post_init__(self) -> None:
        if not self.given:
            raise ConfigError(f"give at least one budget: {', '.join(map(option, BUDGETS))}")
        for name, value in self.given.items():
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{option(name)} {value:g}: must be a finite number above 0")

    @property
    def given(self) -> dict[str, float]:
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}


BUDGETS = tuple(item.name for item in fields(Budgets))


def option(name: str) -> str:
    """latency_ms -> --latency-ms."""
    return f"--{name.replace('_', '-')}"


def used(cost: NetworkCost) -> dict[str, float]:
    """What a network uses of every budget."""
    return {
        "latency_ms": cost.latency_ms,
        "energy_mj": cost.energy_pj / 1e9,
        "memory_kb": (cost.weight_bytes + cost.peak_activation_bytes) / KB,
    }


@dataclass(frozen=True)
class Planned:
    """A plan within the budgets, with simulated costs."""

    plan: PruningPlan
    importance: float
    """Geometric mean of the shares of the layers' squared weights (or scores) that stay, in (0, 1]."""
    bound: float
    """No plan of the same choices keeps more."""
    exact: bool
    """Whether all plans of the choices were compared."""
    before: NetworkCost
    after: NetworkCost


@dataclass(frozen=True)
class PlanRequest:
    """A network, an accelerator and budgets."""

    network: str
    """Name that the plan carries."""
    model: nn.Module
    example: Tensor | tuple[Any, ...]
    accelerator: Accelerator
    budgets: Budgets
    scores: Scores | None = None
    """Layer -> score of each filter, in place of squared weights."""
    mixed_bits: bool = False
    """Whether layers may have any weight width of the array."""
    choose: bool = True
    """Whether the plan names the channels that stay; without, a criterion chooses them later."""


def make_plan(request: PlanRequest) -> Planned:
    """The plan that keeps most importance within the budgets.

    Raises
    ------
    InfeasibleError
        No plan was found; the message names the budget that binds and the least that is reachable.
    PruningError, UntraceableError
        The network has a layer or operator that cannot be traced or priced.
    NoMappingError
        A layer of the dense network does not fit the accelerator.
    """
    planner = prepare(request)
    scale, best = _correction(planner, planner.dense), None
    for _ in range(ATTEMPTS):
        found = find_plan(planner.search, planner.budgets * scale, planner.budgets, planner.rows)
        if found.best is None:
            break
        other = _planned(planner, found, found.best)
        fits = _within(other.after, request.budgets)
        if fits and (best is None or other.importance > best.importance):
            best = other
        if fits and not request.accelerator.keep_outputs:
            break
        correction = _correction(planner, found.best)
        scale = (scale + correction) / 2 if fits else np.minimum(scale, correction) * (1 - 1e-9)
    if best is None and request.accelerator.keep_outputs:
        best = _cheapest(planner, found)
    if best is None:
        raise InfeasibleError(why_not(planner, found))
    return best


def _planned(planner: Planner, found: Found, point: Point) -> Planned:
    plan, after = planner.realise(point)
    bound = min(1.0, math.exp(max(found.bound, point.value)))
    exact = found.exact and point is found.best
    return Planned(plan, math.exp(point.value), bound, exact, planner.before, after)


def _cheapest(planner: Planner, found: Found) -> Planned | None:
    """Where outputs stay on chip the tables ask too much: simulate the plans that use least of one budget."""
    for name in planner.request.budgets.given:
        point = _least(planner, found.pool, name, ())
        planned = None if point is None else _planned(planner, found, point)
        if planned is not None and _within(planned.after, planner.request.budgets):
            return planned
    return None


@dataclass(frozen=True)
class Planner:
    """What all searches of one request share."""

    request: PlanRequest
    groups: tuple[ChannelGroup, ...]
    problem: PlanProblem
    search: Search
    before: NetworkCost
    budgets: Array
    """[R], infinite where none is given."""
    rows: tuple[int, ...]
    """Resources that a relaxation prices: those with a budget; of memory the two likeliest peaks."""

    @property
    def dense(self) -> Point:
        sizes = self.problem.tables.decisions
        choices = tuple(len(d.counts) - 1 if d.counts else 0 for d in sizes)
        value, cost = self.problem.tables.evaluate(np.array([choices]))
        return Point(choices, float(value[0]), cost[0])

    def realise(self, point: Point) -> tuple[PruningPlan, NetworkCost]:
        """The plan, and the simulation of the network that it leaves."""
        plan = build_plan(self.request, self.groups, self.problem, point.choices)
        return plan, simulate_plan(self.request, self.groups, plan)


def prepare(request: PlanRequest) -> Planner:
    groups = tuple(trace_channel_groups(request.model, request.example))
    before = simulate_plan(request, groups, PruningPlan(network=request.network))
    shapes = network_shapes(request.network, request.model, request.example, groups)
    given = request.budgets.given
    problem = plan_problem(
        request.model,
        shapes,
        request.accelerator,
        scores=request.scores,
        mixed_bits=request.mixed_bits,
        memory="memory_kb" in given,
    )
    tables = problem.tables
    budgets = np.full(tables.resources, np.inf)
    if "latency_ms" in given:
        budgets[LATENCY] = given["latency_ms"] * request.accelerator.clock_mhz * 1e3
    if "energy_mj" in given:
        budgets[ENERGY] = given["energy_mj"] * 1e9
    budgets[MEMORY:] = given.get("memory_kb", 0) * KB
    rows = tuple(int(row) for row in np.flatnonzero(np.isfinite(budgets)))
    dense = np.array([[len(d.counts) - 1 if d.counts else 0 for d in tables.decisions]])
    scale = np.maximum(tables.evaluate(dense)[1][0], 1.0)
    relaxation = relax(tables, scale)
    bound = relax(tables, scale, least=True) if request.accelerator.keep_outputs else relaxation
    search = Search(tables, relaxation, bound)
    return Planner(request, groups, problem, search, before, budgets, rows[: len(given) + ("memory_kb" in given)])


def build_plan(
    request: PlanRequest, groups: Sequence[ChannelGroup], problem: PlanProblem, choices: Sequence[int]
) -> PruningPlan:
    """The plan file of some choices."""
    decisions, free = problem.tables.decisions, prunable_groups(groups)
    widths = {group.name: decisions[i].counts[choices[i]] for i, group in enumerate(free)}
    narrower = {group.name: widths[group.name] for group in free if widths[group.name] < group.size}
    plan = plan_of_groups(request.network, groups, narrower)
    layers, named = dict(plan.layers), dict(plan.groups)
    for i, group in enumerate(free):
        if group.name not in narrower or not request.choose:
            continue
        keep = tuple(sorted(problem.importance.order[i][: narrower[group.name]]))
        filters = FilterPlan(k=len(keep), n=group.size, keep=keep)
        if group.name in named:
            named[group.name] = filters
        for layer in group.producers if group.name not in named else ():
            layers[layer] = layers[layer].model_copy(update={"filters": filters})
    for name, number in problem.treated.items():
        chosen = decisions[number].treatments[choices[number]]
        if chosen.mask is not None or chosen.bits != DENSE_BITS:
            layers[name] = plan[name].model_copy(
                update={
                    "mask": chosen.mask,
                    "weight_bits": chosen.bits,
                    "filters": layers[name].filters if name in layers else None,
                }
            )
    return plan.model_copy(update={"layers": layers, "groups": named})


def simulate_plan(request: PlanRequest, groups: Sequence[ChannelGroup], plan: PruningPlan) -> NetworkCost:
    """Remove, verify, extract, simulate: what `cosim simulate --plan` does."""
    pruned = remove_filters(request.model, request.example, plan, groups)
    workload, structures = extract_workload(pruned, request.example, request.network, plan), weight_structures(plan)
    check_structures(workload, structures)
    return simulate(request.accelerator, workload, structures)


def _within(cost: NetworkCost, budgets: Budgets) -> bool:
    return all(used(cost)[name] <= limit for name, limit in budgets.given.items())


def _correction(planner: Planner, point: Point) -> Array:
    """[R]: cost in the tables over cost in the simulation, of one plan; above 1 where outputs stay on chip."""
    cost = planner.before if point.choices == planner.dense.choices else planner.realise(point)[1]
    memory = cost.weight_bytes + cost.peak_activation_bytes
    real = np.array([cost.latency_cycles, cost.energy_pj, *[memory] * (len(point.cost) - MEMORY)])
    ratio = point.cost / real
    ratio[MEMORY:] = ratio[MEMORY:].max(initial=0.0)
    return np.where(np.abs(ratio - 1) < 1e-9, 1.0, ratio)


def why_not(planner: Planner, found: Found) -> str:
    """Which budget binds, and the least that is reachable."""
    request, given = planner.request, planner.request.budgets.given
    where = f"{request.network} on {request.accelerator.name}"
    alone = {name: _reached(planner, found.pool, name, ()) for name in given}
    missed = {name: least for name, least in alone.items() if least > given[name]}
    if missed:
        name = max(missed, key=lambda name: missed[name] / given[name])
        others = [f"; {option(o)} {given[o]:g} neither, least {missed[o]:.4g}" for o in missed if o != name]
        return (
            f"no plan of {where} meets {option(name)} {given[name]:g}: the least reachable is {missed[name]:.4g}"
            f"{''.join(others)}; raise it or choose another accelerator"
        )
    together = {name: _reached(planner, found.pool, name, tuple(o for o in given if o != name)) for name in given}
    name = min(together, key=lambda name: together[name] / given[name])
    verb = "meets" if found.exact or found.bound == -math.inf else "was found that meets"
    if not given[name] < together[name] < math.inf:
        return f"no plan of {where} {verb} all budgets together, though each alone can be met; raise one of them"
    others = [f"{option(o)} {limit:g}" for o, limit in given.items() if o != name]
    return (
        f"no plan of {where} {verb} all budgets: {option(name)} {given[name]:g} binds, with {' and '.join(others)} "
        f"the least reachable is {together[name]:.4g}; raise one of them"
    )


def _reached(planner: Planner, pool: Pool, name: str, others: Sequence[str]) -> float:
    """The least that a plan of the collection uses of one budget within others, as simulated; infinite: none is."""
    point = _least(planner, pool, name, others)
    return math.inf if point is None else used(planner.realise(point)[1])[name]


def _least(planner: Planner, pool: Pool, name: str, others: Sequence[str]) -> Point | None:
    rows = {"latency_ms": slice(LATENCY, ENERGY), "energy_mj": slice(ENERGY, MEMORY), "memory_kb": slice(MEMORY, None)}
    allowed = np.ones(len(pool.value), bool)
    for other in others:
        limits = planner.budgets[rows[other]] * (1 + 1e-12)
        allowed &= (pool.cost[:, rows[other]] <= limits).all(axis=1)
    if not allowed.any():
        return None
    cost = np.where(allowed, pool.cost[:, rows[name]].max(axis=1), np.inf)
    return pool.point(int(np.argmin(cost)))


__all__ = [
    "BUDGETS",
    "KB",
    "Budgets",
    "PlanRequest",
    "Planned",
    "Planner",
    "build_plan",
    "make_plan",
    "option",
    "prepare",
    "used",
    "why_not",
]
