"""Liveness of tensors, and outputs that stay on chip."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from accel_models.accelerator import Accelerator, load_accelerator
from accel_models.cost import NetworkCost
from accel_models.evaluate import simulate
from accel_models.goal import Goal
from accel_models.layers import Conv2d, Gemm, Layer, VectorOp
from accel_models.liveness import execution_order, live_bytes, peak_activation_bytes, tensors
from accel_models.workload import Workload


def conv(name: str, k: int = 8, c: int = 8, size: int = 8) -> Conv2d:
    return Conv2d(name=name, k=k, c=c, p=size, q=size, r=3, s=3, padding=(1, 1))


def add(name: str, elements: int = 512) -> VectorOp:
    return VectorOp(name=name, kind="elementwise", input_elements=2 * elements, output_elements=elements, operations=8)


def residual() -> Workload:
    """a -> b -> c, and a + c."""
    layers = (conv("a"), conv("b"), conv("c"), add("sum"))
    return Workload(name="w", layers=layers, edges=(("a", "b"), ("b", "c"), ("c", "sum"), ("a", "sum")))


def chain(*layers: Layer) -> Workload:
    names = [layer.name for layer in layers]
    return Workload(name="w", layers=layers, edges=tuple(itertools.pairwise(names)))


def chip(name: str = "edge_os_16x16", **changes: Any) -> Accelerator:
    return load_accelerator(name, {key.replace("__", "."): value for key, value in changes.items()})


def dram(cost: NetworkCost, layer: str, operand: str) -> Any:
    found = next(item for item in cost.layers if item.name == layer)
    return found.activity.accesses["dram"][operand]  # type: ignore[index]


def test_layers_run_after_what_they_read_and_else_in_the_order_of_the_file():
    layers = (conv("late"), conv("first"), conv("second"))
    order = execution_order(Workload(name="w", layers=layers, edges=(("second", "late"), ("first", "second"))))
    assert [layer.name for layer in order] == ["first", "second", "late"]
    assert execution_order(residual()) == residual().layers


def test_a_tensor_lives_from_its_producer_to_its_last_reader():
    spans = {tensor.producer: (tensor.first, tensor.last) for tensor in tensors(residual())}
    assert spans == {"a": (0, 3), "b": (1, 2), "c": (2, 3), "sum": (3, 3)}


def test_the_peak_counts_inputs_outputs_and_what_waits():
    live = live_bytes(residual())
    assert live == {"a": 2 * 512, "b": 2 * 512, "c": 3 * 512, "sum": 3 * 512}
    assert peak_activation_bytes(live) == 3 * 512
    assert simulate(chip(), residual()).peak_activation_bytes == 3 * 512


@pytest.mark.parametrize("name", ["edge_os_16x16", "edge_ws_16x16", "eyeriss_v1", "edge_npu"])
def test_kept_outputs_touch_no_dram_and_all_else_stays(name: str):
    workload = chain(conv("a"), conv("b"))
    with_room = {"memories__glb__capacity_bytes": 2**20} if name == "eyeriss_v1" else {}
    spilled = simulate(chip(name, keep_outputs=False, **with_room), workload)
    kept = simulate(chip(name, keep_outputs=True, **with_room), workload)
    if name == "eyeriss_v1":  # its mapping may fill the whole buffer: nothing is promised to fit beside it
        assert dram(kept, "a", "output") == dram(spilled, "a", "output")
        return
    assert dram(kept, "a", "output").writes == dram(spilled, "a", "output").writes - 512
    assert dram(kept, "b", "input").reads == 0
    assert dram(kept, "b", "weight") == dram(spilled, "b", "weight")
    assert dram(kept, "b", "output") == dram(spilled, "b", "output")
    assert kept.energy_pj < spilled.energy_pj
    assert kept.latency_cycles <= spilled.latency_cycles
    assert kept.macs == spilled.macs


def test_the_memory_that_keeps_an_output_is_written_once_per_element():
    workload = chain(conv("a"), conv("b"))
    writes = [
        simulate(chip(keep_outputs=keep), workload).layers[0].activity.accesses["input_buffer"]["input"].writes
        for keep in (False, True)
    ]
    assert writes[1] - writes[0] == 512


def test_an_output_that_does_not_fit_beside_the_input_goes_to_dram():
    workload = chain(conv("a"), conv("b"))
    for capacity, kept in ((1024, True), (1023, False)):
        cost = simulate(chip(keep_outputs=True, memories__input_buffer__capacity_bytes=capacity), workload)
        assert (dram(cost, "a", "output").writes == 0) == kept


def test_a_residual_tensor_is_kept_only_if_it_fits_beside_everything_in_between():
    for capacity, kept in ((3 * 512, True), (3 * 512 - 1, False)):
        cost = simulate(chip(keep_outputs=True, memories__input_buffer__capacity_bytes=capacity), residual())
        assert (dram(cost, "a", "output").writes == 0 and dram(cost, "c", "output").writes == 0) == kept


def test_outputs_of_the_network_and_of_attention_products_reach_dram():
    query = Gemm(name="qkv", m=16, n=48, k=16)
    scores = Gemm(name="scores", m=16, n=16, k=16, b_source="activation")
    cost = simulate(chip(keep_outputs=True), chain(query, scores))
    assert dram(cost, "qkv", "output").writes == query.output_elements
    assert dram(cost, "scores", "output").writes == scores.output_elements


def test_a_reader_of_several_tensors_fetches_only_those_in_dram():
    """Of two inputs of an addition one is too large to be kept."""
    layers = (conv("a", k=64, c=64), conv("b", c=64), add("sum", 4096))
    workload = Workload(name="w", layers=layers, edges=(("a", "b"), ("b", "sum"), ("a", "sum")))
    cost = simulate(chip(keep_outputs=True, memories__input_buffer__capacity_bytes=5000), workload)
    assert dram(cost, "b", "output").writes == 0
    assert dram(cost, "a", "output").writes == 4096
    assert dram(cost, "sum", "input").reads == 2 * 4096 - 512


@pytest.mark.parametrize("mode", ["ideal", "detailed"])
def test_no_latency_falls_below_the_traffic_that_is_left(mode: Any):
    cost = simulate(
        chip(keep_outputs=True, memories__dram__bandwidth_bytes_per_cycle=0.5), residual(), None, Goal("edp", mode)
    )
    for layer in cost.layers:
        moved = sum(access.moved_bits for access in layer.activity.accesses["dram"].values())
        assert layer.activity.latency_cycles >= moved / 4
