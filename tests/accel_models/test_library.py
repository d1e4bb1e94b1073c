"""Properties that hold for every accelerator of the library, whatever its dataflow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models.accelerator import Accelerator, Memory, library_names, load_accelerator
from accel_models.cost import LayerCost, NetworkCost
from accel_models.energy import area_by_part, energy_table, leakage_by_part
from accel_models.evaluate import simulate
from accel_models.goal import MODES, OBJECTIVES, Goal
from accel_models.layers import Conv2d, Gemm, Layer
from accel_models.nest_activity import bits_per_cycle
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from cosim.networks.workloads import network_workload, workload_names
from tests.accel_models.test_evaluate import bits_moved, structures
from tests.accel_models.test_layers import convolutions

NAMES = library_names()
every_accelerator = pytest.mark.parametrize("name", NAMES)
few = settings(max_examples=15, deadline=None)


def run(machine: Accelerator, layer: Layer, structure: KofN | None = None, goal: Goal | None = None) -> LayerCost:
    workload = Workload(name="w", layers=(layer,))
    return simulate(machine, workload, {layer.name: structure} if structure else None, goal or Goal()).layers[0]


@every_accelerator
@few
@given(convolutions(), st.data(), st.sampled_from(MODES), st.sampled_from(OBJECTIVES))
def test_latency_is_at_least_the_work_over_the_peak_and_the_traffic_over_every_bandwidth(
    name: str, layer: Conv2d, data: st.DataObject, mode: Any, objective: Any
):
    machine = load_accelerator(name)
    cost = run(machine, layer, data.draw(structures(layer)), Goal(objective, mode))
    latency = cost.activity.latency_cycles
    assert latency == cost.activity.compute_cycles + sum(cost.activity.stall_cycles.values())
    assert min(cost.activity.stall_cycles.values()) >= 0
    assert cost.activity.compute_cycles >= cost.activity.macs.done / machine.pe_array.pes
    assert 0 < cost.activity.utilization <= 1
    for memory in machine.memories:
        if machine.tile_machine is None or mode == "ideal":  # that machine's caches stand between DRAM and the array
            assert latency >= bits_moved(cost, memory.name) / rate(machine, memory)


def rate(machine: Accelerator, memory: Memory) -> float:
    """Bits per cycle of all instances; a row-stationary array is limited by its networks instead."""
    if machine.pe_array.dataflow == "row_stationary" and memory.kind != "dram":
        return float("inf")
    return bits_per_cycle(memory, machine) * machine.instances(memory)


@every_accelerator
@few
@given(convolutions(), st.data())
def test_every_multiply_accumulate_and_tensor_is_counted(name: str, layer: Conv2d, data: st.DataObject):
    machine, structure = load_accelerator(name), data.draw(structures(layer))
    cost = run(machine, layer, structure)
    macs, dram = cost.activity.macs, cost.activity.accesses[machine.dram.name]
    assert macs.done + macs.gated + macs.skipped == layer.macs
    kept = layer.as_gemm().k if structure is None else structure.kept_per_row(layer)
    assert dram["output"].writes >= layer.output_elements
    assert dram["output"].writes == cost.activity.final_writes + dram["output"].reads
    assert dram["input"].reads >= layer.groups * layer.footprint().elements or machine.pe_array.dataflow == "flexible"
    assert dram["weight"].reads >= layer.k * kept


@every_accelerator
@few
@given(convolutions(), st.data())
def test_parts_sum_to_totals(name: str, layer: Conv2d, data: st.DataObject):
    machine = load_accelerator(name)
    workload = Workload(name="w", layers=(layer,))
    cost: NetworkCost = simulate(machine, workload)
    assert cost.energy_pj == pytest.approx(sum(cost.energy_by_component().values()))
    assert cost.latency_cycles == sum(item.activity.latency_cycles for item in cost.layers)
    assert cost.area_mm2 == pytest.approx(sum(area_by_part(machine).values()))
    leakage = energy_table(machine)["leakage"].value
    assert leakage == pytest.approx(sum(leakage_by_part(machine).values()))


@every_accelerator
@few
@given(convolutions(), st.sampled_from(["weight", "kernel"]))
def test_density_1_costs_the_dense_layer_and_its_metadata(name: str, layer: Conv2d, granularity: Any):
    machine = load_accelerator(name)
    n = layer.c // layer.groups if granularity == "kernel" else layer.as_gemm().k
    dense, full = run(machine, layer), run(machine, layer, KofN(granularity=granularity, k=n, n=n))
    assert full.activity.compute_cycles == dense.activity.compute_cycles
    assert full.activity.macs == dense.activity.macs
    stored = machine.weight_sparsity.format == "k_of_n" or any(
        "weight" in memory.formats for memory in machine.memories
    )
    if not stored:
        assert full.energy_pj == dense.energy_pj
    else:
        assert full.total_energy_pj >= dense.total_energy_pj


@every_accelerator
@few
@given(convolutions(), st.integers(2, 8), st.data())
def test_keeping_fewer_never_does_more_multiply_accumulates_nor_takes_more_of_their_cycles(
    name: str, layer: Conv2d, n: int, data: st.DataObject
):
    machine = load_accelerator(name)
    n = min(n, layer.as_gemm().k)
    many = data.draw(st.integers(1, n))
    few_kept = data.draw(st.integers(1, many))
    costs = [run(machine, layer, KofN(granularity="weight", k=k, n=n)) for k in (few_kept, many)]
    assert costs[0].activity.macs.done <= costs[1].activity.macs.done
    if machine.pe_array.dataflow == "output_stationary" or machine.weight_sparsity.action != "skip":
        assert costs[0].activity.compute_cycles <= costs[1].activity.compute_cycles


@every_accelerator
@few
@given(convolutions(), st.sampled_from(OBJECTIVES), st.integers(2, 4))
def test_larger_buffers_at_the_same_prices_never_make_the_best_mapping_worse(
    name: str, layer: Conv2d, objective: Any, factor: int
):
    goal = Goal(objective, "ideal")
    costs = [run(machine, layer, None, goal) for machine in grown(name, factor)]
    small, large = (figure(cost, objective) for cost in costs)
    assert large <= small * (1 + 1e-9) or "cut short" in costs[1].activity.mapping


def figure(cost: LayerCost, objective: str) -> float:
    """What the mapping was chosen for; leakage apart, which a mapping of a flexible array is not chosen for."""
    energy = cost.total_energy_pj - cost.energy_pj["leakage"]
    latency = cost.activity.latency_cycles
    return {"energy": energy, "latency": float(latency), "edp": energy * latency}[objective]


def grown(name: str, factor: int) -> tuple[Accelerator, Accelerator]:
    """The accelerator without leakage, and the same with larger memories at the prices of the small ones."""
    small = load_accelerator(name, {"energy": {"leakage": {"value": 0.0, "source": "left out"}}})
    table = energy_table(small)
    prices = {entry: {"value": price.value, "source": "as small"} for entry, price in table.prices.items()}
    sizes: dict[str, Any] = {
        f"memories.{memory.name}.capacity_bytes": factor * memory.capacity_bytes
        for memory in small.memories
        if memory.kind == "sram" and memory.capacity_bytes is not None
    }
    sizes |= {f"memories.{m.name}.banks": small.banks(m) for m in small.memories if m.kind == "sram"}
    return small, load_accelerator(name, {"energy": prices, **sizes})


@every_accelerator
def test_every_price_and_part_has_a_source_and_a_size(name: str):
    machine = load_accelerator(name)
    assert machine.source
    assert machine.description
    assert all(price.source and price.unit for price in energy_table(machine).prices.values())
    assert all(area > 0 for area in area_by_part(machine).values())
    assert {memory.name for memory in machine.memories[1:]} <= set(area_by_part(machine)) | {"pe_array"}


@every_accelerator
@pytest.mark.parametrize(
    "layer",
    [
        Gemm(name="classifier", m=1, n=1000, k=512),
        Gemm(name="attention", m=197, n=197, k=64, groups=3, b_source="activation"),
        Conv2d(name="depthwise", k=96, c=96, p=14, q=14, r=3, s=3, groups=96, padding=(1, 1)),
        Conv2d(name="patches", k=192, c=3, p=14, q=14, r=16, s=16, stride=(16, 16)),
        Conv2d(name="dilated", k=7, c=13, p=11, q=5, r=3, s=1, dilation=(2, 1), stride=(2, 1)),
    ],
    ids=lambda layer: layer.name,
)
def test_every_kind_of_layer_has_a_mapping(name: str, layer: Layer):
    cost = run(load_accelerator(name), layer)
    assert cost.activity.macs.done == layer.macs  # type: ignore[union-attr]
    assert cost.activity.mapping


@every_accelerator
@pytest.mark.parametrize("network", ["lenet5", "digits_resnet", "gpt_small"])
def test_small_networks_of_the_zoo_run_out_of_the_box(name: str, network: str):
    check_network(name, network)


@pytest.mark.slow
@every_accelerator
def test_every_network_of_the_zoo_runs_out_of_the_box(name: str):
    for network in workload_names():
        check_network(name, network)


def check_network(name: str, network: str) -> None:
    workload = network_workload(network)
    assert workload is not None
    cost = simulate(load_accelerator(name), workload)
    done = cost.macs + sum(layer.activity.macs.gated + layer.activity.macs.skipped for layer in cost.layers)
    assert done == workload.macs
    assert len(cost.layers) == len(workload.layers)
    assert 0 < cost.utilization <= 1
