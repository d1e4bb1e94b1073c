"""Sparse arrays in `simulate`: traffic equals a walk of the passes, skipping never beats balance, masks stand beside
densities, and what an array cannot skip it says."""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models.accelerator import Accelerator, library_names, load_accelerator
from accel_models.cost import LayerCost
from accel_models.errors import InvalidInputError, NoMappingError
from accel_models.evaluate import simulate
from accel_models.layers import Conv2d, Gemm, Layer, VectorOp
from accel_models.masks import Mask, weight_mask, weight_shape
from accel_models.sparse_array import SparseArray
from accel_models.sparse_fields import Lanes
from accel_models.sparse_traffic import Blocks, Plan, Room, plans
from accel_models.sparsity import KofN
from accel_models.workload import Workload, load_workload
from tests.accel_models.test_layers import convolutions
from tests.reference import sparse_traffic as walker

SPARSE = [name for name in library_names() if load_accelerator(name).lanes is not None]
ZOO = sorted(Path("cosim/networks/workloads").glob("*.json"))
LAYER = Conv2d(name="c", k=48, c=32, p=7, q=6, r=3, s=3, padding=(1, 1))
every_sparse = pytest.mark.parametrize("name", SPARSE)


def run(machine: Accelerator, layer: Layer, structure: Any = None, mask: Mask | None = None, **more: Any) -> LayerCost:
    structures = {layer.name: structure} if structure is not None else None
    masks = {layer.name: mask} if mask is not None else None
    return simulate(machine, Workload(name="w", layers=(layer,)), structures, masks=masks, **more).layers[0]


def fixed_mask(layer: Conv2d | Gemm, k: int, n: int, seed: int = 0) -> Mask:
    """k of every n weights of a row, along the channels, n a divisor of it."""
    rng, reduction = np.random.default_rng(seed), layer.as_gemm().k
    order = rng.random((layer.weight_elements // n, n)).argsort(axis=1)
    assert reduction % n == 0
    kept = order < k
    if isinstance(layer, Conv2d):
        kept = kept.reshape(layer.k, layer.r, layer.s, -1).transpose(0, 3, 1, 2)
    return weight_mask(kept.reshape(weight_shape(layer)), layer)


def random_mask(layer: Conv2d | Gemm, density: float, seed: int = 0) -> Mask:
    return weight_mask(np.random.default_rng(seed).random(weight_shape(layer)) < density, layer)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Blocks, Room]:
    width, rows, images = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 2))
    pixels, size = width * rows * images, draw(st.integers(1, 6))
    window = draw(st.integers(1, 4))
    stride = draw(st.integers(1, window))
    bits = st.integers(1, 60)
    blocks = Blocks(
        outputs=draw(st.integers(1, 6)), pixels=-(-pixels // size), weight_block_bits=draw(bits), sum_bits=draw(bits),
        reduction=draw(st.integers(1, 9)), image_rows=images * ((rows - 1) * stride + window), row_bits=draw(bits),
        block_pixels=size, all_pixels=pixels, unrolled=Fraction(draw(st.integers(2, 9)), 2), out_width=width,
        out_rows=rows, stride=stride, window=window,
    )  # fmt: skip
    sizes = st.integers(0, 400)
    keeps = draw(st.booleans()), draw(st.booleans())
    room = Room(
        weight_bits=draw(sizes), input_bits=draw(sizes), output_bits=draw(sizes), lanes_keep_weights=keeps[0],
        lanes_keep_inputs=keeps[1],
    )  # fmt: skip
    return blocks, room


def walked(plan: Plan, blocks: Blocks, room: Room) -> walker.Walk:
    """The passes of a plan, one by one."""
    sizes = [int(word) for word in plan.held.replace(",", " ").split() if word.isdigit()]
    if plan.held.startswith("inputs"):
        return walker.inputs_held(blocks, room, sizes[0])
    if plan.held.startswith("weights"):
        line = 2 * blocks.rows(1) * blocks.row_bits <= room.input_bits
        line |= blocks.image_rows * blocks.row_bits <= room.input_bits
        return walker.weights_held(blocks, room, sizes[0], line)
    if plan.held.startswith("nothing"):
        return walker.outputs_held(blocks, 1, 1, 1)
    return walker.outputs_held(blocks, *sizes)


@settings(max_examples=250, deadline=None)
@given(problems())
def test_every_plan_moves_what_a_walk_of_its_passes_moves(problem: tuple[Blocks, Room]):
    blocks, room = problem
    for plan in plans(blocks, room):
        walk = walked(plan, blocks, room)
        assert len(walk.passes) == blocks.outputs * blocks.pixels
        assert plan.weight_fetches == walk.weight_fetches
        assert plan.weight_deliveries == walk.weight_deliveries
        assert plan.parked == walk.parked
        assert plan.input_deliveries == walk.input_deliveries
        if not plan.held.startswith(("outputs", "nothing")):
            assert plan.input_fetches == walk.input_fetches


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(1, 5))
def test_rows_of_pixel_blocks_are_those_that_their_windows_touch(problem: tuple[Blocks, Room], size: int):
    blocks, _ = problem
    groups = walker.groups_of(blocks.pixels, size)
    touched = [min(blocks.image_rows, len(walker.touched_rows(blocks, group[0], size))) for group in groups]
    assert blocks.fetched_rows(size) == max(blocks.image_rows, sum(touched))
    assert blocks.rows(size) >= max(touched)


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(2, 4))
def test_more_room_never_leaves_only_worse_plans(problem: tuple[Blocks, Room], factor: int):
    blocks, room = problem
    larger = replace(
        room,
        weight_bits=factor * room.weight_bits,
        input_bits=factor * room.input_bits,
        output_bits=factor * room.output_bits,
    )
    better = plans(blocks, larger)
    for plan in plans(blocks, room):
        assert any(all(a <= b for a, b in zip(p.moves, plan.moves, strict=True)) for p in better)


def test_lanes_of_files_are_the_fields_of_the_sparse_array():
    known = {field.name: field.default for field in fields(SparseArray) if field.name not in ("name", "source")}
    given_by_files = {name: field.default for name, field in Lanes.model_fields.items()}
    assert {name: given_by_files[name] for name in known} == known
    assert set(given_by_files) - set(known) == {"accumulators", "tile_share"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lanes.skips": "both"}, "lanes.skips: unknown key; did you mean 'skip'"),
        ({"lanes.lane_outputs": 8}, "lanes make 128 multipliers, pe_array.rows x cols = 256"),
        ({"lanes.skip": "all"}, "lanes.skip"),
        ({"lanes.segment": True}, "lanes.segment: must be a number"),
        ({"memories.dram.formats": {"weight": "bitmaps"}}, "nearest: 'bitmask'"),
        ({"memories.input_buffer.formats": {"weight": "bitmask"}}, "does not hold weight"),
        ({"weight_sparsity": {"action": "gate"}}, "says in lanes"),
        ({"pe_array.dataflow": "output_stationary"}, "lanes belong to pe_array.dataflow: sparse"),
        ({"gate_inputs": True}, "see lanes.gate"),
    ],
)
def test_a_wrong_field_is_refused_with_its_path_and_a_remedy(changes: dict[str, Any], message: str):
    with pytest.raises(InvalidInputError, match="nm_systolic") as caught:
        load_accelerator("nm_systolic", changes)
    assert message in str(caught.value)


@every_sparse
def test_a_file_written_anew_is_the_same_accelerator(name: str, tmp_path: Path):
    machine = load_accelerator(name)
    (tmp_path / "again.yaml").write_text(machine.to_yaml())
    assert load_accelerator(tmp_path / "again.yaml") == machine


@pytest.mark.slow
@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.stem)
@every_sparse
def test_every_layer_of_every_shipped_network_runs(name: str, path: Path):
    machine, workload = load_accelerator(name), load_workload(path)
    cost = simulate(machine, workload)
    assert cost.macs == workload.macs


@every_sparse
@settings(max_examples=15, deadline=None)
@given(convolutions(), st.floats(0.1, 1.0), st.floats(0.1, 1.0), st.integers(0, 99))
def test_skipping_never_beats_perfect_balance(name: str, layer: Conv2d, density: float, inputs: float, seed: int):
    machine = load_accelerator(name)
    mask = random_mask(layer, density, seed)
    cost = run(machine, layer, mask=mask, densities={layer.name: inputs})
    activity = cost.activity
    assert activity.sparse is not None
    assert activity.compute_cycles >= activity.macs.done / machine.pe_array.pes
    assert min(activity.stall_cycles.values()) >= 0
    assert activity.macs.done + activity.macs.gated + activity.macs.skipped == layer.macs
    assert activity.sparse.used.cycles >= activity.sparse.used.ideal_cycles


@every_sparse
def test_a_full_mask_and_density_1_cost_the_dense_layer_and_its_metadata(name: str):
    machine = load_accelerator(name)
    dense = run(machine, LAYER)
    full = run(machine, LAYER, mask=random_mask(LAYER, 1.1), densities={"c": 1.0})
    assert full.activity.macs == dense.activity.macs
    assert full.activity.compute_cycles == dense.activity.compute_cycles
    assert full.total_energy_pj >= dense.total_energy_pj * (1 - 1e-12)


def test_n_of_m_masks_leave_no_lane_of_the_systolic_array_waiting_but_unstructured_ones_do():
    machine = load_accelerator("nm_systolic")
    fixed = run(machine, LAYER, KofN(granularity="weight", k=3, n=8), fixed_mask(LAYER, 3, 8))
    free = run(machine, LAYER, mask=random_mask(LAYER, 3 / 8))
    assert fixed.activity.stall_cycles["imbalance"] == 0
    assert free.activity.stall_cycles["imbalance"] > 0
    assert fixed.activity.latency_cycles < free.activity.latency_cycles


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 288), st.integers(0, 99))
def test_rows_of_k_weights_balance_the_gather_array_but_unstructured_ones_of_the_same_density_do_not(k: int, seed: int):
    machine = load_accelerator("row_gather")
    fixed = run(machine, LAYER, KofN(granularity="weight", k=k, n=288), fixed_mask(LAYER, k, 288, seed))
    assert fixed.activity.stall_cycles["imbalance"] == 0
    assert fixed.activity.compute_cycles == -(-LAYER.k // 32) * LAYER.as_gemm().m * k  # picks collide in banks alone
    if 20 < k < 268:
        free = run(machine, LAYER, mask=random_mask(LAYER, k / 288, seed))
        assert free.activity.stall_cycles["imbalance"] > 0


def test_sparse_tensor_core_halves_the_cycles_of_2_of_4_and_runs_other_weights_dense():
    machine = load_accelerator("sparse_tensor_core_2_4")
    dense = run(machine, LAYER).activity
    half = run(machine, LAYER, KofN(granularity="weight", k=2, n=4), fixed_mask(LAYER, 2, 4)).activity
    assert 2 * half.compute_cycles == dense.compute_cycles
    assert half.notice is None
    other = run(machine, LAYER, KofN(granularity="weight", k=4, n=8)).activity
    assert other.compute_cycles == dense.compute_cycles
    assert other.macs == dense.macs
    assert other.notice is not None
    assert "storage format cannot hold them" in other.notice


def test_exact_and_expected_figures_stand_side_by_side():
    banded = np.zeros(weight_shape(LAYER), np.bool_)
    banded[::2] = True  # every second output keeps all, the others nothing
    data = run(load_accelerator("nm_systolic"), LAYER, mask=weight_mask(banded, LAYER)).to_dict()["sparse"]
    assert data["exact"]["cycles"] > data["expected"]["cycles"]
    assert data["over_expected_cycles"] == data["exact"]["cycles"] - data["expected"]["cycles"]
    assert data["imbalance_cycles"] == data["exact"]["imbalance_cycles"] > 0
    assert data["over_balanced_cycles"] >= data["over_expected_cycles"]


def test_without_a_mask_only_expected_figures_are_given():
    data = run(load_accelerator("sparten"), LAYER, 0.4, densities={"c": 0.5}).to_dict()["sparse"]
    assert data["exact"] is None
    assert data["over_expected_cycles"] is None
    assert data["expected"]["cycles"] > data["balanced_cycles"] > 0


@pytest.mark.parametrize("name", ["sparten", "dstc", "eyeriss_v2", "scnn"])
def test_zero_inputs_save_cycles_and_dram_traffic_where_both_operands_are_skipped(name: str):
    machine = load_accelerator(name)
    few, all_ = (run(machine, LAYER, 0.5, densities={"c": d}) for d in (0.3, 1.0))
    assert few.activity.latency_cycles < all_.activity.latency_cycles
    read = [cost.activity.accesses["dram"]["input"].moved_bits for cost in (few, all_)]
    assert read[0] < read[1]
    assert few.activity.macs.done < all_.activity.macs.done


def test_eyeriss_gates_zero_inputs_and_compresses_activations_only_where_it_saves_bits():
    machine = load_accelerator("eyeriss_v1")
    layer = replace(LAYER, name="b")
    workload = Workload(name="w", layers=(LAYER, layer), edges=(("c", "b"),))
    dense = simulate(machine, workload).layers
    sparse = simulate(machine, workload, densities={"c": 0.97, "b": 0.4}).layers
    word = 16
    assert [cost.activity.macs.gated for cost in sparse] == [round(0.03 * LAYER.macs), round(0.6 * LAYER.macs)]
    assert sparse[1].energy_pj["weight_spad.read"] == pytest.approx(0.4 * dense[1].energy_pj["weight_spad.read"])
    moved = [cost.activity.accesses["dram"] for cost in sparse]
    assert moved[0]["input"].moved_bits == dense[0].activity.accesses["dram"]["input"].moved_bits
    assert moved[0]["output"].moved_bits < LAYER.output_elements * word
    assert moved[1]["input"].moved_bits < dense[1].activity.accesses["dram"]["input"].moved_bits
    assert moved[1]["output"].metadata_write_bits == 0
    assert sparse[1].activity.compute_cycles == dense[1].activity.compute_cycles


def test_a_dense_array_runs_an_unstructured_mask_dense_and_says_so():
    machine = load_accelerator("edge_os_16x16")
    cost = run(machine, LAYER, mask=random_mask(LAYER, 0.3))
    assert cost.activity.macs.done == LAYER.macs
    assert cost.activity.notice is not None
    assert "stored and run dense" in cost.activity.notice
    gating = load_accelerator("edge_os_16x16", {"weight_sparsity": {"action": "gate"}})
    mask = random_mask(LAYER, 0.3)
    gated = run(gating, LAYER, mask=mask).activity
    assert gated.macs.done == mask.nonzeros * LAYER.as_gemm().m
    assert gated.notice is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"masks": {"c": random_mask(replace(LAYER, k=8), 0.5)}}, "layer 'c': mask of shape"),
        ({"masks": {"d": random_mask(LAYER, 0.5)}}, "mask for 'd': workload 'w' has no such layer with weights; near"),
        ({"densities": {"c": 1.5}}, "layer 'c': density = 1.5: must lie in [0, 1]"),
        ({"densities": {"x": 0.5}}, "input density for 'x'"),
        (
            {"structures": {"c": KofN(granularity="weight", k=2, n=8)}, "masks": {"c": fixed_mask(LAYER, 3, 8)}},
            "2 of 8 must stay",
        ),
    ],
)
def test_masks_and_densities_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(InvalidInputError) as caught:
        simulate(load_accelerator("nm_systolic"), Workload(name="w", layers=(LAYER,)), **arguments)
    assert message in str(caught.value)


def test_a_buffer_that_does_not_hold_what_lanes_gather_is_named():
    machine = load_accelerator("row_gather", {"memories.input_banks.capacity_bytes": 128})
    with pytest.raises(NoMappingError, match=r"input_banks.*set capacity_bytes to at least 288"):
        run(machine, LAYER)


def test_layers_that_differ_in_their_names_alone_are_counted_alike():
    layers = (LAYER, replace(LAYER, name="again"), VectorOp(name="v", kind="add", input_elements=9, output_elements=9,
                                                            operations=9))  # fmt: skip
    structures = {name: KofN(granularity="weight", k=4, n=8) for name in ("c", "again")}
    cost = simulate(load_accelerator("sparse_tensor_core_2_4"), Workload(name="w", layers=layers), structures)
    first, second, _ = cost.layers
    assert first.energy_pj == second.energy_pj
    assert [notice.split(":")[0] for notice in cost.notices] == ["c", "again"]
