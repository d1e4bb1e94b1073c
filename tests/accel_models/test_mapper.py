"""The mapper finds what trying every mapping finds, says what it proves, and names what does not fit."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from accel_models import mapper_problem
from accel_models.errors import InvalidInputError, NoMappingError
from accel_models.loopnest import count_accesses, ideal_cycles
from accel_models.mapper import (
    Hierarchy,
    MapperResult,
    Objective,
    SpatialAxis,
    find_mapping,
    find_mappings,
    padded_extents,
    padded_shapes,
)
from accel_models.mapping import DIMS, OPERANDS, LoopShape, StorageLevel, check_mapping
from accel_models.mapping_cost import LevelPrices
from tests.reference.mapper import all_tilings, least, score_all

ALL = frozenset(OPERANDS)
OBJECTIVES: tuple[Objective, ...] = ("energy", "latency", "edp")
CASES = 240
LIMIT = 1500
"""Tilings of a case: its mappings are tried one after the other."""


def random_hierarchy(rng: random.Random) -> Hierarchy:
    count, cheaper = rng.choice((2, 3, 3, 3, 4)), rng.choice((4.0, 4.0, 1.0, 0.5))
    levels, prices = [], []
    for i in range(count):
        bounded = i > 0 and rng.random() < 0.75
        levels.append(
            StorageLevel(
                name=f"level{i}",
                holds=ALL if i == 0 else frozenset(o for o in OPERANDS if rng.random() < 0.75),
                capacity_bytes=rng.choice((4, 6, 8, 12, 20, 40, 80)) * (count - i) if bounded else None,
                word_bits=(rng.choice((4, 8, 16)), rng.choice((8, 16)), rng.choice((8, 16))),
                fanout=rng.choice((None, None, 3, 4, 6)),
                multicast=rng.random() < 0.8,
                spatial_reduction=rng.random() < 0.8,
            )
        )
        pj = [{o: rng.choice((0.0, 1.0, 10.0 * rng.random())) * cheaper**-i for o in OPERANDS} for _ in range(2)]
        prices.append(
            LevelPrices(read_pj=pj[0], write_pj=pj[1], bandwidth=rng.choice((0.5, 1.5, 3.0, 8.0, float("inf"))))
        )
    axes = tuple(
        SpatialAxis(
            level=f"level{rng.randrange(count)}",
            size=rng.choice((2, 3, 4)),
            dims=frozenset(rng.sample(DIMS, rng.choice((2, 4, 8)))),
        )
        for _ in range(rng.choice((0, 1, 1, 2, 2)))
    )
    double = frozenset(level.name for level in levels if rng.random() < 0.2)
    temporal = {
        level.name: frozenset(rng.sample(DIMS, rng.choice((0, 2, 5)))) for level in levels[1:] if rng.random() < 0.3
    }
    return Hierarchy(
        levels=tuple(levels),
        prices=tuple(prices),
        axes=axes,
        mac_pj=rng.random(),
        double_buffered=double,
        temporal=temporal,
    )


def random_shape(rng: random.Random, macs: int = 40) -> LoopShape:
    extents = dict.fromkeys(DIMS, 1)
    size = 1
    for dim in rng.sample("NGKCPQRSKCPQRS", 8):
        factor = rng.choice((1, 2, 2, 3, 4, 5, 6))
        if size * factor <= macs:
            extents[dim] *= factor
            size *= factor
    return LoopShape(
        **extents,
        stride=(rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2))),
        dilation=(rng.choice((1, 1, 2)), rng.choice((1, 1, 2, 3))),
    )


def small_cases(seed: int, count: int) -> list[tuple[LoopShape, Hierarchy]]:
    """Layers and hierarchies with few tilings, and at least one."""
    rng = random.Random(seed)
    cases: list[tuple[LoopShape, Hierarchy]] = []
    while len(cases) < count:
        shape, hierarchy = random_shape(rng), random_hierarchy(rng)
        tilings = sum(1 for _ in zip(all_tilings(shape, hierarchy), range(LIMIT), strict=False))
        if 0 < tilings < LIMIT:
            cases.append((shape, hierarchy))
    return cases


def plain(rf_bytes: int = 512, glb_bytes: int = 108 * 1024) -> Hierarchy:
    """Three levels and 168 PEs, with the relative energies of Eyeriss (ISCA'16, Table IV)."""
    names, words = ("dram", "glb", "rf"), (16, 16, 16)
    sizes = (None, glb_bytes, rf_bytes)
    prices = ((200.0, 8.0), (6.0, 64.0), (1.0, 8.0))
    return Hierarchy(
        levels=tuple(
            StorageLevel(name=name, holds=ALL, capacity_bytes=size, word_bits=words)
            for name, size in zip(names, sizes, strict=True)
        ),
        prices=tuple(
            LevelPrices(read_pj=dict.fromkeys(OPERANDS, pj), write_pj=dict.fromkeys(OPERANDS, pj), bandwidth=bandwidth)
            for pj, bandwidth in prices
        ),
        axes=tuple(SpatialAxis(level="glb", size=size, dims=frozenset("KCPQRS")) for size in (12, 14)),
        mac_pj=1.0,
    )


def assert_scores_are_those_of_the_counts(result: MapperResult, hierarchy: Hierarchy) -> None:
    check_mapping(result.padded, result.mapping)
    counts = count_accesses(result.padded, result.mapping)
    bandwidth = {level.name: price.bandwidth for level, price in zip(hierarchy.levels, hierarchy.prices, strict=True)}
    energy = counts.macs * hierarchy.mac_pj + sum(
        c.reads * price.read_pj[operand] + c.writes * price.write_pj[operand]
        for level, price in zip(counts.levels, hierarchy.prices, strict=True)
        for operand, c in level.operands.items()
    )
    assert result.cycles == ideal_cycles(counts, bandwidth)
    assert result.energy_pj == pytest.approx(energy, rel=1e-9)


def test_the_optimum_equals_that_of_trying_every_mapping() -> None:
    tried = 0
    for number, (shape, hierarchy) in enumerate(small_cases(seed=1, count=CASES)):
        scores = score_all(shape, hierarchy)
        assert scores is not None
        for objective in OBJECTIVES:
            result = find_mapping(shape, hierarchy, objective)
            value, count = least(scores, objective)
            assert result.value == pytest.approx(value, rel=1e-9, abs=1e-9), f"case {number}: {shape} {objective}"
            assert result.complete
            assert result.lower_bound == result.value
            assert_scores_are_those_of_the_counts(result, hierarchy)
            tried += count
            if objective == "latency":
                cheapest = scores.energy_pj[scores.cycles == result.cycles].min()
                assert result.energy_pj == pytest.approx(cheapest, rel=1e-9), f"case {number}: {shape}"
    assert tried > 100_000


def test_the_optimum_over_padded_layers_equals_that_of_trying_them_all() -> None:
    grown = 0
    for shape, hierarchy in small_cases(seed=8, count=12):
        for objective in OBJECTIVES[:2]:
            scores = [score_all(padded, hierarchy) for padded in padded_shapes(shape, hierarchy, 0.4)]
            value = min(least(score, objective)[0] for score in scores if score is not None)
            result = find_mapping(shape, hierarchy, objective, max_padding=0.4)
            assert result.value == pytest.approx(value, rel=1e-9, abs=1e-9)
            grown += bool(result.padding)
    assert grown > 0


def test_padding_fills_an_axis_and_is_reported() -> None:
    shape = LoopShape(K=13, C=8)
    hierarchy = replace(plain(), axes=(SpatialAxis(level="glb", size=7, dims=frozenset("K")),))
    exact, padded = (find_mapping(shape, hierarchy, "latency", max_padding=share) for share in (0.0, 0.1))
    assert exact.padding == {}
    assert padded.padding == {"K": 1}
    assert padded.padded.K == 14
    assert padded.cycles < exact.cycles
    assert_scores_are_those_of_the_counts(padded, hierarchy)


def test_a_prime_extent_grows_to_one_that_can_be_tiled() -> None:
    shape, hierarchy = LoopShape(K=64, C=149, P=13, Q=13), plain(rf_bytes=64, glb_bytes=4096)
    exact, padded = (find_mapping(shape, hierarchy, max_padding=share) for share in (0.0, 0.08))
    assert padded_extents(149, [], 0.08) == [149, 150]
    assert padded_extents(13, [], 0.05) == [13]
    assert padded.value < exact.value
    assert_scores_are_those_of_the_counts(padded, hierarchy)


def test_a_search_in_small_pieces_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, hierarchy = LoopShape(K=16, C=16, P=6, Q=6, R=3, S=3), plain(64, 2048)
    whole = [find_mapping(shape, hierarchy, objective) for objective in OBJECTIVES]
    monkeypatch.setattr(mapper_problem, "NODES", 1)
    for objective, expected in zip(OBJECTIVES, whole, strict=True):
        result = find_mapping(shape, hierarchy, objective)
        assert result.value == expected.value
        assert result.mapping == expected.mapping


def test_loops_stay_where_their_level_allows_them() -> None:
    hierarchy = replace(plain(), temporal={"glb": frozenset("NPQ"), "rf": frozenset()})
    result = find_mapping(LoopShape(K=32, C=24, P=14, Q=14, R=3, S=3), hierarchy)
    free = find_mapping(LoopShape(K=32, C=24, P=14, Q=14, R=3, S=3), plain())
    _, glb, rf = result.mapping.loops
    assert {loop.dim for loop in glb if not loop.spatial} <= set("NPQ")
    assert rf == ()
    assert result.complete
    assert result.value > free.value
    assert_scores_are_those_of_the_counts(result, hierarchy)


def test_the_first_mapping_is_near_the_optimum() -> None:
    ratios = []
    for k, c, size, taps in ((64, 3, 56, 7), (32, 64, 28, 3), (128, 64, 14, 1), (96, 1, 14, 3), (1000, 64, 1, 1)):
        shape = LoopShape(K=k, C=c, P=size, Q=size, R=taps, S=taps)
        for objective in OBJECTIVES:
            first, best = (find_mapping(shape, plain(), objective, max_nodes=limit) for limit in (0, None))
            assert first.lower_bound <= best.value * (1 + 1e-9)
            ratios.append(first.value / best.value)
    assert min(ratios) >= 1 - 1e-9
    assert sum(ratios) / len(ratios) < 1.1
    assert max(ratios) < 1.5


def test_a_limit_of_nodes_stops_at_the_same_mapping_every_time() -> None:
    shape = LoopShape(K=64, C=64, P=28, Q=28, R=3, S=3)
    one, two = (find_mapping(shape, plain(), max_nodes=20_000) for _ in range(2))
    assert not one.complete
    assert one == two
    assert one.lower_bound < one.value
    assert one.searched >= 20_000


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_search_without_time_returns_a_legal_mapping_and_a_bound(objective: Objective) -> None:
    shape = LoopShape(K=64, C=64, P=28, Q=28, R=3, S=3)
    stopped = find_mapping(shape, plain(), objective, time_limit_s=0.0)
    best = find_mapping(shape, plain(), objective)
    assert not stopped.complete
    assert 0.0 < stopped.lower_bound <= best.value * (1 + 1e-9)
    assert stopped.value >= best.value
    assert_scores_are_those_of_the_counts(stopped, plain())


def test_a_larger_buffer_never_makes_the_best_mapping_worse() -> None:
    shape = LoopShape(K=16, C=12, P=8, Q=8, R=3, S=3, stride=(2, 2))
    for sizes in ([(rf, 4096) for rf in (16, 64, 256)], [(64, glb) for glb in (512, 2048, 16384)]):
        energies = [find_mapping(shape, plain(*size)).energy_pj for size in sizes]
        assert energies == sorted(energies, reverse=True)


def test_equal_layers_share_a_result_and_threads_change_none() -> None:
    shapes = [
        LoopShape(K=8, C=8, P=7, Q=7, R=3, S=3),
        LoopShape(K=16, C=4, P=6),
        LoopShape(K=8, C=8, P=7, Q=7, R=3, S=3),
    ]
    one = find_mappings(shapes, plain())
    two = find_mappings(shapes, plain(), threads=2)
    assert one[0] is one[2]
    assert [(r.value, r.mapping) for r in one] == [(r.value, r.mapping) for r in two]


def test_no_legal_mapping_names_the_buffer_and_the_bytes() -> None:
    hierarchy = plain(rf_bytes=5)
    with pytest.raises(NoMappingError, match=r"'rf' needs 6 bytes .*1 bytes are missing") as caught:
        find_mapping(LoopShape(K=2), hierarchy)
    assert caught.value.missing_bytes == 1
    halved = replace(plain(rf_bytes=10), double_buffered=frozenset({"rf"}))
    with pytest.raises(NoMappingError, match="half of it, double buffered"):
        find_mapping(LoopShape(K=2), halved)


def test_wrong_arguments_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="objective 'speed'"):
        find_mapping(LoopShape(), plain(), "speed")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="max_padding"):
        find_mapping(LoopShape(), plain(), max_padding=float("nan"))
    with pytest.raises(InvalidInputError, match="time_limit_s"):
        find_mapping(LoopShape(), plain(), time_limit_s=-1.0)
    with pytest.raises(InvalidInputError, match="max_nodes"):
        find_mapping(LoopShape(), plain(), max_nodes=-1)
    with pytest.raises(InvalidInputError, match="outermost"):
        replace(plain(), temporal={"dram": frozenset("K")})
    with pytest.raises(InvalidInputError, match=r"temporal\['rf'\]: dims \['X'\]"):
        replace(plain(), temporal={"rf": frozenset("KX")})
    with pytest.raises(InvalidInputError, match="level 'pe'"):
        replace(plain(), temporal={"pe": frozenset("K")})
    with pytest.raises(InvalidInputError, match="'X'"):
        SpatialAxis(level="glb", size=4, dims=frozenset("KX"))
    with pytest.raises(InvalidInputError, match="level 'pe'"):
        replace(plain(), axes=(SpatialAxis(level="pe", size=4),))
