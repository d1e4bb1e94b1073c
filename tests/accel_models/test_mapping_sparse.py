"""The statistical model of zeros equals its slow twin, costs the dense model at density 1, and is monotone."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from accel_models.errors import InvalidInputError
from accel_models.mapping import OPERANDS, LoopShape
from accel_models.mapping_cost import MappingTable, evaluate_mappings
from accel_models.mapping_space import Hierarchy
from accel_models.mapping_sparse import ACTIONS, FORMATS, Action, Zeros, evaluate_sparse_mappings
from tests.accel_models.test_mapping_cost import random_levels, random_prices, random_table
from tests.reference.mapping_sparse import cost, empty, excess_bits

BOTH = frozenset({"weight", "input"})


def random_zeros(rng: random.Random, hierarchy: Hierarchy) -> Zeros:
    held = [(level.name, operand) for level in hierarchy.levels for operand in OPERANDS if operand in level.holds]

    def action() -> Action:
        leaders = rng.choice((BOTH, {"weight"}, {"input"}))
        return Action(kind=rng.choice(list(ACTIONS)), leaders=frozenset(leaders))

    return Zeros(
        density={operand: rng.choice((0.0, 0.05, 0.3, 0.5, 0.9, 1.0)) for operand in OPERANDS},
        formats={key: rng.choice(list(FORMATS)) for key in held if rng.random() < 0.8},
        reads={key: action() for key in held if rng.random() < 0.5},
        macs=rng.choice((None, action())),
        run_bits=rng.choice((1, 2, 5)),
        sigmas=rng.choice((0.0, 1.0, 3.0, float("inf"))),
    )


def random_case(rng: random.Random, rows: int) -> tuple[LoopShape, Hierarchy, MappingTable]:
    levels = random_levels(rng)
    hierarchy = Hierarchy(levels=levels, prices=tuple(random_prices(rng, len(levels))), mac_pj=0.7)
    shape, table = random_table(rng, len(levels), rows)
    while shape.macs > 600:
        shape, table = random_table(rng, len(levels), rows)
    return shape, hierarchy, table


def test_expected_cost_equals_that_of_the_slow_twin() -> None:
    rng = random.Random(5)
    saved = 0
    for _ in range(100):
        shape, hierarchy, table = random_case(rng, rows=3)
        zeros = random_zeros(rng, hierarchy)
        scores = evaluate_sparse_mappings(shape, hierarchy, table, zeros)
        for row in range(len(table)):
            mapping = table.mapping(row, hierarchy.levels)
            cycles, energy = cost(shape, mapping, hierarchy, zeros)
            assert scores.energy_pj[row] == pytest.approx(energy, rel=1e-9), f"{shape} {mapping} {zeros}"
            assert cycles * (1 - 1e-9) <= scores.cycles[row] < max(2.0, cycles * (1 + 1e-9) + 1), f"{shape} {mapping}"
            saved += scores.cycles[row] < shape.macs
    assert saved > 30


def test_room_of_a_tile_equals_that_of_the_slow_twin() -> None:
    rng = random.Random(6)
    refused = 0
    for _ in range(100):
        shape, hierarchy, table = random_case(rng, rows=3)
        sized = [replace(level, capacity_bytes=rng.choice((20, 60, 200))) for level in hierarchy.levels[1:]]
        small = replace(hierarchy, levels=(hierarchy.levels[0], *sized))
        zeros = random_zeros(rng, small)
        scores = evaluate_sparse_mappings(shape, small, table, zeros)
        for row in range(len(table)):
            expected = excess_bits(shape, table.mapping(row, hierarchy.levels), small, zeros)
            assert scores.excess_bits[row] == expected, f"{shape} {zeros}"
            assert (scores.cycles[row] == -1) == (expected > 0)
            refused += expected > 0
    assert 20 < refused < 280


def test_density_one_without_formats_costs_the_dense_model_whatever_may_be_skipped() -> None:
    rng = random.Random(7)
    for _ in range(30):
        shape, hierarchy, table = random_case(rng, rows=10)
        zeros = replace(random_zeros(rng, hierarchy), density={}, formats={})
        dense = evaluate_mappings(shape, hierarchy.levels, table, hierarchy.prices, hierarchy.mac_pj)
        sparse = evaluate_sparse_mappings(shape, hierarchy, table, zeros, threads=2)
        assert (dense.cycles == sparse.cycles).all()
        assert sparse.energy_pj == pytest.approx(dense.energy_pj, rel=1e-12)


def test_a_lower_density_never_costs_more_energy_or_cycles() -> None:
    rng = random.Random(8)
    shape, hierarchy, table = random_case(rng, rows=40)
    zeros = replace(random_zeros(rng, hierarchy), sigmas=float("inf"))
    before = None
    for density in (1.0, 0.7, 0.4, 0.1):
        scores = evaluate_sparse_mappings(
            shape, hierarchy, table, replace(zeros, density=dict.fromkeys(OPERANDS, density))
        )
        if before is not None:
            assert (scores.energy_pj <= before.energy_pj * (1 + 1e-12)).all()
            assert (scores.cycles <= before.cycles).all()
        before = scores


def test_a_tile_of_the_slow_twin_is_empty_as_often_as_in_random_masks() -> None:
    rng = np.random.default_rng(0)
    masks = rng.permuted(np.tile(np.arange(20) < 5, (20_000, 1)), axis=1)
    assert (masks[:, :4].sum(axis=1) == 0).mean() == pytest.approx(float(empty(20, 5, 4)), abs=0.015)


def test_wrong_densities_formats_and_actions_are_refused_by_name() -> None:
    rng = random.Random(9)
    shape, hierarchy, table = random_case(rng, rows=1)
    with pytest.raises(InvalidInputError, match="density"):
        Zeros(density={"weight": 1.5})
    with pytest.raises(InvalidInputError, match="format 'csr'"):
        Zeros(density={}, formats={("level0", "weight"): "csr"})
    with pytest.raises(InvalidInputError, match="action 'stop'"):
        Action(kind="stop", leaders=BOTH)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="leaders"):
        Action(kind="gate", leaders=frozenset({"output"}))
    with pytest.raises(InvalidInputError, match="'nowhere'"):
        evaluate_sparse_mappings(shape, hierarchy, table, Zeros(density={}, formats={("nowhere", "weight"): "bitmask"}))
