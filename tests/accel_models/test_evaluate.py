"""simulate: parts sum to totals, bounds hold, and sparsity pays only where the hardware can use it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models import activity as activity_module
from accel_models.accelerator import Accelerator, library_names, load_accelerator
from accel_models.cost import LayerCost, NetworkCost
from accel_models.energy import area_mm2, energy_table
from accel_models.errors import InvalidInputError, NoMappingError
from accel_models.evaluate import simulate
from accel_models.kernels import schedules, systolic
from accel_models.layers import Bits, Conv2d, Gemm, Layer, VectorOp
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from tests.accel_models.test_layers import convolutions

SYSTOLIC = [name for name in library_names() if load_accelerator(name).systolic]
"""test_library.py holds for all."""
DATAFLOWS = ["output_stationary", "weight_stationary", "input_stationary"]
GATE = {"action": "gate"}
SKIP = {"action": "skip", "format": "k_of_n", "gather": 8}
LAYER = Conv2d(name="c", k=24, c=16, p=9, q=8, r=3, s=3, padding=(1, 1))


def chip(name: str = "edge_os_16x16", **changes: Any) -> Accelerator:
    return load_accelerator(name, {key.replace("__", "."): value for key, value in changes.items()})


def run(machine: Accelerator, layer: Layer, structure: KofN | None = None) -> LayerCost:
    workload = Workload(name="w", layers=(layer,))
    return simulate(machine, workload, {layer.name: structure} if structure else None).layers[0]


def weights(k: int, n: int) -> KofN:
    return KofN(granularity="weight", k=k, n=n)


@st.composite
def machines(draw: st.DrawFn) -> Accelerator:
    """Small arrays of every dataflow and sparse support, with buffers that often do not hold the layer."""
    sparse = draw(st.sampled_from([{}, GATE, {"format": "k_of_n"}, SKIP]))
    changes: dict[str, Any] = {
        "pe_array.rows": draw(st.integers(1, 6)),
        "pe_array.cols": draw(st.integers(1, 6)),
        "pe_array.dataflow": draw(st.sampled_from(DATAFLOWS)),
        "memories.dram.bandwidth_bytes_per_cycle": draw(st.sampled_from([0.3, 1.0, 8.0, 100.0])),
        "weight_sparsity": sparse,
    }
    for name in ("input_buffer", "weight_buffer", "output_buffer"):
        changes[f"memories.{name}.capacity_bytes"] = draw(st.sampled_from([64, 200, 1000, 20000]))
        changes[f"memories.{name}.banks"] = draw(st.integers(1, 4))
        changes[f"memories.{name}.width_bits"] = draw(st.sampled_from([16, 64]))
    return load_accelerator("edge_os_16x16", changes)


@st.composite
def structures(draw: st.DrawFn, layer: Conv2d) -> KofN | None:
    """A structure that fits the layer, of either granularity, or none."""
    granularity = draw(st.sampled_from(["weight", "kernel", None]))
    if granularity is None:
        return None
    n = layer.c // layer.groups if granularity == "kernel" else draw(st.integers(1, min(12, layer.as_gemm().k)))
    return KofN(granularity=granularity, k=draw(st.integers(1, n)), n=n)


def bits_moved(cost: LayerCost, memory: str) -> int:
    return sum(
        a.read_bits + a.write_bits + a.metadata_read_bits + a.metadata_write_bits
        for a in cost.activity.accesses[memory].values()
    )


def check_bounds(machine: Accelerator, layer: Conv2d, cost: LayerCost) -> None:
    """Latency is at least what the multipliers, the DRAM and every buffer port need."""
    latency, done = cost.activity.latency_cycles, cost.activity.macs.done
    assert latency == cost.activity.compute_cycles + sum(cost.activity.stall_cycles.values())
    assert min(cost.activity.stall_cycles.values()) >= 0
    assert latency >= cost.activity.compute_cycles >= done / machine.pe_array.pes
    assert 0 < cost.activity.utilization <= 1
    assert machine.dram.bandwidth_bytes_per_cycle is not None
    assert latency >= bits_moved(cost, "dram") / (8 * machine.dram.bandwidth_bytes_per_cycle)
    for memory in machine.memories[1:]:
        assert latency >= bits_moved(cost, memory.name) / machine.port_bits(memory)


def check_counts(layer: Conv2d, structure: KofN | None, cost: LayerCost) -> None:
    """Every multiply-accumulate is somewhere; every tensor passes through DRAM at least once."""
    macs, dram = cost.activity.macs, cost.activity.accesses["dram"]
    assert macs.done + macs.gated + macs.skipped == layer.macs
    kept = layer.as_gemm().k if structure is None else structure.kept_per_row(layer)
    assert macs.done in (layer.macs, layer.output_elements * kept)
    assert dram["output"].writes == layer.output_elements
    assert dram["input"].reads >= layer.groups * layer.footprint().elements
    assert dram["weight"].reads >= layer.k * kept


@pytest.mark.parametrize("name", SYSTOLIC)
@settings(max_examples=40, deadline=None)
@given(convolutions(), st.data())
def test_bounds_and_counts_hold_on_every_systolic_array_of_the_library(name: str, layer: Conv2d, data: st.DataObject):
    machine, structure = load_accelerator(name), data.draw(structures(layer))
    cost = run(machine, layer, structure)
    check_bounds(machine, layer, cost)
    check_counts(layer, structure, cost)


@settings(max_examples=250, deadline=None)
@given(machines(), convolutions(), st.data())
def test_bounds_and_counts_hold_on_any_small_array(machine: Accelerator, layer: Conv2d, data: st.DataObject):
    structure = data.draw(structures(layer))
    try:
        cost = run(machine, layer, structure)
    except NoMappingError:
        return
    check_bounds(machine, layer, cost)
    check_counts(layer, structure, cost)


@settings(max_examples=200, deadline=None)
@given(machines(), convolutions(), st.data())
def test_the_schedule_is_chosen_by_the_energy_that_is_reported(
    machine: Accelerator, layer: Conv2d, data: st.DataObject
):
    chosen: list[systolic.Traffic] = []
    original = schedules.cheapest_schedule

    def spy(*arguments: Any) -> systolic.Traffic:
        chosen.append(original(*arguments))
        return chosen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activity_module.schedules, "cheapest_schedule", spy)
        try:
            cost = run(machine, layer, data.draw(structures(layer)))
        except NoMappingError:
            return
    assert cost.total_energy_pj == pytest.approx(chosen[0].energy_pj, rel=1e-9)
    assert cost.activity.latency_cycles == chosen[0].latency_cycles


NETWORK = Workload(
    name="net",
    layers=(
        LAYER,
        Conv2d(name="dw", k=24, c=24, p=5, q=4, r=3, s=3, stride=(2, 2), padding=(1, 1), groups=24),
        VectorOp(name="pool", kind="pool", input_elements=480, output_elements=24, operations=480),
        Gemm(name="fc", m=1, n=10, k=24),
    ),
)


@pytest.mark.parametrize("name", library_names())
def test_layers_components_and_causes_sum_to_the_totals(name: str):
    machine = load_accelerator(name)
    cost = simulate(machine, NETWORK, {"c": weights(2, 8)})
    assert cost.energy_pj == pytest.approx(sum(cost.energy_by_component().values()))
    assert cost.energy_pj == pytest.approx(sum(layer.total_energy_pj for layer in cost.layers))
    assert cost.latency_cycles == sum(layer.activity.latency_cycles for layer in cost.layers)
    assert cost.latency_ms == pytest.approx(cost.latency_cycles / machine.clock_mhz * 1e-3)
    assert cost.dram_bytes == -(-sum(bits_moved(layer, "dram") for layer in cost.layers) // 8)
    assert cost.area_mm2 == area_mm2(machine)
    assert all(min(layer.energy_pj.values()) >= 0 for layer in cost.layers)


def test_every_component_is_its_count_times_its_price():
    machine = chip("edge_skip_16x16")
    table, cost = energy_table(machine), run(machine, LAYER, weights(2, 8))
    price, done = {name: p.value for name, p in table.prices.items()}, LAYER.macs // 4
    assert cost.activity.macs.done == done
    dram, buffer = cost.activity.accesses["dram"], cost.activity.accesses["weight_buffer"]["weight"]
    expected = {
        "mac": done * (price["multiply_8"] + price["add"]),
        "vector": 0.0,
        # inputs of the whole row pass through the PE, kept weights and one partial sum each
        "register": (8 * LAYER.macs + (8 + 32) * done) * price["register_bit"],
        "gather": 8 * done * price["gather_bit"],
        "dram.read": 8 * (dram["input"].reads + dram["weight"].reads) * price["dram.read_bit"],
        "dram.write": 8 * LAYER.output_elements * price["dram.write_bit"],
        "weight_buffer.read": 8 * buffer.reads * price["weight_buffer.read_bit"],
        "weight_buffer.write": 8 * buffer.writes * price["weight_buffer.write_bit"],
        "metadata": 3 * dram["weight"].reads * price["dram.read_bit"]
        + 3 * buffer.reads * price["weight_buffer.read_bit"]
        + 3 * buffer.writes * price["weight_buffer.write_bit"],
        "leakage": cost.activity.latency_cycles * price["leakage"] * 1e3 / machine.clock_mhz,
    }
    for component, value in expected.items():
        assert cost.energy_pj[component] == pytest.approx(value), component
    others = {f"{b}_buffer.{a}" for b in ("input", "output") for a in ("read", "write")}
    assert set(cost.energy_pj) == set(expected) | others


# what is refused


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (Bits(weight=16), ["weight_bits", "[4, 8]", "16"]),
        (Bits(input=16), ["'c'", "inputs of 16 bits", "pe_array.input_bits = 8"]),
        (Bits(output=64), ["'c'", "outputs of 64 bits", "pe_array.psum_bits = 32"]),
    ],
)
def test_operands_wider_than_the_array_are_refused(bits: Bits, words: list[str]):
    with pytest.raises(InvalidInputError) as caught:
        run(chip(), Conv2d(name="c", k=4, c=4, p=4, q=4, r=1, s=1, bits=bits))
    assert all(word in str(caught.value) for word in [*words, "edge_os_16x16"])


@pytest.mark.parametrize("name", ["nope", "pool"])
def test_a_structure_for_a_layer_without_weights_is_refused(name: str):
    with pytest.raises(InvalidInputError, match=f"structure for '{name}': workload 'net' has no such layer"):
        simulate(chip(), NETWORK, {name: weights(1, 2)})


def test_a_structure_that_does_not_fit_is_refused_by_layer():
    with pytest.raises(InvalidInputError, match="'dw': n = 16 exceeds the 9 weights"):
        simulate(chip(), NETWORK, {"dw": weights(2, 16)})


def test_a_layer_whose_counts_would_overflow_is_refused():
    machine = chip(pe_array__rows=65536, pe_array__cols=65536)
    with pytest.raises(InvalidInputError, match=r"layer 'g': \d+ multiply-accumulates are too many to count"):
        run(machine, Gemm(name="g", m=2**20, n=2**13, k=2**20))
    assert run(chip(), Gemm(name="g", m=2**20, n=2**13, k=2**20)).activity.latency_cycles > 2**53 / 256


@pytest.mark.parametrize("operand", ["input", "weight", "output"])
@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("structure", [None, weights(2, 8)])
def test_a_buffer_too_small_is_named_with_a_capacity_that_is_enough(
    dataflow: str, operand: str, structure: KofN | None
):
    changes = {"pe_array.dataflow": dataflow, "weight_sparsity": SKIP if structure else {}}
    key = f"memories.{operand}_buffer.capacity_bytes"
    with pytest.raises(NoMappingError) as caught:
        run(load_accelerator("edge_os_16x16", {**changes, key: 3}), LAYER, structure)
    message = str(caught.value)
    assert all(word in message for word in ("'c'", "edge_os_16x16", f"{operand}_buffer", "has 3 bytes")), message
    needed = int(message.rsplit(" ", 1)[1])
    assert caught.value.missing_bytes == needed - 3
    assert f"{needed - 3} less" in message
    assert run(load_accelerator("edge_os_16x16", {**changes, key: needed}), LAYER, structure)
    with pytest.raises(NoMappingError):
        run(load_accelerator("edge_os_16x16", {**changes, key: needed - 1}), LAYER, structure)


# vector work, and the JSON of `cosim simulate`


@pytest.mark.parametrize("lanes", [1, 16, 1000])
def test_vector_work_takes_the_longer_of_lanes_and_dram(lanes: int):
    cost = run(chip(vector_lanes=lanes), NETWORK.layers[2])
    assert cost.activity.compute_cycles == -(-480 // lanes)
    assert cost.activity.latency_cycles == max(-(-480 // lanes), -(-(480 + 24) // 8))
    assert bits_moved(cost, "dram") == 8 * (480 + 24)
    assert cost.energy_pj["vector"] == pytest.approx(480 * 0.1)


def keys(cost: NetworkCost) -> tuple[set[str], set[str], set[str]]:
    data = json.loads(json.dumps(cost.to_dict()))
    return set(data), set(data["total"]), set(data["layers"][0])


def test_the_json_holds_every_field_of_the_contract():
    top, total, layer = keys(simulate(chip(), NETWORK))
    assert top >= {"accelerator", "workload", "total", "layers"}
    assert total >= {
        "latency_cycles", "latency_ms", "energy_pj", "dram_bytes", "macs", "utilization", "area_mm2",
    }  # fmt: skip
    assert layer >= {
        "name", "latency_cycles", "compute_cycles", "stall_cycles", "energy_pj", "accesses", "macs", "utilization",
        "mapping",
    }  # fmt: skip


def test_the_json_sums_to_its_own_totals():
    data = simulate(chip("edge_skip_16x16"), NETWORK, {"c": weights(2, 8)}).to_dict()
    assert data["total"]["energy_pj"] == pytest.approx(
        sum(sum(layer["energy_pj"].values()) for layer in data["layers"])
    )
    assert data["total"]["macs"] == sum(layer["macs"]["done"] for layer in data["layers"])
    for layer in data["layers"]:
        assert layer["latency_cycles"] == layer["compute_cycles"] + sum(layer["stall_cycles"].values())
