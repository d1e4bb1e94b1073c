"""The optimal mapping of a layer on a hierarchy: what is searched, and what is proven of the result.

**Space.** All factorizations of every dimension over the temporal loops of every level that allows it and over the
spatial axes that do, and all orders of the temporal loops of every level, such that all tiles fit. Factors are exact
divisors of the extent that is mapped. With `max_padding` extents may be the larger ones that `padded_extents` lists, to
fill an axis or to have divisors at all (13, 149): a padded layer is counted as the larger layer it is, iterations that
compute nothing included, so its counts are those of a legal mapping of that layer. Not searched: other paddings, a last
tile that is smaller than the others (remainder iterations), and two loops over one dimension at one level with another
loop between them.

**Method.** Where a short search does not end, a beam search (`mapping_beam.py`) gives a first mapping. Branch and
bound over tiles and orders (`kernels/mapper.py`) goes below a threshold that starts next to a bound for all mappings
and moves away from it until a mapping is found below. A pass that ends without one proves that none is there. So a
search that ends proves its result optimal, up to rounding in float64 (1e-9 of the value), and one that is stopped still
proves `lower_bound`.

A mapping is worth what `mapping_cost.evaluate_mappings` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, inf, prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError
from accel_models.mapper_problem import EDP, ENERGY, LATENCY, Budget, Problem
from accel_models.mapping import DIMS, LoopShape, Mapping
from accel_models.mapping_beam import beam_mapping
from accel_models.mapping_cost import MappingScores, MappingTable, evaluate_mappings
from accel_models.mapping_space import Hierarchy, SpatialAxis, refuse_no_room
from accel_models.smooth import next_smooth

__all__ = ["Hierarchy", "MapperResult", "SpatialAxis", "find_mapping", "find_mappings", "padded_extents"]

Objective = Literal["energy", "latency", "edp"]
OBJECTIVES: dict[str, int] = {"energy": ENERGY, "latency": LATENCY, "edp": EDP}
FIRST_GAP, GROWTH = 0.02, 1.5
"""Share above the bound at which the threshold starts; what it grows by after each pass."""
PASSES, FEW_PASSES = 300, 10
"""At most; few: to look for the cheapest mapping at the bound of the latency before that latency is known to exist."""
KEPT, BEAMS = 8, 3
"""Problems whose tables are kept between passes; padded layers, those of the least bounds, with a first mapping."""


EAGER = 1_000_000
"""Nodes to search without a first mapping: most layers of three levels end before a beam search would."""


@dataclass(frozen=True, kw_only=True)
class MapperResult:
    """The best mapping found and what is proven of it."""

    shape: LoopShape
    """The layer as asked for."""
    padded: LoopShape
    """The layer as mapped and counted; extents are at least those of `shape`."""
    mapping: Mapping
    cycles: int
    energy_pj: float
    objective: Objective
    value: float
    """Cycles, pJ, or cycles x pJ."""
    lower_bound: float
    """No mapping of the space is below, but for rounding; the value where the search is complete."""
    complete: bool
    """False: stopped, and a better mapping may exist; of the least latency, perhaps one of less energy."""
    searched: int
    """Nodes: choices of a stage that were listed or tried; `max_nodes` is looked at after some thousands."""

    @property
    def padding(self) -> dict[str, int]:
        """Iterations added, by dimension."""
        old = self.shape.extents
        return {dim: n - old[dim] for dim, n in self.padded.extents.items() if n > old[dim]}


def find_mapping(
    shape: LoopShape,
    hierarchy: Hierarchy,
    objective: Objective = "energy",
    *,
    max_padding: float = 0.0,
    time_limit_s: float | None = None,
    max_nodes: int | None = None,
) -> MapperResult:
    """The optimal mapping of a layer; among mappings of the least latency, one of the least energy.

    Parameters
    ----------
    max_padding : float, >= 0
        By which share each dimension may grow to fill an axis or to have small factors; 0: exact factors alone.
    time_limit_s : float or None, s
        After which the best mapping so far is returned; 0: the one of the beam search that comes first.
    max_nodes : int or None, >= 0
        The same limit as work, about 0.15 us each: the result is the same on every machine.

    Raises
    ------
    NoMappingError
        Where even tiles of one element do not fit; naming the level and the bytes that miss.
    InvalidInputError
        Where the objective is unknown or a number is out of range.
    """
    if objective not in OBJECTIVES:
        raise InvalidInputError(f"objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    if not 0.0 <= max_padding <= 1.0:
        raise InvalidInputError(f"max_padding = {max_padding!r} must be a share from 0 to 1")
    if time_limit_s is not None and not time_limit_s >= 0.0:
        raise InvalidInputError(f"time_limit_s = {time_limit_s!r} must be a time of at least 0 s")
    if max_nodes is not None and not max_nodes >= 0:
        raise InvalidInputError(f"max_nodes = {max_nodes!r} must be a number of at least 0")
    refuse_no_room(hierarchy)
    shapes = list(padded_shapes(shape, hierarchy, max_padding))
    whole = Budget(time_limit_s, max_nodes)
    proven = 0.0
    for budget in (whole.part(EAGER), whole):
        search = _Search(shapes, hierarchy, OBJECTIVES[objective], budget)
        if budget is whole:
            search.start()
        if objective == "latency":
            search = _of_least_latency(search)
        else:
            search.deepen(PASSES)
        proven = search.proven = max(proven, search.proven)
        if search.ended:
            break
        whole.spend(0 if budget is whole else budget.spent)
    return search.result(shape, objective)


def find_mappings(
    shapes: Sequence[LoopShape],
    hierarchy: Hierarchy,
    objective: Objective = "energy",
    *,
    max_padding: float = 0.0,
    time_limit_s: float | None = None,
    max_nodes: int | None = None,
    threads: int = 1,
) -> list[MapperResult]:
    """`find_mapping` of many layers, equal ones once, the largest first; the limits are those of each layer."""
    distinct = sorted(set(shapes), key=lambda shape: -shape.macs)

    def find(shape: LoopShape) -> MapperResult:
        return find_mapping(
            shape, hierarchy, objective, max_padding=max_padding, time_limit_s=time_limit_s, max_nodes=max_nodes
        )

    if threads == 1:
        found = [find(shape) for shape in distinct]
    else:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(find, distinct))
    by_shape = dict(zip(distinct, found, strict=True))
    return [by_shape[shape] for shape in shapes]


def padded_extents(extent: int, sizes: Sequence[int], max_padding: float) -> list[int]:
    """The extent; the larger one of which the fewest iterations follow each other when it is spread over the axes, if
    they are fewer; and where it has a prime factor above `smooth.SMOOTH`, the next larger number that has none."""
    limit = int(extent * (1.0 + max_padding))
    grown = {ceil(extent / ways) * ways for most in {*sizes, prod(sizes)} for ways in range(1, most + 1)}
    steps = {n: n // _ways(n, sizes) for n in sorted(grown) if extent <= n <= limit}
    best = min(steps, key=lambda n: steps[n])
    smooth = next_smooth(extent)
    return sorted({extent, best, smooth if smooth <= limit else extent})


def _ways(extent: int, sizes: Sequence[int]) -> int:
    """The most instances over which an extent can be spread evenly."""
    if not sizes:
        return 1
    first, *rest = sizes
    return max(d * _ways(extent // d, rest) for d in range(1, min(first, extent) + 1) if extent % d == 0)


def padded_shapes(shape: LoopShape, hierarchy: Hierarchy, max_padding: float) -> Iterator[LoopShape]:
    """All layers that count as a padded one, the layer itself first."""
    sizes = {dim: [axis.size for axis in hierarchy.axes if dim in axis.dims] for dim in DIMS}
    options = [padded_extents(getattr(shape, dim), sizes[dim], max_padding) for dim in DIMS]
    for extents in product(*options):
        sized: dict[str, Any] = dict(zip(DIMS, extents, strict=True))
        yield replace(shape, **sized)


def _of_least_latency(search: _Search) -> _Search:
    """First as if the bound were reached, for the least energy at once; else the latency, then the energy."""
    bound = max(1, ceil(search.proven * (1.0 - 1e-12)))
    cheap = search.of_energy(bound)
    if search.value <= bound:
        cheap.start_from(search)
    cheap.deepen(FEW_PASSES)
    if cheap.table is None:
        search.deepen(PASSES)
        if not search.ended:
            return search
        bound = search.scored()[0]
        cheap = search.of_energy(bound)
        cheap.start_from(search)
    if not cheap.ended:
        cheap.deepen(PASSES)
    cheap.proven = float(bound)
    return cheap


class _Search:
    """A search over padded layers: the best mapping so far and what is proven."""

    def __init__(
        self, shapes: list[LoopShape], hierarchy: Hierarchy, objective: int, budget: Budget, cap: float = inf
    ) -> None:
        self.shapes, self.hierarchy, self.objective = shapes, hierarchy, objective
        self.budget, self.cap = budget, cap
        self.value, self.ended = inf, False
        self.shape, self.gap = shapes[0], FIRST_GAP
        self.table: MappingTable | None = None
        self.kept: dict[int, Problem] = {}
        self.bounds = [self.problem(i).bound() for i in range(len(shapes))]
        self.proven = min(self.bounds)

    def start(self) -> None:
        """From the mapping of a beam search."""
        for index in sorted(range(len(self.bounds)), key=lambda i: self.bounds[i])[:BEAMS]:
            if self.table is not None and self.bounds[index] >= self.value:
                continue
            shape = self.shapes[index]
            table = beam_mapping(shape, self.hierarchy, self.problem(index).space, self.score)
            assert table is not None  # all loops at the outermost level, if nothing better
            value = float(self.score(self._scores(shape, table), exact=True)[0])
            if self.table is None or value < self.value:
                self.value, self.table, self.shape = value, table, shape

    def score(self, scores: MappingScores, exact: bool = False) -> NDArray[np.float64]:
        """What to minimize; unless `exact`, a share of a cycle tells mappings of equal latency apart by energy."""
        cycles, energy = scores.cycles.astype(np.float64), scores.energy_pj
        if self.objective == LATENCY:
            return cycles if exact else cycles + energy / (energy + 1e12)
        return energy if self.objective == ENERGY else np.multiply(cycles, energy)

    def problem(self, index: int) -> Problem:
        if index in self.kept:
            return self.kept[index]
        problem = Problem(self.shapes[index], self.hierarchy, self.objective, self.cap)
        if len(self.kept) < KEPT:
            self.kept[index] = problem
        return problem

    def of_energy(self, cap: float) -> _Search:
        """The search for the least energy among mappings of at most so many cycles."""
        return _Search(self.shapes, self.hierarchy, ENERGY, self.budget, cap)

    def start_from(self, other: _Search) -> None:
        self.shape, self.table = other.shape, other.table
        self.value = self.scored()[1]

    def deepen(self, passes: int) -> None:
        """Search below a threshold that moves away from the bound until it is passed by the best value."""
        if self.budget.over():
            return
        for index in range(len(self.bounds)):
            problem = self.problem(index)
            problem.sharpen()
            self.bounds[index] = problem.bound()
        least = min(self.bounds)
        self.proven = max(self.proven, least)
        for _ in range(passes):
            theta = min(self.value, least * (1.0 + self.gap) if least > 0.0 else inf)
            if not self._one_pass(theta):
                return
            self.proven = max(self.proven, min(theta, self.value))
            if self.value <= theta:
                self.ended = True
                return
            self.gap *= GROWTH

    def _one_pass(self, theta: float) -> bool:
        """Search all layers below theta; returns whether it ended in time."""
        for index in sorted(range(len(self.bounds)), key=lambda i: self.bounds[i]):
            if self.bounds[index] >= min(theta, self.value):
                continue
            if self.budget.over():
                return False
            found = self.problem(index).run(theta, self.value, self.budget)
            if found.table is not None:
                self.value, self.table, self.shape = found.value, found.table, self.shapes[index]
            if not found.ended:
                return False
        return True

    def scored(self) -> tuple[int, float]:
        """Cycles and pJ of the best mapping."""
        assert self.table is not None
        scores = self._scores(self.shape, self.table)
        return int(scores.cycles[0]), float(scores.energy_pj[0])

    def _scores(self, shape: LoopShape, table: MappingTable) -> MappingScores:
        machine = self.hierarchy
        return evaluate_mappings(shape, machine.levels, table, machine.prices, machine.mac_pj)

    def result(self, shape: LoopShape, objective: Objective) -> MapperResult:
        table = self.table
        assert table is not None
        cycles, energy = self.scored()
        value = {"energy": energy, "latency": float(cycles), "edp": cycles * energy}[objective]
        return MapperResult(
            shape=shape,
            padded=self.shape,
            mapping=table.mapping(0, self.hierarchy.levels),
            cycles=cycles,
            energy_pj=energy,
            objective=objective,
            value=value,
            lower_bound=value if self.ended else min(self.proven, value),
            complete=self.ended,
            searched=self.budget.spent,
        )
