"""The tile pipeline: counts against a slow walk in plain Python, cycles against hand-computed cases."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models.errors import InvalidInputError, UnknownNameError
from accel_models.importers.timeloop import parse_mapping
from accel_models.kernels import tile_pipeline as kernel
from accel_models.mapping import LoopShape
from accel_models.tile_pipeline import (
    TILE_DIMS,
    TilePlan,
    load_tile_machine,
    machine_data,
    measure_tiles,
    plan_tiles,
    tile_latency,
)

MACHINE = load_tile_machine("gemmini_16x16")
FREE = kernel.Costs(*(0.0 for _ in kernel.Costs._fields))

ONE_TILE = TilePlan(
    extents=(1, 4, 16, 16, 1, 1, 16), tile=(1, 4, 16, 16, 1, 1, 16), order=TILE_DIMS, input_size=(4, 16)
)


def plan(**changes: object) -> TilePlan:
    return replace(ONE_TILE, **changes)  # type: ignore[arg-type]


def test_a_tile_loads_pixels_and_weight_rows_and_stores_pixels() -> None:
    (tile,) = measure_tiles(ONE_TILE, MACHINE)
    assert tile[kernel.LOAD_REQUESTS] == 4 * 16 + 16
    assert tile[kernel.LOAD_BEATS] == 4 * 16 + 16
    assert tile[kernel.LOAD_LINES] == (4 * 16 + 16) // 4
    assert tile[kernel.LOAD_COMMANDS] == 4 + 1 + 4  # input rows, weights, clearing the accumulators
    assert tile[kernel.ZERO_ROWS] == 4 * 16
    assert tile[kernel.STORE_REQUESTS] == 4 * 16
    assert tile[kernel.STORE_COMMANDS] == 4


def test_a_row_that_straddles_its_alignment_needs_another_request() -> None:
    aligned = measure_tiles(plan(extents=(1, 1, 1, 64, 1, 1, 4), tile=(1, 1, 1, 64, 1, 1, 4)), MACHINE)[0]
    skewed = measure_tiles(plan(extents=(1, 1, 1, 72, 1, 1, 4), tile=(1, 1, 1, 64, 1, 1, 4)), MACHINE)[0]
    assert aligned[kernel.LOAD_REQUESTS] == skewed[kernel.LOAD_REQUESTS] - 3
    # bytes 72..136 of the second row: 56 bytes of one line, then 8 of the next
    assert kernel._packets(72, 64, 16, 64) == (2, 5)
    assert kernel._packets(0, 64, 16, 64) == (1, 4)
    assert kernel._packets(5, 3, 16, 64) == (1, 1)


@pytest.mark.parametrize(
    ("width", "rows"),
    [(16, 4 * 16), (32, 4 * 32), (20, 4 * (16 + 4) + 12), (7, 4 * 7 + 9), (2, 4 * 4 + 12)],
)
def test_the_last_chunk_of_a_block_streams_as_long_as_the_next_preload_takes(width: int, rows: int) -> None:
    sizes = (1, 4, width, 16, 1, 1, 16)
    (tile,) = measure_tiles(plan(extents=sizes, tile=sizes, input_size=(4, width)), MACHINE)
    assert tile[kernel.BLOCKS] == 1
    assert tile[kernel.BLOCK_ROWS] == rows


def test_padding_is_cleared_and_not_loaded() -> None:
    sizes = (1, 4, 4, 16, 3, 3, 16)
    padded = plan(extents=sizes, tile=sizes, input_size=(4, 4), padding=(1, 1))
    (tile,) = measure_tiles(padded, MACHINE)
    assert tile[kernel.LOAD_REQUESTS] == 4 * 4 + 9 * 16
    assert tile[kernel.ZERO_ROWS] == 4 * 4 + (6 * 6 - 4 * 4)


def test_only_the_last_reduction_tile_stores() -> None:
    counts = measure_tiles(plan(tile=(1, 4, 16, 16, 1, 1, 8)), MACHINE)
    assert counts[:, kernel.STORE_REQUESTS].tolist() == [0, 64]


def test_a_matrix_product_stores_wide_rows_and_clears_nothing() -> None:
    sizes = (1, 1, 32, 64, 1, 1, 64)
    product_plan = plan(extents=sizes, tile=sizes, input_size=(1, 32), matrix=True)
    (tile,) = measure_tiles(product_plan, MACHINE)
    assert tile[kernel.STORE_REQUESTS] == 32
    assert tile[kernel.ZERO_ROWS] == 0
    (convolution,) = measure_tiles(replace(product_plan, matrix=False), MACHINE)
    assert convolution[kernel.STORE_REQUESTS] == 32 * 4


def test_a_second_pass_over_more_than_the_l2_misses_again() -> None:
    def misses(channels: int) -> list[int]:
        extents, tile = (1, 2, 1, 64, 1, 1, channels), (1, 1, 1, 64, 1, 1, channels)
        counts = measure_tiles(plan(extents=extents, tile=tile, input_size=(2, 1)), MACHINE)
        return [int(n) for n in counts[:, kernel.LOAD_L2_MISSES]]

    fits, exceeds = misses(4096), misses(16384)
    assert fits[1] <= 1  # 256 KiB of weights stay
    assert exceeds[1] >= 16384  # 1 MiB of weights do not


sizes = st.tuples(*(st.integers(1, n) for n in (2, 5, 7, 20, 3, 3, 20)))


@settings(max_examples=30, deadline=None)
@given(sizes, sizes, st.permutations(TILE_DIMS), st.sampled_from([1, 2]), st.sampled_from([0, 1]))
def test_counts_equal_a_walk_in_plain_python(
    extents: tuple[int, ...], tile: tuple[int, ...], order: list[str], stride: int, pad: int
) -> None:
    _, p, q, _, r, s, _ = extents
    size = max(1, (p - 1) * stride + r - 2 * pad), max(1, (q - 1) * stride + s - 2 * pad)
    tiled = TilePlan(
        extents=extents,
        tile=tuple(min(a, b) for a, b in zip(extents, tile, strict=True)),
        order=tuple(order),
        input_size=size,
        stride=(stride, stride),
        padding=(pad, pad),
    )
    counts = measure_tiles(tiled, MACHINE)
    expected = [walk(tiled, at) for at in origins(tiled)]
    assert counts[:, kernel.LOAD_BEATS].tolist() == [beats for beats, _, _ in expected]
    assert counts[:, kernel.BLOCKS].tolist() == [blocks for _, blocks, _ in expected]
    assert counts[:, kernel.STORE_REQUESTS].tolist() == [stores for _, _, stores in expected]


def origins(tiled: TilePlan) -> list[dict[str, int]]:
    extents, steps = (dict(zip(TILE_DIMS, values, strict=True)) for values in (tiled.extents, tiled.tile))
    loops = [range(0, extents[dim], steps[dim]) for dim in tiled.order]
    return [dict(zip(tiled.order, at, strict=True)) for at in product(*loops)]


def walk(tiled: TilePlan, at: dict[str, int]) -> tuple[int, int, int]:
    """Load beats, weight blocks and store requests of one tile, element by element."""
    extents, steps = (dict(zip(TILE_DIMS, values, strict=True)) for values in (tiled.extents, tiled.tile))
    part = {dim: range(at[dim], min(at[dim] + steps[dim], extents[dim])) for dim in TILE_DIMS}
    (height, width), (stride, _), (pad, _) = tiled.input_size, tiled.stride, tiled.padding
    channels, filters = extents["C"], extents["K"]

    def reach(out: str, tap: str, extent: int) -> list[int]:
        last = part[out][-1] * stride + part[tap][-1] + stride - 1
        return [i for i in range(part[out][0] * stride + part[tap][0] - pad, last - pad + 1) if 0 <= i < extent]

    rows = [
        ((n * height + y) * width + x) * channels + part["C"][0]
        for n in part["N"]
        for y in reach("P", "R", height)
        for x in reach("Q", "S", width)
    ]
    beats = sum(beats_of(address, len(part["C"])) for address in rows)
    for r, s, c in product(part["R"], part["S"], part["C"]):
        beats += beats_of(((r * extents["S"] + s) * channels + c) * filters + part["K"][0], len(part["K"]))
    blocks = -(-len(part["K"]) // 16) * len(part["R"]) * len(part["S"]) * -(-len(part["C"]) // 16)
    last = all(part[dim][-1] == extents[dim] - 1 for dim in "RSC")
    stores = 0
    if last:
        for n, p, q, k in product(part["N"], part["P"], part["Q"], range(part["K"][0], part["K"][-1] + 1, 16)):
            address = ((n * extents["P"] + p) * extents["Q"] + q) * filters + k
            stores += requests_of(address, min(16, part["K"][-1] + 1 - k))
    return beats, blocks, stores


def requests(address: int, length: int) -> list[int]:
    """Sizes of the requests of one row: of the aligned powers of two, the smallest that covers most of the rest."""
    sizes = []
    while length > 0:
        covered = {size: min(size - address % size, length) for size in (16, 32, 64)}
        size = max(covered, key=lambda s: (covered[s], -s))
        sizes.append(size)
        address, length = address + covered[size], length - covered[size]
    return sizes


def beats_of(address: int, length: int) -> int:
    return sum(requests(address, length)) // 16


def requests_of(address: int, length: int) -> int:
    return len(requests(address, length))


def tile_counts(tiles: int, **values: int) -> np.ndarray:
    counts = np.zeros((tiles, kernel.COUNTS), np.int64)
    names = {"LOAD_COMMANDS": 1000, "BLOCKS": 1, "BLOCK_CHUNKS": 1000, "STORE_COMMANDS": 1000} | values
    for name, value in names.items():
        counts[:, getattr(kernel, name)] = value
    return counts


def cycles(counts: np.ndarray, matrix: bool = False, **costs: float) -> float:
    out = kernel.run_pipeline(counts, matrix, MACHINE.hardware_values, FREE._replace(**costs))
    return float(out[kernel.CYCLES])


def test_two_tiles_in_flight_hide_the_loads_behind_the_computation() -> None:
    counts = tile_counts(10, LOAD_BEATS=500, BLOCK_ROWS=1000)
    assert cycles(counts) == pytest.approx(10 * 1000 + 500, rel=0.01)


def test_a_chain_of_computation_store_and_load_binds_every_second_tile() -> None:
    counts = tile_counts(20, LOAD_BEATS=900, BLOCK_ROWS=10, BLOCKS=100, STORE_REQUESTS=1100)
    # tile i + 2 is loaded when all but the last few stores of tile i are done; i + 1 fills half of that time
    assert cycles(counts, store_request=1.0) == pytest.approx(10 * (900 + 1000 + 1100), rel=0.06)


def test_small_tiles_wait_for_the_host() -> None:
    counts = tile_counts(100, LOAD_BEATS=10, BLOCK_ROWS=10)
    assert cycles(counts, host_convolution=300.0) == pytest.approx(100 * 300 + 20, abs=10)
    assert cycles(counts, matrix=True, host_matrix=200.0) == pytest.approx(100 * 200 + 20, abs=10)


def test_short_streams_are_bound_by_the_rate_of_commands() -> None:
    counts = tile_counts(1, BLOCK_ROWS=112, BLOCK_CHUNKS=28, BLOCKS=9)
    assert cycles(counts, issue=8.0) == 9 * 28 * 8.0
    assert cycles(counts, issue=3.0) == 9 * 112


def test_stores_take_a_share_of_the_load_port() -> None:
    counts = tile_counts(50, LOAD_BEATS=1000, BLOCK_ROWS=1, STORE_REQUESTS=400)
    alone = cycles(counts, store_request=1.0)
    assert cycles(counts, store_request=1.0, port_share=0.5) == pytest.approx(alone + 49 * 200, rel=0.02)


def test_no_event_can_make_a_plan_faster() -> None:
    counts = measure_tiles(plan(tile=(1, 2, 8, 8, 1, 1, 8)), MACHINE)
    base = tile_latency(ONE_TILE, MACHINE, counts)
    for name in kernel.Costs._fields:
        dearer = MACHINE.cost_values._replace(**{name: 2 * getattr(MACHINE.cost_values, name)})
        slack = 16 if name == "issue" else 0  # stores begin within the last block: a longer one starts earlier
        assert tile_latency(ONE_TILE, MACHINE, counts, dearer).cycles >= base.cycles - slack, name


def test_latency_is_at_least_what_the_array_and_the_load_port_need() -> None:
    shape = LoopShape(K=64, C=64, P=14, Q=14, R=3, S=3)
    mapping = parse_mapping("L3[WIO] K4 Q2 - L2[WI] K16X - L1[O] R3 S3 C4 C16X P14 - L0[W] Q7")
    latency = tile_latency(plan_tiles(shape, mapping, (1, 1)), MACHINE)
    assert latency.tiles == 8
    assert latency.cycles >= shape.macs / 256
    assert latency.cycles >= max(latency.compute_cycles, latency.load_cycles)
    assert latency.stall_cycles == latency.cycles - latency.compute_cycles


def test_loops_outside_the_tiles_keep_their_order() -> None:
    shape = LoopShape(K=32, C=8, P=4, Q=6)
    mapping = parse_mapping("L3[WIO] K2 P3 C4 - L2[WI] K16X - L1[O] Q4 - L0[W] C2 P2")
    made = plan_tiles(shape, mapping)
    assert made.order[-3:] == ("K", "Q", "C")  # Timeloop's P is our Q
    assert made.tile == (1, 4, 2, 16, 1, 1, 2)
    assert made.tiles == 2 * 3 * 4


def test_the_library_machine_has_a_dozen_costs_each_with_unit_meaning_and_source() -> None:
    assert len(MACHINE.costs) <= 12
    for constant in [*MACHINE.costs.values(), *MACHINE.hardware.values()]:
        assert constant.unit
        assert constant.meaning
        assert constant.source


def test_a_machine_file_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    data = machine_data(MACHINE)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    assert load_tile_machine(path) == MACHINE

    def broken(name: str, change: object, part: str, key: str) -> Path:
        entry = dict(data[part][key])
        parts = {part: {**data[part], key: {**entry, "value": change}}}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**data, **parts}))
        return file

    for name, change, part, key, message in (
        ("negative", -1.0, "costs", "issue", "at least 0"),
        ("infinite", float("nan"), "costs", "line", "at least 0"),
        ("text", "fast", "costs", "line", "at least 0"),
        ("zero", 0, "hardware", "l2_sets", "hardware.l2_sets = 0"),
        ("odd", 48, "hardware", "dma_bytes", "power of two"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            load_tile_machine(broken(name, change, part, key))
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({**data, "costs": {}}))
    with pytest.raises(InvalidInputError, match="missing"):
        load_tile_machine(tmp_path / "short.yaml")
    with pytest.raises(UnknownNameError, match="gemmini_16x16"):
        load_tile_machine("gemini")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extents": (1, 4, 16, 16, 1, 1, 0)}, "extents"),
        ({"tile": (1, 4)}, "seven integers"),
        ({"order": ("N",)}, "order"),
        ({"stride": (0, 1)}, "stride"),
        ({"matrix": True}, "matrix product"),
        ({"extents": (1, 10**4, 10**4, 1, 1, 1, 1), "tile": (1,) * 7}, "exceed"),
    ],
)
def test_plans_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        plan(**changes)


def test_groups_and_dilation_are_refused() -> None:
    mapping = parse_mapping("L3[WIO] K2 - L2[WI] - L1[O] - L0[W]")
    with pytest.raises(InvalidInputError, match="G = 2"):
        plan_tiles(LoopShape(G=2), mapping)
    with pytest.raises(InvalidInputError, match="dilation"):
        plan_tiles(LoopShape(dilation=(2, 2)), mapping)
