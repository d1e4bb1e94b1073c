"""The counts of the loop-nest analysis equal a walk through the nest, and each rule of it by an example."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest

from accel_models.errors import InvalidInputError
from accel_models.loopnest import NestCounts, count_accesses, count_batch, ideal_cycles
from accel_models.mapping import DIMS, OPERANDS, Loop, LoopShape, Mapping, StorageLevel, check_mapping, tile_words
from tests.reference.loopnest import walk

ALL = frozenset(OPERANDS)
LIMIT = 600
"""MACs of a random layer: a walk costs about a microsecond per MAC, level and operand."""


def random_case(rng: random.Random) -> tuple[LoopShape, Mapping]:
    levels = [StorageLevel(name="dram", holds=ALL, multicast=rng.random() < 0.7, spatial_reduction=rng.random() < 0.7)]
    for i in range(rng.randint(1, 3)):
        holds = frozenset(o for o in OPERANDS if rng.random() < 0.65)
        levels.append(
            StorageLevel(
                name=f"buffer{i}", holds=holds, multicast=rng.random() < 0.7, spatial_reduction=rng.random() < 0.7
            )
        )
    loops: list[list[Loop]] = [[] for _ in levels]
    extents = dict.fromkeys(DIMS, 1)
    macs = 1
    for _ in range(rng.randint(1, 9)):
        dim, factor = rng.choice("NGKCPPPQQRRRSS"), rng.choice((1, 2, 2, 2, 3, 3, 4, 5))
        if macs * factor > LIMIT:
            continue
        macs *= factor
        extents[dim] *= factor
        at = loops[rng.randrange(len(loops))]
        at.insert(rng.randint(0, len(at)), Loop(dim, factor, rng.random() < 0.3))
    shape = LoopShape(
        **extents,
        stride=(rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2, 4))),
        dilation=(rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2, 4))),
    )
    return shape, Mapping(tuple(levels), tuple(map(tuple, loops)))


def flat(counts: NestCounts) -> dict[tuple[str, str], dict[str, int]]:
    return {(level.name, o): asdict(c) for level in counts.levels for o, c in level.operands.items()}


def assert_equal_to_walk(seed: int, cases: int) -> None:
    rng = random.Random(seed)
    for _ in range(cases):
        shape, mapping = random_case(rng)
        assert flat(count_accesses(shape, mapping)) == walk(shape, mapping), f"{shape} {mapping}"


def test_counts_equal_a_walk_of_300_random_nests() -> None:
    assert_equal_to_walk(seed=0, cases=300)


@pytest.mark.slow
def test_counts_equal_a_walk_of_3000_random_nests() -> None:
    assert_equal_to_walk(seed=1, cases=3000)
