"""Scores of many mappings at once equal the counts of each, priced one by one."""

from __future__ import annotations

import random

import numpy as np
import pytest

from accel_models.errors import InvalidInputError
from accel_models.loopnest import NestCounts, count_accesses, ideal_cycles
from accel_models.mapping import DIMS, OPERANDS, LoopShape, StorageLevel
from accel_models.mapping_cost import LevelPrices, MappingTable, evaluate_mappings

ALL = frozenset(OPERANDS)


def random_levels(rng: random.Random) -> tuple[StorageLevel, ...]:
    def holds() -> frozenset[str]:
        return frozenset(o for o in OPERANDS if rng.random() < 0.7)

    return tuple(
        StorageLevel(
            name=f"level{i}",
            holds=ALL if i == 0 else holds(),
            multicast=rng.random() < 0.8,
            spatial_reduction=rng.random() < 0.8,
        )
        for i in range(rng.randint(2, 4))
    )


def random_prices(rng: random.Random, levels: int) -> list[LevelPrices]:
    def pj() -> dict[str, float]:
        return {operand: rng.random() for operand in OPERANDS}

    return [LevelPrices(read_pj=pj(), write_pj=pj(), bandwidth=rng.choice((0.5, 1.5, 8.0))) for _ in range(levels)]


def random_table(rng: random.Random, levels: int, rows: int) -> tuple[LoopShape, MappingTable]:
    extents = {dim: rng.choice((1, 2, 2, 3, 4, 6, 8)) for dim in DIMS}
    shape = LoopShape(
        **extents,
        stride=(rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2))),
        dilation=(rng.choice((1, 1, 2)), rng.choice((1, 1, 2, 3))),
    )
    factors = np.ones((2, rows, levels, 8), np.int32)
    for row in range(rows):
        for d, dim in enumerate(DIMS):
            for prime in {1: (), 2: (2,), 3: (3,), 4: (2, 2), 6: (2, 3), 8: (2, 2, 2)}[extents[dim]]:
                factors[int(rng.random() < 0.3), row, rng.randrange(levels), d] *= prime
    order = np.array([[rng.sample(range(8), 8) for _ in range(levels)] for _ in range(rows)], np.int8)
    return shape, MappingTable(factors[0], factors[1], order)


def priced(counts: NestCounts, prices: list[LevelPrices], mac_pj: float) -> float:
    return counts.macs * mac_pj + sum(
        c.reads * price.read_pj[operand] + c.writes * price.write_pj[operand]
        for level, price in zip(counts.levels, prices, strict=True)
        for operand, c in level.operands.items()
    )


def test_scores_equal_priced_counts_of_random_mappings() -> None:
    rng = random.Random(3)
    for _ in range(60):
        levels = random_levels(rng)
        prices = random_prices(rng, len(levels))
        shape, table = random_table(rng, len(levels), rows=20)
        scores = evaluate_mappings(shape, levels, table, prices, mac_pj=0.7)
        bandwidth = {level.name: price.bandwidth for level, price in zip(levels, prices, strict=True)}
        for row in range(len(table)):
            mapping = table.mapping(row, levels)
            counts = count_accesses(shape, mapping)
            assert scores.cycles[row] == ideal_cycles(counts, bandwidth), f"{shape} {mapping}"
            assert scores.energy_pj[row] == pytest.approx(priced(counts, prices, 0.7), rel=1e-12), f"{shape} {mapping}"


def test_threads_share_the_rows_without_a_difference() -> None:
    rng = random.Random(4)
    levels = random_levels(rng)
    prices = random_prices(rng, len(levels))
    shape, table = random_table(rng, len(levels), rows=101)
    one = evaluate_mappings(shape, levels, table, prices)
    three = evaluate_mappings(shape, levels, table, prices, threads=3)
    assert (one.cycles == three.cycles).all()
    assert (one.energy_pj == three.energy_pj).all()


def test_a_tile_that_does_not_fit_is_not_scored_and_says_by_how_much() -> None:
    levels = (
        StorageLevel(name="dram", holds=ALL),
        StorageLevel(name="glb", holds=ALL, capacity_bytes=10, word_bits=(8, 8, 32)),
    )
    shape = LoopShape(K=4, C=2)
    temporal = np.ones((2, 2, 8), np.int32)
    temporal[0, 1, 2], temporal[0, 1, 3] = 4, 2  # all inside: 8 weights, 2 inputs, 4 outputs of 4 bytes
    temporal[1, 0, 2], temporal[1, 1, 3] = 4, 2  # 2 weights, 2 inputs, 1 output
    order = np.broadcast_to(np.arange(8, dtype=np.int8), temporal.shape)
    prices = [LevelPrices(read_pj={}, write_pj={})] * 2
    scores = evaluate_mappings(shape, levels, MappingTable(temporal, np.ones_like(temporal), order), prices)
    assert scores.excess_bits.tolist() == [8 * (8 + 2 + 16 - 10), 0]
    assert scores.cycles.tolist() == [-1, 8]
    assert np.isnan(scores.energy_pj).tolist() == [True, False]


def test_a_row_that_does_not_cover_the_layer_is_named() -> None:
    factors = np.ones((3, 1, 8), np.int32)
    factors[:, 0, 2] = (4, 4, 2)
    order = np.broadcast_to(np.arange(8, dtype=np.int8), factors.shape)
    table = MappingTable(factors, np.ones_like(factors), order)
    prices = [LevelPrices(read_pj={}, write_pj={})]
    with pytest.raises(InvalidInputError, match="row 2: dimension K = 4 but its factors give 2"):
        evaluate_mappings(LoopShape(K=4), (StorageLevel(name="dram", holds=ALL),), table, prices)


def test_a_factor_below_one_and_a_repeated_dimension_are_refused() -> None:
    factors = np.ones((2, 1, 8), np.int32)
    order = np.tile(np.arange(8, dtype=np.int8), (2, 1, 1))
    prices = [LevelPrices(read_pj={}, write_pj={})]
    levels = (StorageLevel(name="dram", holds=ALL),)
    order[1, 0, 7] = 3
    with pytest.raises(InvalidInputError, match="row 1: order"):
        evaluate_mappings(LoopShape(), levels, MappingTable(factors, factors.copy(), order), prices)
    factors[0, 0, 4] = 0
    with pytest.raises(InvalidInputError, match="row 0: a factor is 0"):
        evaluate_mappings(LoopShape(), levels, MappingTable(factors, np.ones_like(factors), order), prices)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan")])
def test_bandwidth_must_be_positive(bandwidth: float) -> None:
    with pytest.raises(InvalidInputError, match="bandwidth"):
        LevelPrices(read_pj={}, write_pj={}, bandwidth=bandwidth)
