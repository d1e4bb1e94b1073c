"""The optimal mapping of a layer on a hierarchy: what is searched, and what is proven of the result.

**Space.** All factorizations of every dimension over the temporal loops of every level and over the spatial axes that
allow it, and all orders of the temporal loops of every level, such that tiles fit. With `max_padding` also of the
larger extents that `padded_extents` lists: a padded layer is counted as the larger layer it is, remainder iterations
included. Not searched: several temporal loops over one dimension at one level, with another one between them.

**Method.** Branch and bound (`kernels/mapper.py`) below a threshold that starts at a bound for all mappings and grows
until a mapping below it is found; a pass that ends without one proves that none is there. So the search that ends
proves its result optimal up to `ROUNDING`, and one that runs out of time still proves `lower_bound`.

The price of a mapping is that of `mapping_cost.evaluate_mappings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from math import ceil, gcd, inf, isqrt, prod
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError, NoMappingError
from accel_models.kernels import mapper as kernel
from accel_models.kernels.nest_order import Room
from accel_models.loopnest import level_table
from accel_models.mapping import DIMS, OPERANDS, RELEVANT, LoopShape, Mapping, StorageLevel
from accel_models.mapping_cost import LevelPrices, MappingTable, evaluate_mappings

Objective = Literal["energy", "latency", "edp"]
OBJECTIVES: dict[str, int] = {"energy": 0, "latency": 1, "edp": 2}
ROUNDING = 1e-9
FIRST_GAP = 0.02
"""Share above the bound at which the threshold starts; doubled after each pass."""
NODES = 200_000
"""Between two looks at the clock."""


@dataclass(frozen=True, kw_only=True)
class SpatialAxis:
    """One axis of the network inside a level, along which loops may run in parallel.

    Parameters
    ----------
    level : str
    size : int, >= 1
    dims : set of `mapping.DIMS`
    """

    level: str
    size: int
    dims: frozenset[str] = frozenset(DIMS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", frozenset(self.dims))
        unknown = sorted(self.dims - set(DIMS))
        if unknown:
            raise InvalidInputError(f"axis inside {self.level!r}: dims {unknown}: the dimensions are {', '.join(DIMS)}")
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise InvalidInputError(
                f"axis inside {self.level!r}: size = {self.size!r} must be an integer of at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """The machine that layers are mapped on.

    Parameters
    ----------
    levels : outermost first
    prices : one a level
    axes : where loops may run in parallel; axes of one level multiply, up to its fanout
    mac_pj : float, pJ, >= 0
    double_buffered : names of levels of which half holds the tile, the other half receives the next one
    """

    levels: tuple[StorageLevel, ...]
    prices: tuple[LevelPrices, ...]
    axes: tuple[SpatialAxis, ...] = ()
    mac_pj: float = 0.0
    double_buffered: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if not self.levels or len(self.levels) != len(self.prices):
            raise InvalidInputError(f"{len(self.levels)} levels and {len(self.prices)} prices: give one price a level")
        if self.levels[0].holds != frozenset(OPERANDS):
            raise InvalidInputError(f"level {self.levels[0].name!r} is the outermost and must hold all three operands")
        names = {level.name for level in self.levels}
        if len(names) < len(self.levels):
            raise InvalidInputError(f"level names {[level.name for level in self.levels]} must differ")
        for name in sorted({axis.level for axis in self.axes} | self.double_buffered):
            if name not in names:
                raise InvalidInputError(f"level {name!r} of an axis or of double_buffered: known are {sorted(names)}")
        if not 0.0 <= self.mac_pj < inf:
            raise InvalidInputError(f"mac_pj = {self.mac_pj!r} must be pJ >= 0")

    def room_bytes(self, level: int) -> int | None:
        """Bytes that a tile may fill; None: any."""
        capacity, name = self.levels[level].capacity_bytes, self.levels[level].name
        return capacity // 2 if capacity is not None and name in self.double_buffered else capacity


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
    """No mapping of the space is below, but for rounding; equal to `value` where the search is complete."""
    complete: bool
    """False: time ran out, and a better mapping may exist."""
    searched: int
    """Nodes of the search tree."""

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
) -> MapperResult:
    """The optimal mapping of a layer; among mappings of the least latency, one of the least energy.

    Parameters
    ----------
    max_padding : float, >= 0
        By which share each dimension that an axis allows may grow to fill the axis; 0: exact factors alone.
    time_limit_s : float or None, s
        After which the best mapping so far is returned.

    Raises
    ------
    NoMappingError
        Where even tiles of one element do not fit; naming the level and the bytes that miss.
    InvalidInputError
        Where the objective is unknown.
    """
    if objective not in OBJECTIVES:
        raise InvalidInputError(f"objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    if not max_padding >= 0.0:
        raise InvalidInputError(f"max_padding = {max_padding!r} must be a share of at least 0")
    _refuse_no_room(hierarchy)
    deadline = inf if time_limit_s is None else perf_counter() + time_limit_s
    shapes = list(padded_shapes(shape, hierarchy, max_padding))
    result = _search(shape, shapes, hierarchy, objective, inf, deadline)
    if objective == "latency" and result.complete and perf_counter() < deadline:
        cheap = _search(shape, shapes, hierarchy, "energy", result.cycles, deadline, result)
        return replace(
            cheap,
            objective="latency",
            value=result.value,
            lower_bound=result.lower_bound,
            complete=cheap.complete,
            searched=result.searched + cheap.searched,
        )
    return result


def find_mappings(
    shapes: Sequence[LoopShape],
    hierarchy: Hierarchy,
    objective: Objective = "energy",
    *,
    max_padding: float = 0.0,
    time_limit_s: float | None = None,
    threads: int = 1,
) -> list[MapperResult]:
    """`find_mapping` of many layers, equal ones once, the largest first; the time limit is that of each layer."""
    distinct = sorted(set(shapes), key=lambda shape: -shape.macs)

    def find(shape: LoopShape) -> MapperResult:
        return find_mapping(shape, hierarchy, objective, max_padding=max_padding, time_limit_s=time_limit_s)

    if threads == 1:
        found = [find(shape) for shape in distinct]
    else:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(find, distinct))
    by_shape = dict(zip(distinct, found, strict=True))
    return [by_shape[shape] for shape in shapes]


def padded_extents(extent: int, sizes: Sequence[int], max_padding: float) -> list[int]:
    """The extent, and the multiples next to it of every number of instances up to the largest axis."""
    limit = int(extent * (1.0 + max_padding))
    grown = {ceil(extent / ways) * ways for size in sizes for ways in range(2, size + 1)}
    return sorted({extent} | {n for n in grown if n <= limit})


def padded_shapes(shape: LoopShape, hierarchy: Hierarchy, max_padding: float) -> Iterator[LoopShape]:
    """All layers that count as a padded one, the layer itself first."""
    sizes = {dim: [axis.size for axis in hierarchy.axes if dim in axis.dims] for dim in DIMS}
    options = [padded_extents(getattr(shape, dim), sizes[dim], max_padding) for dim in DIMS]
    for extents in product(*options):
        yield replace(shape, **dict(zip(DIMS, extents, strict=True)))


def _refuse_no_room(hierarchy: Hierarchy) -> None:
    for index, level in enumerate(hierarchy.levels):
        room = hierarchy.room_bytes(index)
        if room is None:
            continue
        need = {o: -(-bits // 8) for o, bits in zip(OPERANDS, level.word_bits, strict=True) if o in level.holds}
        missing = sum(need.values()) - room
        if missing > 0:
            parts = ", ".join(f"{operand} {count}" for operand, count in need.items())
            half = " (half of it, double buffered)" if level.name in hierarchy.double_buffered else ""
            raise NoMappingError(
                f"no legal mapping: level {level.name!r} needs {sum(need.values())} bytes for one word of each operand "
                f"({parts}) but a tile may fill {room}{half}: {missing} bytes are missing; enlarge it or hold less",
                missing,
            )


class _Problem:
    """One padded layer on one hierarchy, as the kernels read it."""

    def __init__(self, shape: LoopShape, hierarchy: Hierarchy, objective: int, cap: float) -> None:
        self.shape, self.objective, self.cap = shape, objective, cap
        self.n_levels = len(hierarchy.levels)
        self.sets = 1 if objective == 0 and cap == inf else 1 + self.n_levels
        self.extents = np.array([shape.extents[dim] for dim in DIMS], np.int64)
        self.hardware = _hardware(shape, hierarchy, self.sets)
        self.space = _space(shape, hierarchy, self.sets)
        ways = self.space.ways[:, 0].astype(float)
        self.most = np.array([1.0, *(prod(ways[c - 1 :]) for c in range(1, self.n_levels + 1)), 1.0])
        reach = np.array([prod(ways[:level]) for level in range(self.n_levels)])
        self.rates = self.hardware.bandwidth * reach
        self.columns = np.empty((self.n_levels + 1, len(self.space.vectors), self.sets, kernel.FLOORS))
        self.group_floors = np.empty(self.columns.shape[:3])
        kernel.group_floors(self.extents, self.space, self.hardware, self.columns, self.group_floors)
        self.floors = np.zeros((self.n_levels + 2, self.sets))
        self.floors[1:-1] = self.group_floors[1:].min(axis=1)
        self.room = _room(self.n_levels, self.sets)
        self.single = [_one_set(self.hardware, m) for m in range(self.sets)], _room(self.n_levels, 1)
        if ways[0] == 1:
            self._raise_first_floors()

    def _raise_first_floors(self) -> None:
        """The least exact costs of the first stage, as no instances outside it share anything."""
        for m in range(self.sets):
            costs = self.group_floors[1, :, m]
            ascending = np.argsort(costs, kind="stable")
            pairs = np.stack([ascending, ascending], axis=1)
            self.floors[1, m] = self._price_first(pairs, costs[ascending], m, True)

    def _price_first(self, pairs: NDArray[np.int64], costs: NDArray[np.float64], m: int, only_least: bool) -> float:
        trial = np.zeros((self.n_levels, 8), np.int64)
        return float(
            kernel.price_first(
                pairs, costs, self.extents, self.space, self.single[0][m], self.single[1], trial, only_least
            )
        )

    def bound(self) -> float:
        """A value that no mapping is below."""
        total = self.hardware.fixed + self.floors.sum(axis=0)
        return float(kernel.value_of(total, self.shape.macs / self.most[1], self.rates, self.objective, self.cap))

    def stages(self, theta: float) -> list[_Stage] | None:
        """The choices of every stage that may lead below theta; None where a stage has none."""
        ways = self.space.ways[:, 0]
        stages: list[_Stage] = []
        tiles, costs = np.zeros(1, np.int64), np.zeros((1, self.sets))
        whole = self.hardware.fixed + self.floors.sum(axis=0)
        for c in range(1, self.n_levels + 1):
            steps = self.shape.macs / self.most[1] * ways[c - 1]
            pairs, bounds, floors = kernel.list_stage(
                c, theta, whole - self.floors[c], whole - self.floors[c] - self.floors[c - 1], steps, self.rates,
                self.objective, self.cap, self.extents, self.space, self.hardware, self.columns, self.group_floors,
                tiles, costs,
            )
            if c == 1:
                for m in range(self.sets):
                    costs = np.zeros(len(pairs))
                    self._price_first(pairs, costs, m, False)
                    floors[:, m, -1] = costs
                kernel.set_bounds(
                    floors, pairs, whole - self.floors[1], steps, self.rates, self.objective, self.cap, self.space, bounds
                )
            keep = bounds < theta
            if not keep.any():
                return None
            stage = _Stage(*kernel.sort_stage(pairs[keep], bounds[keep], floors[keep]))
            stages.append(stage)
            tiles, costs = stage.pairs[:, 1].copy(), stage.costs()
        return stages

    def run(self, theta: float, best: float, deadline: float) -> _Pass:
        """One pass below theta."""
        listed = self.stages(theta)
        done = _Pass(best)
        if listed is None:
            return done
        sizes = np.cumsum([0] + [len(stage.pairs) for stage in listed])
        starts = np.concatenate([[0], sizes]).astype(np.int64)
        heads = np.cumsum([0] + [len(stage.group_bounds) for stage in listed])
        rests = np.zeros((self.n_levels + 3, self.sets))
        for c in range(self.n_levels + 1, 0, -1):
            least = listed[c - 1].costs().min(axis=0) if c <= self.n_levels else 0.0
            rests[c] = rests[c + 1] + least
        rests[1:] += self.hardware.fixed
        pointer, state = np.zeros(self.n_levels + 2, np.int64), np.array([1, 0, 0], np.int64)
        pointer[1] = -1
        value, vectors = np.array([best]), np.zeros((self.n_levels + 1, 2), np.int64)
        order, trial = np.zeros((2, self.n_levels, 8), np.int64)
        for stage, start, head in zip(listed, sizes, heads, strict=False):
            stage.pairs[:, 2] += start
            stage.pairs[:, 3] += head
        lists = [np.concatenate(part) for part in zip(*listed, strict=True)]
        while not kernel.search_tiles(
            *lists,
            starts,
            rests,
            self.most,
            theta,
            self.objective,
            self.cap,
            NODES,
            self.extents,
            self.space,
            self.hardware,
            self.room,
            pointer,
            state,
            value,
            vectors,
            order,
            trial,
        ):
            if perf_counter() > deadline:
                done.ended = False
                break
        done.nodes = int(state[1])
        if value[0] < best:
            done.value = float(value[0])
            done.row = self.space.vectors[vectors[1:, 0]], self.space.vectors[vectors[1:, 1]], order
        return done


class _Stage(NamedTuple):
    """The choices of one stage, as `kernels.mapper.sort_stage` returns them."""

    pairs: NDArray[np.int64]
    bounds: NDArray[np.float64]
    floors: NDArray[np.float64]
    group_bounds: NDArray[np.float64]
    group_least: NDArray[np.float64]

    def costs(self) -> NDArray[np.float64]:
        """Of each choice and price set, a floor; float64[X, M]."""
        return np.maximum(self.floors[:, :, :4].min(axis=2), self.floors[:, :, -1])


class _Pass:
    """What one pass found: value and, where it is new, (groups, tiles, order)."""

    def __init__(self, best: float) -> None:
        self.value, self.ended, self.nodes = best, True, 0
        self.row: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None = None


def _search(
    shape: LoopShape,
    shapes: list[LoopShape],
    hierarchy: Hierarchy,
    objective: Objective,
    cap: float,
    deadline: float,
    start: MapperResult | None = None,
) -> MapperResult:
    problems = [_Problem(padded, hierarchy, OBJECTIVES[objective], cap) for padded in shapes]
    bounds = [problem.bound() for problem in problems]
    if start is None:
        start = _scored(shape, shapes[0], hierarchy, objective, _plain_row(shapes[0], len(hierarchy.levels)))
    best = start.energy_pj if objective == "energy" else start.value
    proven, gap, nodes = min(bounds), FIRST_GAP, 0
    while True:
        theta = min(proven0 * (1.0 + gap) if (proven0 := min(bounds)) > 0.0 else best, best)
        ended = True
        for problem, bound in sorted(zip(problems, bounds, strict=True), key=lambda pair: pair[1]):
            if bound >= min(theta, best):
                continue
            done = problem.run(theta, best, deadline)
            nodes += done.nodes
            if done.row is not None:
                best = done.value
                start = _scored(shape, problem.shape, hierarchy, objective, _row(problem, done.row))
            ended = ended and done.ended
            if perf_counter() > deadline:
                ended = ended and bound == max(bounds)
                break
        if ended:
            proven = max(proven, min(theta, best))
        if not ended or best <= theta:
            break
        gap *= 2.0
    complete = ended and best <= theta
    value = start.energy_pj if objective == "energy" else start.value
    return replace(
        start,
        objective=objective,
        value=value,
        lower_bound=value if complete else min(proven, value),
        complete=complete,
        searched=nodes,
    )


def _plain_row(shape: LoopShape, n_levels: int) -> MappingTable:
    """Every loop at the outermost level: legal where anything is."""
    temporal = np.ones((1, n_levels, 8), np.int32)
    temporal[0, 0] = [shape.extents[dim] for dim in DIMS]
    order = np.broadcast_to(np.arange(8, dtype=np.int8), temporal.shape)
    return MappingTable(temporal, np.ones_like(temporal), order)


def _row(problem: _Problem, row: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]) -> MappingTable:
    groups, tiles, order = row
    outside = np.vstack([problem.extents, tiles[:-1]])
    factors = (outside // groups)[None], (groups // tiles)[None]
    return MappingTable(factors[0].astype(np.int32), factors[1].astype(np.int32), order[None].astype(np.int8))


def _scored(
    shape: LoopShape, padded: LoopShape, hierarchy: Hierarchy, objective: Objective, table: MappingTable
) -> MapperResult:
    scores = evaluate_mappings(padded, hierarchy.levels, table, hierarchy.prices, hierarchy.mac_pj)
    cycles, energy = int(scores.cycles[0]), float(scores.energy_pj[0])
    value = {"energy": energy, "latency": float(cycles), "edp": cycles * energy}[objective]
    return MapperResult(
        shape=shape,
        padded=padded,
        mapping=table.mapping(0, hierarchy.levels),
        cycles=cycles,
        energy_pj=energy,
        objective=objective,
        value=value,
        lower_bound=0.0,
        complete=False,
        searched=0,
    )


def _hardware(shape: LoopShape, hierarchy: Hierarchy, sets: int) -> kernel.Hardware:
    levels, prices = level_table(hierarchy.levels), hierarchy.prices
    n_levels = len(levels)
    read, write = np.zeros((2, sets, n_levels + 1, 3))
    for level, price in enumerate(prices):
        read[0, level] = [price.read_pj.get(o, 0.0) for o in OPERANDS]
        write[0, level] = [price.write_pj.get(o, 0.0) for o in OPERANDS]
        if sets > 1 and price.bandwidth < inf:
            read[1 + level, level] = write[1 + level, level] = 1.0
    parents = np.full((3, n_levels + 1), -1, np.int64)
    tail, outputs = np.zeros((sets, n_levels + 1)), np.zeros(sets)
    for operand in range(3):
        holders = [level for level in range(n_levels) if levels[level, operand]] + [n_levels]
        for parent, child in zip(holders, holders[1:], strict=False):
            parents[operand, child] = parent
    pairs = [(int(parents[2, child]), child) for child in range(n_levels + 1) if parents[2, child] >= 0]
    for parent, child in reversed(pairs):
        tail[:, child] = outputs
        outputs = outputs + read[:, parent, 2] + write[:, child, 2]
    fixed = -outputs * shape.words("output")
    fixed[0] += hierarchy.mac_pj * shape.macs
    bandwidth = np.array([price.bandwidth for price in prices])
    return kernel.Hardware(levels, parents, read, write, tail, bandwidth, fixed)


def _space(shape: LoopShape, hierarchy: Hierarchy, sets: int) -> kernel.Space:
    extents = [shape.extents[dim] for dim in DIMS]
    lists = [[d for d in range(1, n + 1) if n % d == 0] for n in extents]
    divisors = np.zeros((8, max(map(len, lists))), np.int64)
    digit = np.zeros((8, max(extents) + 1), np.int64)
    for dim, row in enumerate(lists):
        divisors[dim, : len(row)] = row
        digit[dim, row] = np.arange(len(row))
    counts = [len(row) for row in lists]
    radix = np.array([prod(counts[dim + 1 :]) for dim in range(8)], np.int64)
    vectors = np.stack(np.meshgrid(*lists, indexing="ij"), axis=-1).reshape(-1, 8).astype(np.int64)
    fits = np.array([_fits(shape, hierarchy, level, vectors) for level in range(len(hierarchy.levels))])
    fits = np.vstack([fits, (vectors == 1).all(axis=1)])
    spreads = np.array([_spreads(hierarchy, level, vectors, digit, radix) for level in hierarchy.levels])
    ways = np.ones((len(spreads), 4), np.int64)
    for level, row in enumerate(spreads):
        legal = vectors[row]
        ways[level, 0] = legal.prod(axis=1).max()
        for i, operand in enumerate(OPERANDS):
            unused = [d for d, dim in enumerate(DIMS) if dim not in RELEVANT[operand]]
            ways[level, 1 + i] = legal[:, unused].prod(axis=1).max()
    geometry = np.array(shape.stride + shape.dilation, np.int64)
    merges = np.array([[_merges(hierarchy, level, dim, sets) for dim in DIMS] for level in range(len(spreads) + 1)])
    return kernel.Space(vectors, divisors, digit, radix, fits, spreads, ways, merges, _primes(max(extents)), geometry)


@cache
def _primes(largest: int) -> NDArray[np.int64]:
    """Smallest prime factor of every number up to the largest; 1 of 1."""
    primes = np.arange(largest + 1)
    for p in range(isqrt(largest), 1, -1):
        primes[p * p :: p] = p
    while (smaller := primes[primes]).tolist() != primes.tolist():
        primes = smaller
    return primes


def _one_set(hardware: kernel.Hardware, m: int) -> kernel.Hardware:
    """The hardware with one price set alone."""
    return hardware._replace(
        read=hardware.read[m : m + 1].copy(),
        write=hardware.write[m : m + 1].copy(),
        tail=hardware.tail[m : m + 1].copy(),
        fixed=hardware.fixed[m : m + 1].copy(),
    )


def _merges(hierarchy: Hierarchy, level: int, dim: str, sets: int) -> bool:
    """Whether, for energy alone, instances next to each other along a dimension are better one with a larger tile.

    At the last level, where nothing further in depends on the order: what is new to the larger tile is new to one of
    the smaller ones, so nothing is moved more often. An operand that passes by this level must not be shared among the
    instances.
    """
    if sets > 1 or level != len(hierarchy.levels) - 1:
        return False
    shared = {"weight": "NPQ", "input": "KPQRS", "output": "CRS"}
    return all(dim not in shared[o] for o in OPERANDS if o not in hierarchy.levels[level].holds)


def _fits(shape: LoopShape, hierarchy: Hierarchy, index: int, vectors: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tiles fit a level."""
    room, level = hierarchy.room_bytes(index), hierarchy.levels[index]
    if room is None:
        return np.ones(len(vectors), np.bool_)
    n, g, k, c, p, q, r, s = vectors.T
    words = {"weight": g * k * c * r * s, "output": n * g * k * p * q}
    words["input"] = n * g * c * _positions(p, r, shape.stride[0], shape.dilation[0])
    words["input"] *= _positions(q, s, shape.stride[1], shape.dilation[1])
    need = np.zeros(len(vectors), np.int64)
    for operand, bits in zip(OPERANDS, level.word_bits, strict=True):
        if operand in level.holds:
            need += -(-words[operand] * bits // 8)
    return need <= room


def _positions(outputs: NDArray[np.int64], taps: NDArray[np.int64], stride: int, dilation: int) -> NDArray[np.int64]:
    """`mapping.axis_elements` of arrays."""
    common = gcd(stride, dilation)
    twice = np.maximum(0, outputs - dilation // common) * np.maximum(0, taps - stride // common)
    return outputs * taps - twice


def _spreads(
    hierarchy: Hierarchy,
    level: StorageLevel,
    vectors: NDArray[np.int64],
    digit: NDArray[np.int64],
    radix: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which factors the axes inside a level take: each split over axes that allow its dimension, within their sizes."""
    legal = np.zeros(len(vectors), np.bool_)
    legal[0] = True
    for axis in hierarchy.axes:
        if axis.level == level.name:
            allowed = np.array([dim in axis.dims for dim in DIMS])
            along = vectors[((vectors == 1) | allowed).all(axis=1) & (vectors.prod(axis=1) <= axis.size)]
            grown = (vectors[legal][:, None] * along[None]).reshape(-1, 8)
            whole = grown[(vectors[-1] % grown == 0).all(axis=1)]
            legal[(digit[np.arange(8), whole] * radix).sum(axis=1)] = True
    if level.fanout is not None:
        legal &= vectors.prod(axis=1) <= level.fanout
    return legal


def _room(n_levels: int, sets: int) -> Room:
    states = 8 * max(1, n_levels - 1) + 2
    return Room(
        lines=np.zeros((n_levels + 1, 2, 6), np.int64),
        visit=np.zeros((n_levels + 1, 3, sets)),
        fetch=np.zeros((n_levels + 1, 2, sets)),
        least=np.zeros((n_levels + 1, 5)),
        floor=np.zeros((n_levels + 1, sets)),
        flags=np.zeros((states, n_levels + 1), np.int64),
        back=np.zeros((states, n_levels + 1, 2), np.int64),
        inside=np.ones((states, n_levels + 1)),
        sums=np.zeros((states, sets)),
        inputs=np.zeros((states, n_levels + 1, sets)),
        base=np.zeros(sets),
        total=np.zeros(sets),
        sure=np.zeros(states, np.bool_),
        path=np.zeros((states, 2), np.int64),
        masks=np.zeros((states, 4), np.int64),
        trial=np.zeros((n_levels, 8), np.int64),
    )
