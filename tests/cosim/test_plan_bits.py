"""Bits of a plan from the file to the network, its exported files, and what hardware is priced with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from accel_models import NetworkCost, load_accelerator, simulate
from accel_models.energy import energy_table
from accel_models.layers import Bits
from accel_models.workload import Workload
from cosim.export import Exported, export_onnx, export_program, export_weights, load_exported
from cosim.extract import extract_workload, weight_structures
from cosim.networks import build_network
from cosim.networks.registry import network_example
from cosim.pruning.activation_bits import ActivationQuantizer
from cosim.pruning.apply import attach_input_bits, attach_plan
from cosim.pruning.dpp import freeze_masks
from cosim.pruning.plan import LayerPlan, MaskPlan, PruningPlan, load_plan
from cosim.pruning.quantize import freeze_quantizers

NAME = "digits_resnet"
LAYERS = [name for name, part in build_network(NAME).named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]


def plan_of(default: LayerPlan, **others: LayerPlan) -> PruningPlan:
    """The default for every layer that is not named."""
    named = {name.replace("__", "."): layer for name, layer in others.items()}
    return PruningPlan(network=NAME, layers={name: named.get(name, default) for name in LAYERS})


def workload_of(plan: PruningPlan) -> Workload:
    return extract_workload(build_network(NAME), network_example(NAME), NAME, plan)


# ---------------------------------------------------------------- the file


def test_a_file_of_before_activation_bits_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    text = '{"version": 1, "network": "x", "layers": {"conv1": {"weight_bits": 4}}}'
    (tmp_path / "old.json").write_text(text)
    plan = load_plan(tmp_path / "old.json")
    assert plan["conv1"].activation_bits is None
    assert json.loads(plan.to_json()) == json.loads(text)


# ---------------------------------------------------------------- the network


def trained(bits: LayerPlan) -> tuple[nn.Module, PruningPlan]:
    """Masks, weight bits and input bits attached, a step trained, frozen."""
    torch.manual_seed(0)
    model, plan = build_network(NAME), plan_of(bits, conv1=LayerPlan(weight_bits=8))
    attach_plan(model, plan, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()(torch.rand(16, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    freeze_masks(model)
    freeze_quantizers(model)
    return model.eval(), plan


JOINT = [
    LayerPlan(weight_bits=w, activation_bits=8, mask=MaskPlan(granularity="weight", k=2, n=4)) for w in (8, 4, 2, 1)
]
"""8-bit, 4-bit, ternary and binary weights with masks and 8-bit inputs."""


@pytest.mark.parametrize("bits", JOINT, ids=lambda layer: f"{layer.weight_bits} bits")
def test_masks_weight_bits_and_input_bits_train_together(bits: LayerPlan) -> None:
    model, plan = trained(bits)
    quantizers = {n.rpartition(".")[0]: m.bits for n, m in model.named_modules() if isinstance(m, ActivationQuantizer)}
    assert quantizers == dict.fromkeys([name for name in LAYERS if name != "conv1"], 8)
    for name in quantizers:
        weight = model.get_submodule(name).weight
        assert len(weight.unique()) <= max(3, 2**bits.weight_bits - 1), name
        assert int(weight.count_nonzero()) <= weight.numel() // 2, name
    assert plan[name].activation_bits == 8


def onnx(model: nn.Module, example: Tensor, path: Path) -> Exported:
    pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    return export_onnx(model, example, path)


@pytest.mark.parametrize("write", [export_program, onnx])
def test_exported_files_round_the_inputs_of_layers(
    write: Callable[[nn.Module, Tensor, Path], Exported], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    layers = {name: LayerPlan(weight_bits=4, activation_bits=bits) for name, bits in (("0", 3), ("3", 2))}
    attach_plan(model, PruningPlan(network="x", layers=layers), seed=0)
    images = torch.randn(6, 1, 8, 8)
    model.train()(images)
    rounded = model.eval()(images)
    assert write(model, images, tmp_path / "network").difference <= 1e-5
    for part in model.modules():
        if isinstance(part, ActivationQuantizer):
            part.size.zero_()  # as without bits
    assert not torch.allclose(model(images), rounded, atol=1e-3), "the rounding shows"


def test_weights_carry_the_ranges_of_the_inputs(tmp_path: Path) -> None:
    model, plan = trained(LayerPlan(weight_bits=4, activation_bits=3))
    example, images = network_example(NAME), torch.rand(4, 1, 8, 8)
    assert export_weights(model, example, tmp_path, plan, build_network(NAME, 5)).difference <= 1e-5
    rebuilt = load_exported(tmp_path, build_network(NAME, 6), example)
    assert torch.equal(rebuilt(images), model(images))
    for part in model.modules():
        if isinstance(part, ActivationQuantizer):
            part.size.zero_()  # as without bits
    assert not torch.allclose(rebuilt(images), model(images))


def test_input_bits_of_no_layer_are_refused_by_name() -> None:
    plan = PruningPlan(network=NAME, layers={"conv9": LayerPlan(activation_bits=8)})
    with pytest.raises(ValueError, match=r"conv9: activation_bits: no Conv2d or Linear layer of that name"):
        attach_input_bits(build_network(NAME), plan)


# ---------------------------------------------------------------- the workload


def test_a_tensor_is_written_as_wide_as_its_widest_reader_takes_it() -> None:
    workload = workload_of(plan_of(LayerPlan(activation_bits=4), stages__1__conv1=LayerPlan(activation_bits=6)))
    layers = {layer.name: layer.bits for layer in workload.layers}
    assert layers["conv1"] == Bits(weight=8, input=4, output=6)  # read by an addition that stages.1.conv1 reads
    assert layers["stages.0.conv1"] == Bits(weight=8, input=4, output=4)
    assert layers["stages.1.conv1"] == Bits(weight=8, input=6, output=4)
    assert layers["linear"] == Bits(weight=8, input=4, output=8)
    readers: dict[str, list[int]] = {}
    for producer, consumer in workload.edges:
        readers.setdefault(producer, []).append(layers[consumer].input)
    assert {name: max(widths) for name, widths in readers.items()} == {
        name: bits.output for name, bits in layers.items() if name in readers
    }
    assert 6 in {max(widths) for widths in readers.values()}
    assert all(bits.input == bits.output for name, bits in layers.items() if name not in LAYERS)


def test_a_plan_without_input_bits_gives_the_workload_of_before() -> None:
    workload = workload_of(plan_of(LayerPlan(weight_bits=4)))
    assert {(layer.bits.input, layer.bits.output) for layer in workload.layers} == {(8, 8)}


# ---------------------------------------------------------------- the hardware

MACHINES = ["edge_os_16x16", "edge_ws_16x16", "gemmini_16x16", "eyeriss_v1", "row_gather", "nm_systolic"]
"""Two systolic arrays, a flexible and a row-stationary one, two sparse ones."""
LAYER = "stages.1.conv1"


def cost_of(machine: str, bits: LayerPlan) -> NetworkCost:
    """On the array with multipliers of 1, 2, 4 and 8 bits."""
    plan = plan_of(LayerPlan(), stages__1__conv1=bits)
    accelerator = load_accelerator(machine, {"pe_array.weight_bits": [1, 2, 4, 8], "pe_array.input_bits": 8})
    return simulate(accelerator, workload_of(plan), weight_structures(plan))


def moved(cost: NetworkCost, operand: str) -> tuple[int, int]:
    """Bits of an operand of the layer at DRAM, and at the memory inside it."""
    layer = next(layer for layer in cost.layers if layer.name == LAYER)
    machine = cost.accelerator
    names = (machine.dram.name, machine.buffer(operand).name)  # type: ignore[arg-type]
    counts = [layer.activity.accesses[name][operand] for name in names]  # type: ignore[index]
    return counts[0].read_bits // counts[0].reads, counts[1].read_bits // counts[1].reads


@pytest.mark.parametrize("machine", MACHINES)
def test_storage_and_traffic_follow_the_bits_of_the_plan(machine: str) -> None:
    for bits in (8, 4, 2, 1):
        cost = cost_of(machine, LayerPlan(weight_bits=bits, activation_bits=max(bits, 2)))
        layer = next(layer for layer in cost.layers if layer.name == LAYER)
        elements = build_network(NAME).get_submodule(LAYER).weight.numel()
        indices = layer.activity.accesses[cost.accelerator.dram.name]["weight"].metadata_read_bits
        assert layer.activity.weight_bits == elements * bits + indices
        assert moved(cost, "weight") == (bits, bits)
        assert moved(cost, "input") == (max(bits, 2), max(bits, 2))


@pytest.mark.parametrize("machine", ["row_gather", "nm_systolic", "edge_skip_16x16"])
def test_masked_weights_are_stored_at_their_bits_with_their_metadata_unchanged(machine: str) -> None:
    mask = MaskPlan(granularity="weight", k=2, n=8)
    wide, narrow = (cost_of(machine, LayerPlan(weight_bits=bits, mask=mask)) for bits in (8, 2))
    kept = build_network(NAME).get_submodule(LAYER).weight.numel() // 4
    assert 8 * (wide.weight_bytes - narrow.weight_bytes) == kept * (8 - 2)
    assert wide.energy_by_component()["metadata"] == pytest.approx(narrow.energy_by_component()["metadata"])


@pytest.mark.parametrize("machine", MACHINES)
def test_energy_of_a_product_is_proportional_to_both_widths(machine: str) -> None:
    """Horowitz: 0.2 pJ for 8 x 8 bits, and the addition to the partial sum whatever the widths."""

    def multiply(weight: int, inputs: int) -> float:
        cost = cost_of(machine, LayerPlan(weight_bits=weight, activation_bits=inputs))
        layer = next(layer for layer in cost.layers if layer.name == LAYER)
        adds = energy_table(cost.accelerator)["add"].value
        return layer.energy_pj["mac"] / layer.activity.macs.done - adds

    whole = multiply(8, 8)
    assert whole > 0
    for weight, inputs in ((8, 4), (4, 8), (4, 4), (2, 8), (1, 2)):
        assert multiply(weight, inputs) == pytest.approx(whole * weight * inputs / 64), (weight, inputs)
    assert multiply(3, 7) == pytest.approx(multiply(4, 8)), "the narrowest multiplier that holds them"


@pytest.mark.parametrize("machine", MACHINES)
def test_a_multiplier_of_one_width_gains_nothing_from_fewer_bits(machine: str) -> None:
    plans = [plan_of(LayerPlan(weight_bits=bits, activation_bits=bits)) for bits in (8, 4)]
    accelerator = load_accelerator(machine, {"pe_array.weight_bits": [8], "pe_array.input_bits": 8})
    eight, four = (simulate(accelerator, workload_of(plan)).energy_by_component()["mac"] for plan in plans)
    assert eight == four


def test_eyeriss_takes_whole_words_of_its_only_width_whatever_the_plan_says() -> None:
    machine = load_accelerator("eyeriss_v1")
    plans = [plan_of(LayerPlan(weight_bits=bits, activation_bits=bits)) for bits in (4, 16)]
    few, many = (simulate(machine, workload_of(plan)).layers for plan in plans)
    for narrow, wide in zip(few, many, strict=True):
        if narrow.activity.macs.done:
            assert (narrow.energy_pj, narrow.activity.accesses) == (wide.energy_pj, wide.activity.accesses)


def test_traffic_of_a_row_stationary_array_follows_the_bits_in_every_memory() -> None:
    wide, narrow = (cost_of("eyeriss_v1", LayerPlan(weight_bits=b, activation_bits=b)) for b in (8, 4))
    layers = [next(layer for layer in cost.layers if layer.name == LAYER) for cost in (wide, narrow)]
    for memory, operands in layers[0].activity.accesses.items():
        for operand in ("weight", "input"):
            if operand in operands:
                before, after = operands[operand], layers[1].activity.accesses[memory][operand]
                assert (after.read_bits * 2, after.write_bits * 2) == (before.read_bits, before.write_bits), memory
    assert layers[1].total_energy_pj < layers[0].total_energy_pj
