"""What skipping, gating and formats of systolic arrays are worth."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models.accelerator import Accelerator, load_accelerator
from accel_models.errors import NoMappingError
from accel_models.evaluate import simulate
from accel_models.layers import Bits, Conv2d, Gemm
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from tests.accel_models.test_evaluate import (
    DATAFLOWS,
    GATE,
    LAYER,
    NETWORK,
    SKIP,
    SYSTOLIC,
    chip,
    machines,
    run,
    weights,
)
from tests.accel_models.test_layers import convolutions


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.sampled_from(["weight", "kernel"]), st.integers(1, 8))
def test_keeping_fewer_never_costs_more_mac_cycles_energy_delay_or_storage_where_skipped(
    layer: Conv2d, granularity: Any, n: int
):
    machine = chip("edge_skip_16x16")
    n = layer.c // layer.groups if granularity == "kernel" else min(n, layer.as_gemm().k)
    costs = [run(machine, layer, KofN(granularity=granularity, k=k, n=n)) for k in range(1, n + 1)]
    for fewer, more in pairwise(costs):
        assert fewer.activity.compute_cycles <= more.activity.compute_cycles
        assert fewer.activity.weight_bits <= more.activity.weight_bits
        product = [c.total_energy_pj * c.activity.latency_cycles for c in (fewer, more)]
        assert product[0] <= product[1] * (1 + 1e-12)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("granularity", ["weight", "kernel"])
def test_keeping_all_costs_the_dense_layer_and_its_metadata(dataflow: str, granularity: Any):
    machine, layer = chip(pe_array__dataflow=dataflow, weight_sparsity=SKIP), Gemm(name="g", m=9, n=20, k=8)
    dense, full = run(machine, layer), run(machine, layer, KofN(granularity=granularity, k=8, n=8))
    assert dense.activity.compute_cycles == full.activity.compute_cycles
    assert dense.activity.macs == full.activity.macs
    assert full.activity.weight_bits == dense.activity.weight_bits + 3 * layer.weight_elements
    assert dense.energy_pj["metadata"] == 0 < full.energy_pj["metadata"]
    for component, value in dense.energy_pj.items():
        if component not in ("metadata", "leakage"):
            assert full.energy_pj[component] == pytest.approx(value), component


@settings(max_examples=60, deadline=None)
@given(machines(), convolutions(), st.data())
def test_keeping_all_is_never_better_than_the_dense_layer(machine: Accelerator, layer: Conv2d, data: st.DataObject):
    n = data.draw(st.integers(1, min(8, layer.as_gemm().k)))
    try:
        dense, full = run(machine, layer), run(machine, layer, weights(n, n))
    except NoMappingError:
        return
    products = [c.total_energy_pj * c.activity.latency_cycles for c in (dense, full)]
    assert products[0] <= products[1] * (1 + 1e-12)
    assert dense.activity.macs == full.activity.macs


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_an_array_that_cannot_skip_scores_the_dense_layer_and_says_so(dataflow: str):
    machine = chip(pe_array__dataflow=dataflow)
    dense, masked = run(machine, LAYER), run(machine, LAYER, weights(1, 4))
    assert masked.activity.latency_cycles == dense.activity.latency_cycles
    assert masked.energy_pj == dense.energy_pj
    assert masked.activity.macs == dense.activity.macs
    assert dense.activity.notice is None
    assert masked.activity.notice is not None
    assert "c: 1 of 4 per weight row runs at dense cycles on edge_os_16x16" in masked.activity.notice


def test_a_tile_beyond_the_gather_runs_dense_and_says_so():
    machine = chip("edge_skip_16x16")
    dense, wide = run(machine, LAYER), run(machine, LAYER, weights(4, 16))
    assert wide.activity.compute_cycles == dense.activity.compute_cycles
    assert wide.activity.macs.skipped == 0
    assert wide.activity.notice is not None
    assert "gathers from 8 at most" in wide.activity.notice
    assert run(machine, LAYER, weights(2, 8)).activity.notice is None


def test_notices_of_all_layers_reach_the_network():
    cost = simulate(chip(), NETWORK, {"c": weights(2, 8), "fc": weights(1, 2)})
    assert [notice.split(":")[0] for notice in cost.notices] == ["c", "fc"]


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_gating_saves_energy_but_no_cycle(dataflow: str):
    plain, gating = chip(pe_array__dataflow=dataflow), chip(pe_array__dataflow=dataflow, weight_sparsity=GATE)
    dense, gated = run(plain, LAYER, weights(1, 4)), run(gating, LAYER, weights(1, 4))
    assert gated.activity.latency_cycles == dense.activity.latency_cycles
    assert gated.activity.accesses["dram"] == dense.activity.accesses["dram"]
    assert gated.energy_pj["mac"] == pytest.approx(dense.energy_pj["mac"] / 4)
    assert gated.energy_pj["register"] < dense.energy_pj["register"]
    assert (gated.activity.macs.done, gated.activity.macs.gated) == (LAYER.macs // 4, LAYER.macs * 3 // 4)
    assert gated.activity.notice is None


def test_skipping_saves_cycles_energy_and_weight_traffic():
    machine = chip("edge_skip_16x16")
    dense, sparse = run(machine, LAYER), run(machine, LAYER, weights(2, 8))
    skew = 16 + 16 - 2
    folds = -(-72 // 16) * -(-24 // 16)
    assert dense.activity.compute_cycles == folds * (144 + skew)
    assert sparse.activity.compute_cycles == folds * (36 + skew)
    assert sparse.activity.weight_bits == 24 * 36 * (8 + 3)
    for component in ("mac", "register", "gather", "dram.read", "weight_buffer.read", "leakage"):
        assert sparse.energy_pj[component] < dense.energy_pj[component], component


def test_a_compressed_format_without_skipping_saves_weight_traffic_only():
    packed = run(chip(weight_sparsity={"format": "k_of_n"}), LAYER, weights(1, 4))
    dense = run(chip(), LAYER)
    assert packed.activity.weight_bits == 24 * 36 * (8 + 2)
    assert packed.activity.compute_cycles == dense.activity.compute_cycles
    assert packed.energy_pj["mac"] == dense.energy_pj["mac"]
    assert packed.energy_pj["dram.read"] < dense.energy_pj["dram.read"]


def test_kernel_masks_store_one_index_where_weight_masks_store_nine():
    machine, layer = chip("edge_skip_16x16"), Conv2d(name="c", k=16, c=8, p=8, q=8, r=3, s=3)
    kernels = run(machine, layer, KofN(granularity="kernel", k=2, n=8))
    units = run(machine, layer, weights(2, 8))
    assert kernels.activity.macs == units.activity.macs
    assert kernels.activity.weight_bits == 16 * (2 * 9 * 8 + 2 * 3)
    assert units.activity.weight_bits == 16 * (2 * 9 * 8 + 2 * 9 * 3)
    assert units.energy_pj["metadata"] == pytest.approx(9 * kernels.energy_pj["metadata"])


@pytest.mark.parametrize("name", [name for name in SYSTOLIC if len(load_accelerator(name).pe_array.weight_bits) > 1])
def test_narrower_weights_move_fewer_bits_and_multiply_cheaper(name: str):
    machine = load_accelerator(name)
    wide = run(machine, LAYER)
    narrow = run(machine, Conv2d(name="c", k=24, c=16, p=9, q=8, r=3, s=3, padding=(1, 1), bits=Bits(weight=4)))
    three = run(machine, Conv2d(name="c", k=24, c=16, p=9, q=8, r=3, s=3, padding=(1, 1), bits=Bits(weight=3)))
    assert (wide.activity.multiplier_bits, narrow.activity.multiplier_bits, three.activity.multiplier_bits) == (8, 4, 4)
    assert wide.activity.weight_bits == 2 * narrow.activity.weight_bits
    assert narrow.activity.compute_cycles <= wide.activity.compute_cycles
    assert narrow.energy_pj["mac"] == pytest.approx(wide.energy_pj["mac"] * 2 / 3)
    assert three.energy_pj["mac"] == narrow.energy_pj["mac"]
    assert three.energy_pj["dram.read"] < narrow.energy_pj["dram.read"] < wide.energy_pj["dram.read"]


def test_weight_bytes_count_all_layers_as_stored():
    cost = simulate(chip("edge_skip_16x16"), NETWORK, {"c": weights(2, 8)})
    assert cost.weight_bytes == (24 * 36 * 11 + 24 * 9 * 8 + 240 * 8) // 8


def test_a_started_byte_counts_as_a_whole_one():
    layer = Gemm(name="g", m=1, n=1, k=1, bits=Bits(weight=3))
    cost = simulate(chip(), Workload(name="w", layers=(layer,)))
    assert (cost.dram_bytes, cost.weight_bytes) == (3, 1)
