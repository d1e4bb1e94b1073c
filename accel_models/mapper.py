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
from itertools import product
from math import ceil, inf, prod
from time import perf_counter
from typing import Literal

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
            raise InvalidInputError(f"axis inside {self.level!r}: size = {self.size!r} must be an integer of at least 1")


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
            cheap, objective="latency", value=result.value, lower_bound=result.lower_bound, complete=cheap.complete,
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
        self.space = _space(shape, hierarchy)
        ways = self.space.ways[:, 0].astype(float)
        self.most = np.array([1.0, *(prod(ways[c - 1 :]) for c in range(1, self.n_levels + 1)), 1.0])
        reach = np.array([prod(ways[:level]) for level in range(self.n_levels)])
        self.rates = self.hardware.bandwidth * reach
        self.floors = self._first_floors()

    def _first_floors(self) -> NDArray[np.float64]:
        """Of each stage and price set, a floor of all its choices."""
        floors = np.zeros((self.n_levels + 2, self.sets))
        kernel.least_floors(self.extents, self.space, self.hardware, floors)
        return floors

    def bound(self) -> float:
        total = self.hardware.fixed + self.floors.sum(axis=0)
        steps = self.shape.macs / self.most[1]
        return float(kernel.value_of(total, steps, self.rates, self.objective, self.cap))
