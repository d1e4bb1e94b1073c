"""The counts of the loop-nest analysis equal a walk through the nest, and each rule of it by an example."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest

from accel_models.errors import InvalidInputError
from accel_models.loopnest import NestCounts, count_accesses, count_batch, ideal_cycles
from accel_models.mapping import (
    DIMS,
    OPERANDS,
    Loop,
    LoopShape,
    Mapping,
    StorageLevel,
    axis_elements,
    check_mapping,
)
from tests.reference.loopnest import walk

ALL = frozenset(OPERANDS)
LIMIT = 160
"""MACs of a random layer: a walk costs some milliseconds."""


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


def nest(*levels: tuple[StorageLevel, str]) -> Mapping:
    """Levels with their loops written like "K4 P2X"."""
    loops = [tuple(Loop(w[0], int(w[1:].rstrip("X")), w.endswith("X")) for w in text.split()) for _, text in levels]
    return Mapping(tuple(level for level, _ in levels), tuple(loops))


def level(name: str, holds: str = "WIO", **options: object) -> StorageLevel:
    letters = {"W": "weight", "I": "input", "O": "output"}
    return StorageLevel(name=name, holds=frozenset(letters[x] for x in holds), **options)  # type: ignore[arg-type]


DRAM = level("dram")


def test_innermost_irrelevant_loops_reuse_a_weight_and_factors_of_one_do_not_matter() -> None:
    shape = LoopShape(K=4, P=5, Q=3)
    reused = count_accesses(shape, nest((DRAM, "K4 P5 C1 Q3"), (level("rf", "W"), "")))
    assert reused.level("rf").operands["weight"].fills == 4
    lost = count_accesses(shape, nest((DRAM, "P5 K4 Q3"), (level("rf", "W"), "")))
    assert lost.level("rf").operands["weight"].fills == 5 * 4


def test_a_window_that_slides_along_rows_fetches_only_the_new_row() -> None:
    shape = LoopShape(P=6, Q=4, R=3, S=3)
    counts = count_accesses(shape, nest((DRAM, "P6"), (level("glb", "I"), "Q4 R3 S3")))
    assert counts.level("glb").operands["input"].fills == 8 * 6, "each element of the 8 x 6 input once"


def test_a_window_that_starts_again_keeps_what_it_shares_with_the_last_one() -> None:
    shape = LoopShape(K=2, P=2, R=3)
    counts = count_accesses(shape, nest((DRAM, "K2 P2"), (level("glb", "I"), "R3")))
    # windows 0-2, 1-3, and for the second K 0-2, 1-3: 3 + 1 + 1 + 1
    assert counts.level("glb").operands["input"].fills == 6


def test_elements_between_strided_windows_are_not_fetched() -> None:
    shape = LoopShape(P=4, R=1, stride=(3, 1))
    counts = count_accesses(shape, nest((DRAM, ""), (level("glb", "I"), "P4")))
    assert counts.level("glb").operands["input"].fills == 4
    assert axis_elements(4, 2, 3, 1) == 8
    assert axis_elements(4, 3, 2, 2) == 6, "stride and dilation of 2 meet on every second position"


@pytest.mark.parametrize(("stride", "dilation"), [(s, d) for s in range(1, 6) for d in range(1, 6)])
def test_axis_elements_equal_the_set(stride: int, dilation: int) -> None:
    for outputs in range(1, 8):
        for taps in range(1, 8):
            positions = {stride * o + dilation * t for o in range(outputs) for t in range(taps)}
            assert axis_elements(outputs, taps, stride, dilation) == len(positions)


def test_multicast_reads_a_shared_input_once_and_unicast_once_for_each_unit() -> None:
    shape = LoopShape(K=4, C=3)
    for multicast, reads in ((True, 3), (False, 12)):
        counts = count_accesses(shape, nest((level("dram", multicast=multicast), "C3 K4X")))
        assert counts.level("dram").operands["input"].reads == reads


def test_multicast_on_the_diagonal_serves_units_that_need_the_same_row() -> None:
    """Filter rows x output rows as in Eyeriss: a 3 x 4 array needs 6 input rows."""
    counts = count_accesses(LoopShape(P=4, R=3), nest((DRAM, "P4X R3X"), (level("spad", "I"), "")))
    assert counts.level("dram").operands["input"].reads == 6
    assert counts.level("spad").operands["input"].fills == 12


def test_first_visit_of_a_partial_sum_is_free_and_later_ones_are_read_and_written() -> None:
    shape = LoopShape(K=2, C=3)
    counts = count_accesses(shape, nest((DRAM, "C3 K2"), (level("rf", "O"), "")))
    dram, rf = counts.level("dram").operands["output"], counts.level("rf").operands["output"]
    assert (dram.updates, dram.sends, rf.fills, rf.drains) == (6, 4, 4, 6)
    assert (rf.updates, rf.sends) == (6, 4), "a MAC reads the partial sum it was filled with, not a blank one"
    stationary = count_accesses(shape, nest((DRAM, "K2 C3"), (level("rf", "O"), "")))
    assert stationary.level("dram").operands["output"].sends == 0


def test_partial_sums_of_a_column_arrive_as_one_or_are_merged_one_by_one() -> None:
    shape = LoopShape(C=4, K=2)
    for reduction, updates, merges in ((True, 2, 0), (False, 8, 6)):
        at_once = level("dram", spatial_reduction=reduction)
        output = count_accesses(shape, nest((at_once, "K2 C4X"))).level("dram").operands["output"]
        assert (output.updates, output.merges, output.sends) == (updates, merges, 0)


def test_an_operand_that_passes_a_level_is_absent_there() -> None:
    counts = count_accesses(LoopShape(K=2), nest((DRAM, "K2"), (level("glb", "WI"), ""), (level("rf", "O"), "")))
    assert set(counts.level("glb").operands) == {"weight", "input"}
    assert counts.level("dram").operands["output"].updates == 2


def test_depthwise_channels_share_nothing() -> None:
    counts = count_accesses(LoopShape(G=4, P=3, R=3), nest((DRAM, "G4"), (level("glb"), "P3 R3")))
    glb = counts.level("glb").operands
    assert (glb["weight"].fills, glb["input"].fills, glb["output"].drains) == (4 * 3, 4 * 5, 4 * 3)


def test_every_operand_crosses_the_outermost_level_at_least_once() -> None:
    rng = random.Random(5)
    for _ in range(100):
        shape, mapping = random_case(rng)
        counts = count_accesses(shape, mapping)
        outermost = counts.levels[0].operands
        assert outermost["weight"].reads >= shape.words("weight")
        assert outermost["input"].reads >= shape.words("input")
        assert outermost["output"].writes >= shape.words("output")
        assert counts.steps * counts.mac_units == counts.macs == shape.macs


def test_a_batch_counts_as_its_members_do() -> None:
    rng = random.Random(6)
    levels = (DRAM, level("glb", "WI"), level("rf", "O"))
    shapes = [LoopShape(K=2 * rng.randint(1, 3), P=4, R=3, stride=(rng.randint(1, 2), 1)) for _ in range(20)]
    mappings = [
        Mapping(levels, ((Loop("K", s.K // 2), Loop("P", 2)), (Loop("P", 2), Loop("K", 2, True)), (Loop("R", 3),)))
        for s in shapes
    ]
    batch = count_batch(shapes, mappings)
    for i, (shape, mapping) in enumerate(zip(shapes, mappings, strict=True)):
        counts = count_accesses(shape, mapping)
        for j, at in enumerate(counts.levels):
            for operand, c in at.operands.items():
                assert batch[i, j, OPERANDS.index(operand)].tolist() == list(asdict(c).values())


def test_ideal_cycles_are_those_of_the_slowest_level() -> None:
    counts = count_accesses(LoopShape(K=8, C=4), nest((DRAM, "K8 C4"), (level("rf", "O"), "")))
    words = counts.level("dram").reads + counts.level("dram").writes
    assert words == 32 + 32 + 8
    assert ideal_cycles(counts, {}) == 32
    assert ideal_cycles(counts, {"dram": 1.0}) == words
    assert ideal_cycles(counts, {"dram": 5.0}) == 32
    assert ideal_cycles(counts, {"dram": 0.7}) == 103


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (nest((DRAM, "K2 K3")), r"dimension K = 4 but its factors 2 x 3 give 6"),
        (nest((DRAM, "")), r"dimension K = 4 but its factors no loop give 1"),
        (nest((level("dram", fanout=3), "K4X")), r"level 'dram': spatial loops K4X need 4 instances inside.* 3"),
        (
            nest((DRAM, ""), (level("glb", "WO", capacity_bytes=10, word_bits=(8, 8, 32)), "K4")),
            r"level 'glb': a tile needs 20 bytes \(weight 4, output 16\), 10 more than its capacity of 10",
        ),
    ],
)
def test_an_illegal_mapping_is_refused_by_name_and_value(mapping: Mapping, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_mapping(LoopShape(K=4), mapping)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LoopShape(K=0), "dimension K = 0"),
        (lambda: LoopShape(C=-3), "dimension C = -3"),
        (lambda: LoopShape(stride=(1, 0)), "stride = 0"),
        (lambda: LoopShape(K=2**30, C=2**30), "exceed"),
        (lambda: Loop("X", 2), "loop over 'X'"),
        (lambda: Loop("K", 0), "factor of the loop over K = 0"),
        (lambda: level("glb", capacity_bytes=0), "level 'glb': capacity_bytes = 0"),
        (lambda: StorageLevel(name="glb", holds=frozenset({"bias"})), "holds .'bias'."),
        (lambda: nest((level("glb", "WI"), "")), "'glb' is the outermost and must hold all three"),
        (lambda: nest((DRAM, ""), (DRAM, "")), "must differ"),
        (lambda: count_accesses(LoopShape(), nest((DRAM, "")), "scalesim"), "convention 'scalesim'"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused(build: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build()  # type: ignore[operator]
