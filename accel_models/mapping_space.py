"""What a mapper may choose from: the hierarchy and its spatial axes, and the tables of them that the kernels read."""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from math import gcd, inf, isqrt, prod

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError, NoMappingError
from accel_models.kernels.nest_terms import Room
from accel_models.kernels.stage_floor import Hardware, Space
from accel_models.loopnest import level_table
from accel_models.mapping import DIMS, OPERANDS, RELEVANT, LoopShape, StorageLevel
from accel_models.mapping_cost import LevelPrices


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
    temporal : level -> dimensions that may have temporal loops at it, as its control allows; absent: any dimension.
        None at a level: its tile is what its spatial loops and the levels inside make of it. The outermost level takes
        what no other one does, so it is not limited.
    """

    levels: tuple[StorageLevel, ...]
    prices: tuple[LevelPrices, ...]
    axes: tuple[SpatialAxis, ...] = ()
    mac_pj: float = 0.0
    double_buffered: frozenset[str] = field(default_factory=frozenset)
    temporal: Dictionary[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.levels or len(self.levels) != len(self.prices):
            raise InvalidInputError(f"{len(self.levels)} levels and {len(self.prices)} prices: give one price a level")
        if self.levels[0].holds != frozenset(OPERANDS):
            raise InvalidInputError(f"level {self.levels[0].name!r} is the outermost and must hold all three operands")
        names = {level.name for level in self.levels}
        if len(names) < len(self.levels):
            raise InvalidInputError(f"level names {[level.name for level in self.levels]} must differ")
        for name in sorted({axis.level for axis in self.axes} | self.double_buffered | set(self.temporal)):
            if name not in names:
                raise InvalidInputError(
                    f"level {name!r} of an axis, double_buffered or temporal: known are {sorted(names)}"
                )
        for name, dims in self.temporal.items():
            unknown = sorted(set(dims) - set(DIMS))
            if unknown or name == self.levels[0].name:
                what = (
                    f"dims {unknown}: known are {', '.join(DIMS)}" if unknown else "the outermost level takes any loop"
                )
                raise InvalidInputError(f"temporal[{name!r}]: {what}")
        if not 0.0 <= self.mac_pj < inf:
            raise InvalidInputError(f"mac_pj = {self.mac_pj!r} must be pJ >= 0")

    def loops_over(self, level: int) -> frozenset[str]:
        """Dimensions that may have temporal loops at a level."""
        return frozenset(self.temporal.get(self.levels[level].name, DIMS))

    def room_bytes(self, level: int) -> int | None:
        """Bytes that a tile may fill; None: any."""
        capacity, name = self.levels[level].capacity_bytes, self.levels[level].name
        return capacity // 2 if capacity is not None and name in self.double_buffered else capacity


def refuse_no_room(hierarchy: Hierarchy) -> None:
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


def hardware_table(shape: LoopShape, hierarchy: Hierarchy, sets: int) -> Hardware:
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
        for parent, child in pairwise(holders):
            parents[operand, child] = parent
    pairs = [(int(parents[2, child]), child) for child in range(n_levels + 1) if parents[2, child] >= 0]
    for parent, child in reversed(pairs):
        tail[:, child] = outputs
        outputs = outputs + read[:, parent, 2] + write[:, child, 2]
    fixed = -outputs * shape.words("output")
    fixed[0] += hierarchy.mac_pj * shape.macs
    bandwidth = np.array([price.bandwidth for price in prices])
    return Hardware(levels, parents, read, write, tail, bandwidth, fixed)


def space_table(shape: LoopShape, hierarchy: Hierarchy, sets: int) -> Space:
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
    fits &= _reachable(hierarchy, lists)
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
    loops = np.array([[dim in hierarchy.loops_over(level) for dim in DIMS] for level in range(len(spreads))])
    across = np.array(
        [
            [any(a.level == level.name and dim in a.dims for a in hierarchy.axes) for dim in DIMS]
            for level in hierarchy.levels
        ]
    )
    primes = _primes(max(extents))
    return Space(vectors, divisors, digit, radix, fits, spreads, ways, loops, across, merges, primes, geometry)


def _reachable(hierarchy: Hierarchy, lists: list[list[int]]) -> NDArray[np.bool_]:
    """Of each level, tiles whose extents some loops at it and further in can make, each dimension on its own."""
    extents = {dim: {1} for dim in DIMS}
    rows = []
    for level in range(len(hierarchy.levels), -1, -1):
        for dim, row in zip(DIMS, lists, strict=True):
            if level < len(hierarchy.levels):
                sizes = [a.size for a in hierarchy.axes if a.level == hierarchy.levels[level].name and dim in a.dims]
                most = row[-1] if dim in hierarchy.loops_over(level) else prod(sizes)
                extents[dim] = {n for n in row if any(n % inner == 0 and n // inner <= most for inner in extents[dim])}
        masks = [[n in extents[dim] for n in row] for dim, row in zip(DIMS, lists, strict=True)]
        rows.append(np.stack(np.meshgrid(*masks, indexing="ij")).all(axis=0).ravel())
    return np.array(rows[::-1])


@cache
def _primes(largest: int) -> NDArray[np.int64]:
    """Smallest prime factor of every number up to the largest; 1 of 1."""
    primes = np.arange(largest + 1)
    for p in range(isqrt(largest), 1, -1):
        primes[p * p :: p] = p
    while (smaller := primes[primes]).tolist() != primes.tolist():
        primes = smaller
    return primes


def one_price_set(hardware: Hardware, m: int) -> Hardware:
    """The hardware with one price set alone."""
    return hardware._replace(
        read=hardware.read[m : m + 1].copy(),
        write=hardware.write[m : m + 1].copy(),
        tail=hardware.tail[m : m + 1].copy(),
        fixed=hardware.fixed[m : m + 1].copy(),
    )


def _merges(hierarchy: Hierarchy, level: int, dim: str, sets: int) -> bool:
    """Whether, for energy alone, instances next to each other along a dimension are better one with a larger tile.

    At the last level, where it may have a loop and nothing further in depends on the order: what is new to the larger
    tile is new to one of the smaller ones, so nothing is moved more often. An operand that passes by this level must
    not be shared among the instances.
    """
    if sets > 1 or level != len(hierarchy.levels) - 1 or dim not in hierarchy.loops_over(level):
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


def work_room(n_levels: int, sets: int) -> Room:
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
        masks=np.zeros((states, 3), np.int64),
        trial=np.zeros((n_levels, 8), np.int64),
    )
