"""Score many mappings of one layer whose operands have zeros at random: a statistical model as Sparseloop's.

**Zeros.** Of an operand of W words exactly Z = round(density x W) are non-zero, at uniformly random places, so a tile
of T words holds a hypergeometric number of them: T Z / W on average, none with probability C(W - T, Z) / C(W, Z).
Operands are independent. Partial sums have the density of the final outputs.

**Formats.** A level keeps each operand in a format; a tile of T words of b bits with z non-zeros takes

=============  ==================================  ===================================================
format         expected bits (z = density x T)     bits at worst (z as `sigmas` says)
=============  ==================================  ===================================================
dense          T b                                 T b
bitmask        z b + T                             z b + T
coordinates    z (b + ceil(log2 T)) +              the same
               ceil(log2(T + 1))
run_length     (b + w) z / (1 - (1 - z/T)^(2^w))   (b + w) (z + ceil((T - z) / 2^w))
=============  ==================================  ===================================================

(w = `run_bits`; the mean length of runs is that of independent zeros, without the ends of the tile.) What a level
reads and writes are the dense counts of `loopnest.count_accesses` times expected bits / dense bits: prices and
bandwidths stay those of a dense word. A tile must fit with its bits at worst.

**Actions.** Reads of an operand at a level (with the writes that they cause further in, and for outputs the updates)
may look at `leaders`: a read does not happen if the words of a leader that meet what is read, while it stays where it
goes, are all zero. `gate` saves its energy, `skip` also its time. A read further in happens at most as often. The MACs
may look at operands too: of those with a zero, `gate` saves the energy, `skip` also the cycles, all PEs sharing the
rest evenly.

Left out: imbalance between PEs, and the time to find what may be skipped. Several leaders count as independent.

Source: Wu et al., Sparseloop, MICRO 2022, sections 4 and 5 (density models, representation formats, gating and
skipping by leader and follower). Slow plain twin: `tests/reference/mapping_sparse.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Dictionary
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Literal

import numpy as np

from accel_models.errors import InvalidInputError
from accel_models.kernels import mapping_sparse as kernel
from accel_models.mapping import OPERANDS, LoopShape
from accel_models.mapping_cost import MappingScores, MappingTable, finished, prepared
from accel_models.mapping_space import Hierarchy

FORMATS = {
    "dense": kernel.DENSE,
    "bitmask": kernel.BITMASK,
    "coordinates": kernel.COORDINATES,
    "run_length": kernel.RUN_LENGTH,
}
ACTIONS = {"gate": kernel.GATE, "skip": kernel.SKIP}


@dataclass(frozen=True, kw_only=True)
class Action:
    """What happens where a leader is zero.

    Parameters
    ----------
    kind : "gate" (saves energy) or "skip" (saves energy and time)
    leaders : operands that are looked at
    """

    kind: Literal["gate", "skip"]
    leaders: frozenset[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "leaders", frozenset(self.leaders))
        if self.kind not in ACTIONS:
            raise InvalidInputError(f"action {self.kind!r}: choose one of {', '.join(ACTIONS)}")
        if not self.leaders or not self.leaders <= {"weight", "input"}:
            raise InvalidInputError(f"leaders {sorted(self.leaders)}: give weight, input or both")


@dataclass(frozen=True, kw_only=True)
class Zeros:
    """Densities, formats and actions; see the module.

    Parameters
    ----------
    density : operand -> share of non-zeros in [0, 1]; absent: 1
    formats : (level, operand) -> name of a format; absent: dense
    reads : (level, operand) -> Action; absent: all reads happen
    macs : Action or None
    run_bits : int, 1 to 32
        Width of a run of zeros.
    sigmas : float, >= 0
        Room of a tile: the mean of its non-zeros and so many standard deviations; infinite: the most there can be.
        By Cantelli's inequality at most 1 / (1 + sigmas^2) of the tiles need more.
    """

    density: Dictionary[str, float]
    formats: Dictionary[tuple[str, str], str] = field(default_factory=dict)
    reads: Dictionary[tuple[str, str], Action] = field(default_factory=dict)
    macs: Action | None = None
    run_bits: int = 5
    sigmas: float = inf

    def __post_init__(self) -> None:
        for operand, share in self.density.items():
            if operand not in OPERANDS or not 0.0 <= share <= 1.0:
                raise InvalidInputError(f"density[{operand!r}] = {share!r}: give 0 to 1 of {', '.join(OPERANDS)}")
        for name in self.formats.values():
            if name not in FORMATS:
                raise InvalidInputError(f"format {name!r}: choose one of {', '.join(FORMATS)}")
        if not 1 <= self.run_bits <= 32 or not self.sigmas >= 0.0:
            raise InvalidInputError(f"run_bits = {self.run_bits!r} (1 to 32), sigmas = {self.sigmas!r} (at least 0)")


def evaluate_sparse_mappings(
    shape: LoopShape, hierarchy: Hierarchy, table: MappingTable, zeros: Zeros, threads: int = 1
) -> MappingScores:
    """Expected cycles and energy of a table of mappings of one layer; cycles are rounded up.

    Raises
    ------
    InvalidInputError
        Where a row does not cover the layer, or a format or an action names what no level holds.
    """
    numbers = _numbers(hierarchy, zeros)
    layer, scores = prepared(shape, hierarchy.levels, table, hierarchy.prices, hierarchy.mac_pj)
    room = [hierarchy.room_bytes(level) for level in range(len(hierarchy.levels))]
    bits = np.array([-1 if size is None else 8 * size for size in room], np.int64)
    factors, extents, geometry, machine = layer
    run_in_threads(
        lambda start, stop: kernel.evaluate_sparse(
            factors, extents, geometry, machine._replace(capacity_bits=bits), numbers, start, stop, scores
        ),
        len(table),
        threads,
    )
    return finished(shape, table, scores)


def run_in_threads(job: Callable[[int, int], None], rows: int, threads: int) -> None:
    """Call a job for parts of the rows."""
    cuts = [rows * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for part in [pool.submit(job, *cut) for cut in pairwise(cuts)]:
            part.result()


def _numbers(hierarchy: Hierarchy, zeros: Zeros) -> kernel.Zeros:
    n_levels = len(hierarchy.levels)
    at = {
        (level.name, operand): (i, OPERANDS.index(operand))
        for i, level in enumerate(hierarchy.levels)
        for operand in level.holds
    }
    for level, operand in [*zeros.formats, *zeros.reads]:
        if (level, operand) not in at:
            raise InvalidInputError(f"a format or action of {operand!r} at level {level!r}, which does not hold it")
    formats = np.zeros((n_levels, 3), np.int64)
    actions, leaders = np.zeros((2, n_levels + 1, 3), np.int64)
    for key, name in zeros.formats.items():
        formats[at[key]] = FORMATS[name]
    every = [(at[key], action) for key, action in zeros.reads.items()]
    if zeros.macs is not None:
        every.append(((n_levels, 0), zeros.macs))
    for place, action in every:
        actions[place] = ACTIONS[action.kind]
        leaders[place] = sum(1 << OPERANDS.index(leader) for leader in action.leaders)
    density = np.array([zeros.density.get(operand, 1.0) for operand in OPERANDS])
    return kernel.Zeros(density, formats, actions, leaders, int(zeros.run_bits), float(zeros.sigmas))
