"""Loop-nest analysis: how often every level of a hierarchy is read and written under a mapping.

**What is resident.** A mapping is one long nest of loops, outermost first; every loop stands at a storage level. At
any moment the temporal loops have one value each; the spatial loops outside a level number its instances. An instance
of a level keeps, of each operand it holds, its *tile*: the set of elements that all loops at this level and inside it
will touch while the loops outside stand still. A tile is a set: elements in the gaps between strided windows are not
in it, an element that two windows share is in it once. The MAC units are the innermost holder of everything, with
tiles of one element, and keep nothing from one step to the next (a latch that does is a storage level of its own).

**What is fetched.** Time runs through all temporal loops like an odometer. When the tile of an instance changes, it
fetches the elements of the new tile that were not in the tile *just before*, from the next level outside that holds
the operand. Nothing older is remembered. So loops that do not move a tile cost nothing as long as no relevant loop is
inside them (stationarity), and a sliding window keeps its overlap with the window before, along P, Q, R or S, also
when an outer loop advances and the inner ones start again. The parent reads an element once for all instances behind
it that fetch it at this moment (`multicast`; halos of neighbours included), otherwise once for each.

**Partial sums.** An output tile is *blank* where no partial sum is known: the first visit of an element starts from
zero and fetches nothing. When a tile leaves, every element is read (drain) and written to the parent (update); tiles
of one output that leave several instances together arrive as one sum (`spatial_reduction`), otherwise one after the
other, each but the first being read, added and written (merge). When a tile arrives, elements whose partial sum the
parent has are read there (send) and written here (fill), in one of the instances that work on them; the others start
blank. A MAC is the same with one element: it reads the partial sum, unless blank, and updates it.

With T the tile's words, V(l) = instances x T x changes of the tile, |O| the outputs: updates U(p) = V(c) / (spatial
factors between p and c that do not index outputs); refills(c) = U(p) - blank(p); blank(c) = V(c) - refills(c);
blank(outermost) = |O|.

The convention ``timeloop`` counts as Timeloop 3 does (recursive nest analysis of NVlabs/timeloop as used for the
ucb-bar/dosa data set; checked against its 34,112 rows, where one level besides DRAM keeps partial sums):

- input tiles are bounding boxes, gaps included;
- of every loop outside a level only iterations 0 and 1 are walked, the second one stands for all later ones; a step
  fetches only what is new if it moves the box along one axis and by the same vector as the step before it did (or if
  that one was a reset), any other step fetches the whole box and is a reset;
- one read serves several instances only where their dimensions do not index the operand at all;
- the first fill of a partial sum counts like any other; the read of a tile that leaves does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError
from accel_models.kernels import loopnest as kernel
from accel_models.mapping import DIMS, OPERANDS, LoopShape, Mapping, StorageLevel, check_mapping

Convention = Literal["exact", "timeloop"]
CONVENTIONS: dict[str, int] = {"exact": kernel.EXACT, "timeloop": kernel.TIMELOOP}


@dataclass(frozen=True, kw_only=True)
class OperandCounts:
    """Traffic of one operand at one level, in words, all instances together."""

    tile_words: int
    """Words of the operand in one instance."""
    sends: int
    """Read to go inward: to the next holder, or to the MAC units."""
    drains: int
    """Read to go outward: partial sums that leave."""
    fills: int
    """Written from outside."""
    updates: int
    """Written from inside: partial sums that arrive."""
    merges: int
    """Read to add partial sums that arrive one after the other."""

    @property
    def reads(self) -> int:
        return self.sends + self.drains + self.merges

    @property
    def writes(self) -> int:
        return self.fills + self.updates


@dataclass(frozen=True, kw_only=True)
class LevelCounts:
    """Traffic of one level; operands that pass by it are absent."""

    name: str
    instances: int
    operands: dict[str, OperandCounts]

    @property
    def reads(self) -> int:
        return sum(counts.reads for counts in self.operands.values())

    @property
    def writes(self) -> int:
        return sum(counts.writes for counts in self.operands.values())


@dataclass(frozen=True, kw_only=True)
class NestCounts:
    """What a layer moves and computes under a mapping."""

    macs: int
    steps: int
    """Cycles of computing: the product of all temporal loops, one MAC a unit and step."""
    mac_units: int
    """MAC units that work."""
    levels: tuple[LevelCounts, ...]
    """Outermost first."""

    def level(self, name: str) -> LevelCounts:
        return next(level for level in self.levels if level.name == name)


def count_accesses(shape: LoopShape, mapping: Mapping, convention: Convention = "exact") -> NestCounts:
    """Exact traffic of one layer under one legal mapping.

    Raises
    ------
    InvalidInputError
        Where the mapping does not cover the layer, does not fit a buffer or exceeds a fan-out.
    """
    check_mapping(shape, mapping)
    loops = loop_table([mapping])
    out = np.zeros((1, len(mapping.levels), 3, 6), np.int64)
    kernel.count_nests(loops, geometry_table([shape]), level_table(mapping.levels), _code(convention), out)
    levels = tuple(
        LevelCounts(name=level.name, instances=mapping.instances(i), operands=_operands(level, out[0, i]))
        for i, level in enumerate(mapping.levels)
    )
    mac_units = mapping.instances(len(mapping.levels))
    return NestCounts(macs=shape.macs, steps=shape.macs // mac_units, mac_units=mac_units, levels=levels)


def count_batch(
    shapes: list[LoopShape], mappings: list[Mapping], convention: Convention = "exact"
) -> NDArray[np.int64]:
    """Traffic of many mappings on one hierarchy, unchecked; the fields of `OperandCounts` in the last axis.

    Returns
    -------
    int64[B, levels, 3 operands, 6]
    """
    levels = mappings[0].levels
    out = np.zeros((len(mappings), len(levels), 3, 6), np.int64)
    kernel.count_nests(loop_table(mappings), geometry_table(shapes), level_table(levels), _code(convention), out)
    return out


def ideal_cycles(counts: NestCounts, bandwidth: dict[str, float]) -> int:
    """Latency if everything overlaps: the largest over computing and every level of words moved / bandwidth.

    Parameters
    ----------
    bandwidth : dict
        Level name -> words a cycle of one instance, reads and writes together; a level that is absent never limits.

    Returns
    -------
    int, cycles, rounded up
    """
    cycles = counts.steps
    for level in counts.levels:
        if level.name in bandwidth:
            words = level.reads + level.writes
            cycles = max(cycles, int(np.ceil(words / (bandwidth[level.name] * level.instances))))
    return cycles


def loop_table(mappings: list[Mapping]) -> NDArray[np.int64]:
    """Loops as the kernel reads them, int64[B, M, 4]; shorter nests are padded with factors of 1."""
    nests = [_loop_rows(mapping) for mapping in mappings]
    table = np.zeros((len(nests), max(map(len, nests), default=0), 4), np.int64)
    table[:, :, kernel.FACTOR] = 1
    for i, rows in enumerate(nests):
        if rows:
            table[i, : len(rows)] = rows
    return table


def geometry_table(shapes: list[LoopShape]) -> NDArray[np.int64]:
    """Strides and dilations as the kernel reads them, int64[B, 4]."""
    return np.array([shape.stride + shape.dilation for shape in shapes], np.int64).reshape(-1, 4)


def level_table(levels: tuple[StorageLevel, ...]) -> NDArray[np.int64]:
    """Levels as the kernel reads them, int64[L, 5]."""
    rows = [[o in level.holds for o in OPERANDS] + [level.multicast, level.spatial_reduction] for level in levels]
    return np.array(rows, np.int64)


def _loop_rows(mapping: Mapping) -> list[tuple[int, int, int, int]]:
    return [
        (DIMS.index(loop.dim), loop.factor, level, int(loop.spatial))
        for level, loops in enumerate(mapping.loops)
        for loop in loops
    ]


def _operands(level: StorageLevel, counts: NDArray[np.int64]) -> dict[str, OperandCounts]:
    fields = ("tile_words", "sends", "drains", "fills", "updates", "merges")
    return {
        operand: OperandCounts(**dict(zip(fields, map(int, counts[i]), strict=True)))
        for i, operand in enumerate(OPERANDS)
        if operand in level.holds
    }


def _code(convention: str) -> int:
    if convention not in CONVENTIONS:
        raise InvalidInputError(f"convention {convention!r}: choose one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[convention]
