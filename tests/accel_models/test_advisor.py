"""Where sparsity pays: the advisor's table, and what array edges make of pruned filters."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models.accelerator import load_accelerator
from accel_models.advisor import GRANULARITIES, Advice, block_of, break_even, compare_granularities, prune, thin
from accel_models.edges import UsefulCounts, edge_loss, edge_losses, lost_utilization
from accel_models.errors import InvalidInputError
from accel_models.evaluate import simulate
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.workload import Workload
from tests.accel_models.test_layers import convolutions

CHAIN = Workload(
    name="chain",
    layers=(
        Conv2d(name="a", k=32, c=3, p=12, q=12, r=3, s=3, padding=(1, 1)),
        VectorOp(name="pool", kind="max_pool", input_elements=32 * 144, output_elements=32 * 36, operations=32 * 144),
        Conv2d(name="b", k=64, c=32, p=6, q=6, r=3, s=3, padding=(1, 1)),
        Conv2d(name="depthwise", k=64, c=64, p=6, q=6, r=3, s=3, padding=(1, 1), groups=64),
        Gemm(name="out", m=1, n=10, k=2304),
    ),
    edges=(("a", "pool"), ("pool", "b"), ("b", "depthwise"), ("depthwise", "out")),
)


def advice(name: str, density: float = 0.5) -> dict[str, Advice]:
    return {item.granularity: item for item in compare_granularities(load_accelerator(name), CHAIN, density)}


def test_fixed_rows_and_blocks_leave_no_lane_waiting_where_they_are_at_home():
    gather, systolic = advice("row_gather"), advice("nm_systolic")
    assert gather["weight"].imbalance_cycles == systolic["n:m"].imbalance_cycles == 0
    assert gather["unstructured"].imbalance_cycles > 0
    assert systolic["unstructured"].imbalance_cycles > 0
    assert gather["weight"].latency_cycles < gather["unstructured"].latency_cycles
    assert systolic["n:m"].latency_cycles < systolic["weight"].latency_cycles


def test_an_array_that_skips_nothing_gains_from_filters_alone():
    table = advice("edge_os_16x16", 0.4)
    for granularity in ("unstructured", "weight", "n:m", "kernel"):
        assert table[granularity].energy_pj == table["dense"].energy_pj
        assert table[granularity].break_even_energy is None
        assert table[granularity].break_even_latency is None
        assert table[granularity].notice is not None
    assert table["filter"].latency_cycles < table["dense"].latency_cycles
    assert table["filter"].notice is None


def test_metadata_is_the_part_of_the_weights_that_are_no_values():
    table = advice("row_gather")
    kept = [prune(CHAIN, granularity, 0.5)[1]["b"] for granularity in ("weight", "kernel")]
    assert [item.k for item in kept if not isinstance(item, float)] == [144, 16]
    values = {name: 8 * item.density for name, item in table.items()}
    elements = sum(layer.weight_elements for layer in CHAIN.layers if not isinstance(layer, VectorOp))
    for name in ("weight", "n:m"):
        stored = 8 * (table[name].weight_bytes - table[name].metadata_bytes)
        assert stored == pytest.approx(values[name] * elements, rel=0.01)
    assert table["n:m"].metadata_bytes < table["kernel"].metadata_bytes < table["weight"].metadata_bytes


@pytest.mark.parametrize("name", ["row_gather", "nm_systolic", "edge_skip_16x16"])
def test_below_break_even_the_network_costs_less_than_the_dense_one(name: str):
    machine = load_accelerator(name)
    dense = simulate(machine, CHAIN)
    for item in compare_granularities(machine, CHAIN, 0.5)[1:]:
        if item.break_even_energy is not None:
            pruned, structures = prune(CHAIN, item.granularity, item.break_even_energy, block_of(machine))
            assert simulate(machine, pruned, structures).energy_pj < dense.energy_pj
        if item.break_even_latency is not None:
            pruned, structures = prune(CHAIN, item.granularity, item.break_even_latency, block_of(machine))
            assert simulate(machine, pruned, structures).latency_cycles < dense.latency_cycles


@given(st.floats(0.05, 0.95))
def test_bisection_finds_where_a_rising_cost_crosses(crossing: float):
    found = break_even(lambda density: density, crossing)
    assert found is not None
    assert found < crossing <= found + 1 / 127


def test_bisection_says_so_when_nothing_is_saved():
    assert break_even(lambda density: 2.0, 2.0) is None


def test_thinning_keeps_inputs_and_outputs_of_the_network_and_scales_what_lies_between():
    first, pool, second, depthwise, last = thin(CHAIN, 0.5).layers
    assert (first.k, first.c) == (16, 3)  # type: ignore[union-attr]
    assert pool.input_elements == 32 * 144 // 2  # type: ignore[union-attr]
    assert (second.k, second.c) == (32, 16)  # type: ignore[union-attr]
    assert (depthwise.k, depthwise.c, depthwise.groups) == (32, 32, 32)  # type: ignore[union-attr]
    assert (last.n, last.k) == (10, 1152)  # type: ignore[union-attr]


def test_every_granularity_keeps_about_the_density_that_was_asked_for():
    for item in compare_granularities(load_accelerator("sparten"), CHAIN, 0.5)[1:]:
        assert item.density == pytest.approx(0.5, abs=0.05), item.granularity
    assert [item.granularity for item in compare_granularities(load_accelerator("dstc"), CHAIN, 1.0)] == [
        *GRANULARITIES
    ]


@pytest.mark.parametrize(("name", "block"), [("sparse_tensor_core_2_4", 4), ("nm_systolic", 8), ("edge_skip_16x16", 8)])
def test_blocks_are_those_that_the_accelerator_selects_from(name: str, block: int):
    assert block_of(load_accelerator(name)) == block


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01])
def test_a_density_out_of_range_is_refused(density: float):
    with pytest.raises(InvalidInputError, match="must lie in"):
        compare_granularities(load_accelerator("edge_os_16x16"), CHAIN, density)


def test_channels_beyond_an_edge_are_named_with_the_next_useful_counts():
    layer = Conv2d(name="c", k=17, c=5, p=4, q=4, r=3, s=3)
    loss = edge_loss(load_accelerator("edge_ws_16x16"), layer)
    assert loss.utilization == 17 / 32 * 45 / 48
    assert loss.output_channels == UsefulCounts(channels=17, fewer=16, most=32)
    assert loss.input_channels == UsefulCounts(channels=5, fewer=3, most=5)
    assert "17 output channels (16 save a fold, 32 cost no more)" in loss.describe()


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.sampled_from(["edge_os_16x16", "edge_ws_16x16"]), st.integers(1, 5), st.integers(1, 5))
def test_useful_counts_end_folds(layer: Conv2d, name: str, rows: int, cols: int):
    machine = load_accelerator(name, {"pe_array.rows": rows, "pe_array.cols": cols})
    counts = edge_loss(machine, layer).output_channels
    assert counts is not None

    def cycles(channels: int) -> int:
        varied = replace(layer, k=channels)
        return simulate(machine, Workload(name="w", layers=(varied,))).layers[0].activity.compute_cycles

    assert cycles(counts.most) == cycles(layer.k)
    assert cycles(counts.most + layer.groups) > cycles(layer.k)
    if counts.fewer is not None:
        assert cycles(counts.fewer) < cycles(layer.k)
        assert cycles(counts.fewer + layer.groups) == cycles(layer.k)


def test_full_folds_lose_nothing_and_other_dataflows_are_left_out():
    full = Workload(name="w", layers=(Gemm(name="g", m=32, n=16, k=64),))
    assert lost_utilization(edge_losses(load_accelerator("edge_os_16x16"), full)) == 0
    assert edge_losses(load_accelerator("edge_npu"), full) == []
    half = replace(full, layers=(Gemm(name="g", m=32, n=8, k=64),))
    assert lost_utilization(edge_losses(load_accelerator("edge_os_16x16"), half)) == 0.5
