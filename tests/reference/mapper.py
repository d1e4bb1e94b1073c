"""The best mapping of a small layer by trying all of them: every factorization, every order, one after the other.

Shares with the mapper only how a mapping is scored (`evaluate_mappings`, itself compared with the counts) and the list
of padded layers; legality is that of `check_mapping`, and axes are filled loop by loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import permutations, product
from math import prod

import numpy as np

from accel_models.mapper import Hierarchy, SpatialAxis
from accel_models.mapping import DIMS, OPERANDS, LoopShape, tile_words
from accel_models.mapping_cost import MappingScores, MappingTable, evaluate_mappings


@cache
def factorizations(n: int, parts: int) -> tuple[tuple[int, ...], ...]:
    """All ways to write n as an ordered product."""
    if parts == 1:
        return ((n,),)
    return tuple((d, *rest) for d in range(1, n + 1) if n % d == 0 for rest in factorizations(n // d, parts - 1))


def all_tilings(shape: LoopShape, hierarchy: Hierarchy) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Temporal and spatial factors, [levels, 8] each, of every legal tiling."""
    n_levels = len(hierarchy.levels)
    slots: list[int | SpatialAxis] = [*range(n_levels), *hierarchy.axes]
    seen = set()
    ways = []
    for dim in DIMS:
        rows = factorizations(getattr(shape, dim), len(slots))
        ways.append(
            [
                row
                for row in rows
                if all(f == 1 or dim in _allowed(hierarchy, at) for at, f in zip(slots, row, strict=True))
            ]
        )
    for rows in product(*ways):
        if any(isinstance(at, SpatialAxis) and prod(r[i] for r in rows) > at.size for i, at in enumerate(slots)):
            continue
        factors = np.ones((2, n_levels, 8), np.int64)
        names = [level.name for level in hierarchy.levels]
        for d, row in enumerate(rows):
            for at, factor in zip(slots, row, strict=True):
                if isinstance(at, int):
                    factors[0, at, d] *= factor
                else:
                    factors[1, names.index(at.level), d] *= factor
        key = factors.tobytes()
        if key not in seen and fits(shape, hierarchy, factors):
            seen.add(key)
            yield factors[0], factors[1]


def _allowed(hierarchy: Hierarchy, at: int | SpatialAxis) -> frozenset[str]:
    if isinstance(at, SpatialAxis):
        return at.dims
    return frozenset(hierarchy.temporal.get(hierarchy.levels[at].name, DIMS))


def fits(shape: LoopShape, hierarchy: Hierarchy, factors: np.ndarray) -> bool:
    extents = factors.prod(axis=0)
    for index, level in enumerate(hierarchy.levels):
        if level.fanout is not None and factors[1, index].prod() > level.fanout:
            return False
        if level.capacity_bytes is None:
            continue
        tile = dict(zip(DIMS, extents[index:].prod(axis=0).tolist(), strict=True))
        need = sum(
            -(-tile_words(shape, tile, operand) * bits // 8)
            for operand, bits in zip(OPERANDS, level.word_bits, strict=True)
            if operand in level.holds
        )
        if need * (2 if level.name in hierarchy.double_buffered else 1) > level.capacity_bytes:
            return False
    return True


def all_mappings(shape: LoopShape, hierarchy: Hierarchy) -> MappingTable | None:
    """Every legal tiling in every order of its loops."""
    temporal, spatial, order = [], [], []
    for times, ways in all_tilings(shape, hierarchy):
        per_level = []
        for level in range(len(hierarchy.levels)):
            moving = [d for d in range(8) if times[level, d] > 1]
            rest = [d for d in range(8) if times[level, d] == 1]
            per_level.append([(*first, *rest) for first in permutations(moving)])
        for orders in product(*per_level):
            temporal.append(times)
            spatial.append(ways)
            order.append(orders)
    if not order:
        return None
    return MappingTable(np.array(temporal, np.int32), np.array(spatial, np.int32), np.array(order, np.int8))


def score_all(shape: LoopShape, hierarchy: Hierarchy) -> MappingScores | None:
    table = all_mappings(shape, hierarchy)
    if table is None:
        return None
    scores = evaluate_mappings(shape, hierarchy.levels, table, hierarchy.prices, hierarchy.mac_pj)
    assert (scores.excess_bits == 0).all()
    return scores


def least(scores: MappingScores, objective: str) -> tuple[float, int]:
    """The least value, and the number of mappings."""
    values = {
        "energy": scores.energy_pj,
        "latency": scores.cycles.astype(float),
        "edp": scores.energy_pj * scores.cycles,
    }[objective]
    return float(values.min()), len(values)
