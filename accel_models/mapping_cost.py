"""Score many mappings of one layer at once: cycles, energy, and by how much a tile misses its buffer.

For search: counts are those of `loopnest.count_accesses` (convention ``exact``), latency is `loopnest.ideal_cycles`,
and nothing else is kept of a mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError
from accel_models.kernels import mapping_cost as kernel
from accel_models.loopnest import geometry_table, level_table
from accel_models.mapping import DIMS, OPERANDS, Loop, LoopShape, Mapping, StorageLevel


@dataclass(frozen=True, kw_only=True)
class LevelPrices:
    """What a level costs; words are those of its operand.

    Parameters
    ----------
    read_pj, write_pj : dict operand -> pJ a word; an operand that is absent costs nothing
    bandwidth : words a cycle of one instance, reads and writes together; infinite: never limits
    """

    read_pj: dict[str, float]
    write_pj: dict[str, float]
    bandwidth: float = float("inf")

    def __post_init__(self) -> None:
        for name in ("read_pj", "write_pj"):
            for operand, value in getattr(self, name).items():
                if operand not in OPERANDS or not 0.0 <= value < float("inf"):
                    raise InvalidInputError(f"{name}[{operand!r}] = {value!r}: give pJ >= 0 of {', '.join(OPERANDS)}")
        if not self.bandwidth > 0.0:
            raise InvalidInputError(f"bandwidth = {self.bandwidth!r} words a cycle must be positive")


@dataclass(frozen=True, eq=False)
class MappingTable:
    """B mappings on L levels as factors; dimensions in the order of `mapping.DIMS`.

    Parameters
    ----------
    temporal, spatial : int32[B, L, 8], >= 1
    order : int8[B, L, 8]
        Dimensions of the temporal loops of a level, outermost first; its spatial loops stand inside them.
    """

    temporal: NDArray[np.int32]
    spatial: NDArray[np.int32]
    order: NDArray[np.int8]

    def __post_init__(self) -> None:
        shape = self.temporal.shape
        if len(shape) != 3 or shape[2] != 8 or self.spatial.shape != shape or self.order.shape != shape:
            raise InvalidInputError(
                f"temporal {shape}, spatial {self.spatial.shape}, order {self.order.shape}: all must be [B, levels, 8]"
            )

    def __len__(self) -> int:
        return len(self.temporal)

    def mapping(self, row: int, levels: tuple[StorageLevel, ...]) -> Mapping:
        """One row as a loop nest; factors of 1 are left out."""
        nest = []
        for level in range(len(levels)):
            dims = [int(dim) for dim in self.order[row, level]]
            loops = [Loop(DIMS[dim], int(self.temporal[row, level, dim])) for dim in dims]
            loops += [Loop(DIMS[dim], int(self.spatial[row, level, dim]), True) for dim in dims]
            nest.append(tuple(loop for loop in loops if loop.factor > 1))
        return Mapping(levels, tuple(nest))


@dataclass(frozen=True, eq=False)
class MappingScores:
    """One row a mapping; cycles and energy are -1 and NaN where a tile does not fit."""

    cycles: NDArray[np.int64]
    energy_pj: NDArray[np.float64]
    excess_bits: NDArray[np.int64]
    """The most by which the tile of a level exceeds its capacity; 0 where all fit."""


def evaluate_mappings(
    shape: LoopShape,
    levels: tuple[StorageLevel, ...],
    table: MappingTable,
    prices: Sequence[LevelPrices],
    mac_pj: float = 0.0,
    threads: int = 1,
) -> MappingScores:
    """Score a table of mappings of one layer.

    Every row must cover the layer (checked) and keep to the fan-outs (a search that lists them does).

    Returns
    -------
    MappingScores of B rows

    Raises
    ------
    InvalidInputError
        Where a row does not cover the layer, or levels and prices do not match the table.
    """
    layer, scores = prepared(shape, levels, table, prices, mac_pj)
    rows = len(table)
    cuts = [rows * i // threads for i in range(threads + 1)]
    if threads == 1:
        kernel.evaluate_mappings(*layer, 0, rows, scores)
    else:
        with ThreadPoolExecutor(threads) as pool:
            parts = pairwise(cuts)
            for job in [pool.submit(kernel.evaluate_mappings, *layer, *part, scores) for part in parts]:
                job.result()
    return finished(shape, table, scores)


def prepared(
    shape: LoopShape,
    levels: tuple[StorageLevel, ...],
    table: MappingTable,
    prices: Sequence[LevelPrices],
    mac_pj: float,
) -> tuple[tuple[kernel.Factors, NDArray[np.int64], NDArray[np.int64], kernel.Machine], kernel.Scores]:
    """What the kernels take, checked, and scores for them to fill."""
    _check(levels, table, prices)
    rows = len(table)
    scores = kernel.Scores(np.full(rows, -1, np.int64), np.full(rows, np.nan), np.zeros(rows, np.int64))
    factors = kernel.Factors(
        np.ascontiguousarray(table.temporal, np.int32),
        np.ascontiguousarray(table.spatial, np.int32),
        np.ascontiguousarray(table.order, np.int8),
    )
    extents = np.array([shape.extents[dim] for dim in DIMS], np.int64)
    return (factors, extents, geometry_table([shape])[0], _machine(levels, prices, mac_pj)), scores


def finished(shape: LoopShape, table: MappingTable, scores: kernel.Scores) -> MappingScores:
    """The scores, or InvalidInputError naming the first row that is no mapping of the layer."""
    _refuse_wrong_rows(shape, table, scores.excess_bits)
    return MappingScores(scores.cycles, scores.energy_pj, scores.excess_bits)


def _machine(levels: tuple[StorageLevel, ...], prices: Sequence[LevelPrices], mac_pj: float) -> kernel.Machine:
    return kernel.Machine(
        levels=level_table(levels),
        word_bits=np.array([level.word_bits for level in levels], np.int64),
        capacity_bits=np.array(
            [-1 if level.capacity_bytes is None else 8 * level.capacity_bytes for level in levels], np.int64
        ),
        bandwidth=np.array([price.bandwidth for price in prices], np.float64),
        read_pj=np.array([[price.read_pj.get(o, 0.0) for o in OPERANDS] for price in prices]),
        write_pj=np.array([[price.write_pj.get(o, 0.0) for o in OPERANDS] for price in prices]),
        mac_pj=float(mac_pj),
    )


def _check(levels: tuple[StorageLevel, ...], table: MappingTable, prices: Sequence[LevelPrices]) -> None:
    if not len(levels) == len(prices) == table.temporal.shape[1]:
        raise InvalidInputError(
            f"{len(levels)} levels, {len(prices)} prices, factors at {table.temporal.shape[1]} levels: give one each"
        )
    if levels[0].holds != frozenset(OPERANDS):
        raise InvalidInputError(f"level {levels[0].name!r} is the outermost and must hold all three operands")


def _refuse_wrong_rows(shape: LoopShape, table: MappingTable, excess_bits: NDArray[np.int64]) -> None:
    wrong = np.flatnonzero(excess_bits < 0)
    if not len(wrong):
        return
    row = int(wrong[0])
    temporal, spatial, order = table.temporal[row], table.spatial[row], table.order[row]
    if min(temporal.min(), spatial.min()) < 1:
        raise InvalidInputError(f"row {row}: a factor is {min(temporal.min(), spatial.min())}, must be at least 1")
    if (np.sort(order, axis=1) != np.arange(8)).any():
        raise InvalidInputError(f"row {row}: order {order.tolist()} must list the dimensions 0 to 7 once at each level")
    covered = temporal.prod(axis=0, dtype=np.int64) * spatial.prod(axis=0, dtype=np.int64)
    dim = next(i for i, name in enumerate(DIMS) if covered[i] != shape.extents[name])
    raise InvalidInputError(
        f"row {row}: dimension {DIMS[dim]} = {shape.extents[DIMS[dim]]} but its factors give {covered[dim]}"
    )
