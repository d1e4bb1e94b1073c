"""Mappings: the loop nest that runs a layer on a hierarchy of storage levels, as frozen values.

A layer is eight loops (seven and the group); a mapping splits each of them into factors, puts every factor at a
storage level, orders the factors of a level and says which of them run in parallel. What that costs is counted in
`loopnest.py`; here stands only what a mapping is and whether it is legal.
"""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from dataclasses import dataclass
from math import gcd, prod

from accel_models.errors import InvalidInputError

DIMS = ("N", "G", "K", "C", "P", "Q", "R", "S")
"""Batch, group, output channels and input channels of one group, output height and width, filter height and width."""

OPERANDS = ("weight", "input", "output")

RELEVANT = {
    "weight": frozenset("GKCRS"),
    "input": frozenset("NGCPQRS"),
    "output": frozenset("NGKPQ"),
}
"""The dimensions that select an element of an operand; along any other one, the operand is reused."""

MAX_MACS = 2**53
"""Above it neither int64 sums of traffic nor float64 ratios stay exact."""


@dataclass(frozen=True, kw_only=True)
class LoopShape:
    """The extents of a layer's loops; pairs are (height, width).

    Input row h = stride[0] * p + dilation[0] * r, column w = stride[1] * q + dilation[1] * s; padding counts as
    input. Depthwise: G channels, K = C = 1. A product of an M x K and a K x N matrix: P = M, C = K, K = N; a batch of
    such products, each with weights of its own: G = batch.

    Parameters
    ----------
    N, G, K, C, P, Q, R, S : int, >= 1
    stride, dilation : (int, int), >= 1
    """

    N: int = 1
    G: int = 1
    K: int = 1
    C: int = 1
    P: int = 1
    Q: int = 1
    R: int = 1
    S: int = 1
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        for name in DIMS:
            _check_count(f"dimension {name}", getattr(self, name))
        for name in ("stride", "dilation"):
            pair = getattr(self, name)
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise InvalidInputError(f"{name} = {pair!r} must be a pair (height, width)")
            for value in pair:
                _check_count(name, value)
        reach = self.macs * prod(self.stride) * prod(self.dilation)
        if reach > MAX_MACS:
            raise InvalidInputError(f"MACs x strides x dilations = {reach} exceed {MAX_MACS}; split the layer")

    @property
    def extents(self) -> dict[str, int]:
        return {dim: getattr(self, dim) for dim in DIMS}

    @property
    def macs(self) -> int:
        return prod(getattr(self, dim) for dim in DIMS)

    def words(self, operand: str) -> int:
        """Elements of a whole operand."""
        return tile_words(self, self.extents, operand)


@dataclass(frozen=True)
class Loop:
    """One factor of one dimension; spatial: its iterations run side by side, on instances of what lies inside."""

    dim: str
    factor: int
    spatial: bool = False

    def __post_init__(self) -> None:
        if self.dim not in DIMS:
            raise InvalidInputError(f"loop over {self.dim!r}: the dimensions are {', '.join(DIMS)}")
        _check_count(f"factor of the loop over {self.dim}", self.factor)

    def __str__(self) -> str:
        return f"{self.dim}{self.factor}{'X' if self.spatial else ''}"


@dataclass(frozen=True, kw_only=True)
class StorageLevel:
    """A memory and the network that leads inward from it.

    Parameters
    ----------
    name : str
    holds : set of {"weight", "input", "output"}
        What passes by the level is exchanged between the next levels outside and inside that hold it.
    capacity_bytes : int or None
        Of one instance; None: unbounded.
    word_bits : (int, int, int), >= 1
        Width of a stored weight, input and output word.
    fanout : int or None
        Most instances that the network of one instance reaches; None: unbounded.
    multicast : bool
        One read serves every instance inside that needs the element at that moment.
    spatial_reduction : bool
        Partial sums of one output that leave several instances at once arrive as one sum.
    """

    name: str
    holds: frozenset[str]
    capacity_bytes: int | None = None
    word_bits: tuple[int, int, int] = (8, 8, 8)
    fanout: int | None = None
    multicast: bool = True
    spatial_reduction: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", frozenset(self.holds))
        unknown = sorted(self.holds - set(OPERANDS))
        if unknown:
            raise InvalidInputError(f"level {self.name!r} holds {unknown}: the operands are {', '.join(OPERANDS)}")
        if not isinstance(self.word_bits, tuple) or len(self.word_bits) != 3:
            raise InvalidInputError(f"level {self.name!r}: word_bits = {self.word_bits!r} must be three integers")
        for bits in self.word_bits:
            _check_count(f"level {self.name!r}: word_bits", bits)
        for field in ("capacity_bytes", "fanout"):
            if getattr(self, field) is not None:
                _check_count(f"level {self.name!r}: {field}", getattr(self, field))


@dataclass(frozen=True)
class Mapping:
    """Storage levels, outermost first, and the loops of each, outermost first.

    The loops of a level walk over the tiles that it hands inward: temporal ones in time, spatial ones over instances
    of all that lies inside.
    """

    levels: tuple[StorageLevel, ...]
    loops: tuple[tuple[Loop, ...], ...]

    def __post_init__(self) -> None:
        if not self.levels or len(self.levels) != len(self.loops):
            raise InvalidInputError(f"{len(self.levels)} levels and {len(self.loops)} loop lists: give one per level")
        if self.levels[0].holds != frozenset(OPERANDS):
            raise InvalidInputError(f"level {self.levels[0].name!r} is the outermost and must hold all three operands")
        names = [level.name for level in self.levels]
        if len(set(names)) < len(names):
            raise InvalidInputError(f"level names {names} must differ")

    def __str__(self) -> str:
        return " - ".join(
            f"{level.name}[{''.join(o[0].upper() for o in OPERANDS if o in level.holds)}] " + " ".join(map(str, loops))
            for level, loops in zip(self.levels, self.loops, strict=True)
        )

    def instances(self, level: int) -> int:
        """Instances of a level that work: the spatial factors outside it. `len(levels)` counts the MAC units."""
        return prod(loop.factor for loops in self.loops[:level] for loop in loops if loop.spatial)

    def tile_extents(self, level: int) -> dict[str, int]:
        """Extent per dimension of what one instance of a level works on between two changes of its tile."""
        extents = dict.fromkeys(DIMS, 1)
        for loops in self.loops[level:]:
            for loop in loops:
                extents[loop.dim] *= loop.factor
        return extents


def check_mapping(shape: LoopShape, mapping: Mapping) -> None:
    """Refuse a mapping that does not cover the layer, does not fit a buffer or exceeds a fan-out.

    Raises
    ------
    InvalidInputError
        Naming the dimension or the level, and the values.
    """
    _check_cover(shape, mapping)
    for index, level in enumerate(mapping.levels):
        _check_fanout(level, mapping.loops[index])
        _check_capacity(shape, mapping, index)


def tile_words(shape: LoopShape, extents: Dictionary[str, int], operand: str) -> int:
    """Elements of an operand that a box of iterations touches; each counts once, gaps between windows do not."""
    words = prod(extents[dim] for dim in RELEVANT[operand] if operand != "input" or dim in "NGC")
    if operand != "input":
        return words
    rows = axis_elements(extents["P"], extents["R"], shape.stride[0], shape.dilation[0])
    return words * rows * axis_elements(extents["Q"], extents["S"], shape.stride[1], shape.dilation[1])


def axis_elements(outputs: int, taps: int, stride: int, dilation: int) -> int:
    """Distinct values of stride * o + dilation * t for o < outputs, t < taps.

    Two pairs (o, t) meet where o moves by dilation / g and t by -stride / g, g their greatest common divisor: every
    pair that has such a partner inside the box is a repetition.
    """
    g = gcd(stride, dilation)
    return outputs * taps - max(0, outputs - dilation // g) * max(0, taps - stride // g)


def _check_cover(shape: LoopShape, mapping: Mapping) -> None:
    covered = mapping.tile_extents(0)
    for dim, extent in shape.extents.items():
        if covered[dim] != extent:
            factors = " x ".join(str(p.factor) for loops in mapping.loops for p in loops if p.dim == dim) or "no loop"
            raise InvalidInputError(
                f"dimension {dim} = {extent} but its factors {factors} give {covered[dim]}; pad the layer or refactor"
            )


def _check_fanout(level: StorageLevel, loops: tuple[Loop, ...]) -> None:
    spatial = [loop for loop in loops if loop.spatial]
    instances = prod(loop.factor for loop in spatial)
    if level.fanout is not None and instances > level.fanout:
        raise InvalidInputError(
            f"level {level.name!r}: spatial loops {' '.join(map(str, spatial))} need {instances} instances inside, "
            f"its fanout is {level.fanout}"
        )


def _check_capacity(shape: LoopShape, mapping: Mapping, index: int) -> None:
    level = mapping.levels[index]
    if level.capacity_bytes is None:
        return
    extents = mapping.tile_extents(index)
    need = {
        operand: -(-tile_words(shape, extents, operand) * bits // 8)
        for operand, bits in zip(OPERANDS, level.word_bits, strict=True)
        if operand in level.holds
    }
    total = sum(need.values())
    if total > level.capacity_bytes:
        parts = ", ".join(f"{operand} {count}" for operand, count in need.items())
        raise InvalidInputError(
            f"level {level.name!r}: a tile needs {total} bytes ({parts}), {total - level.capacity_bytes} more than "
            f"its capacity of {level.capacity_bytes}; move factors to a level outside it"
        )


def _check_count(what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"{what} = {value!r} must be an integer of at least 1")
