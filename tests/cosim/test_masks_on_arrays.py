"""Masks as pruning makes them, on the arrays that they are made for: fixed ones leave no lane waiting, others do."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from accel_models import KofN, NetworkCost, Workload, load_accelerator, simulate
from accel_models.activation_masks import activation_mask
from accel_models.errors import InvalidInputError
from accel_models.masks import check_k_of_n, weight_mask
from cosim.extract import extract_workload, weight_masks, weight_structures
from cosim.files import write_tensors
from cosim.networks import build_network
from cosim.networks.registry import network_example
from cosim.pruning.apply import attach_plan
from cosim.pruning.dpp import attach_masks, freeze_masks
from cosim.pruning.plan import LayerPlan, MaskPlan, PruningPlan
from tests.cosim.conftest import run_cli

EXAMPLE = Path(__file__).parents[2] / "examples" / "masks_on_arrays.py"


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("masks_on_arrays", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, str], NetworkCost]:
    """(accelerator, masks) -> cost of a small network with residual blocks."""
    torch.manual_seed(0)
    example, network = load_example(), build_network("digits_resnet")
    workload = extract_workload(network, network_example("digits_resnet"), "digits_resnet")
    return {
        (array, masks.name): simulate(load_accelerator(array), workload, masks.structures, masks=masks.masks)
        for masks in example.three_masks("digits_resnet", network, workload)
        for array in ("row_gather", "nm_systolic")
    }


def imbalance(cost: NetworkCost) -> dict[str, int]:
    return {
        layer.name: layer.activity.stall_cycles["imbalance"] for layer in cost.layers if layer.activity.macs.done > 0
    }


@pytest.mark.parametrize(("array", "masks"), [("row_gather", "k of n per row"), ("nm_systolic", "2 of 8 per tile")])
def test_fixed_masks_leave_no_lane_waiting_in_any_layer_and_unstructured_ones_do_in_every_layer(
    results: dict[tuple[str, str], NetworkCost], array: str, masks: str
) -> None:
    fixed, free = results[array, masks], results[array, "unstructured"]
    assert len(imbalance(fixed)) == 10
    assert set(imbalance(fixed).values()) == {0}
    assert all(stall > 0 for stall in imbalance(free).values()), imbalance(free)
    for one, other in zip(fixed.layers, free.layers, strict=True):
        assert one.activity.macs == other.activity.macs, "the same weights stay"
    assert fixed.latency_cycles < free.latency_cycles


def test_rows_of_fixed_masks_need_less_metadata_than_pointers(
    results: dict[tuple[str, str], NetworkCost],
) -> None:
    fixed, free = results["row_gather", "k of n per row"], results["row_gather", "unstructured"]
    assert fixed.weight_bytes < free.weight_bytes


LAYERS = {
    "plain": lambda: nn.Conv2d(24, 8, 3),
    "pointwise": lambda: nn.Conv2d(24, 8, 1),
    "grouped": lambda: nn.Conv2d(24, 8, (3, 2), groups=2),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "strided": lambda: nn.Conv2d(12, 8, 5, stride=2),
}


def network_of(layer: nn.Conv2d, kernel: bool) -> tuple[nn.Module, Workload, PruningPlan]:
    channels = layer.in_channels // layer.groups
    mask = (
        MaskPlan(granularity="kernel", k=max(1, channels // 2), n=channels)
        if kernel
        else MaskPlan(granularity="weight", k=3, n=min(7, layer.weight[0].numel()))
    )
    network, plan = nn.Sequential(layer), PruningPlan(network="x", layers={"0": LayerPlan(mask=mask)})
    return network, extract_workload(network, torch.zeros(1, layer.in_channels, 9, 9), "x", plan), plan


@pytest.mark.parametrize("kernel", [False, True], ids=["tiles", "kernels"])
@pytest.mark.parametrize("name", LAYERS)
def test_masks_that_pruning_makes_have_the_structure_that_hardware_takes_from_the_plan(name: str, kernel: bool) -> None:
    network, workload, plan = network_of(LAYERS[name](), kernel)
    assert plan["0"].mask is not None
    attach_masks(network, {"0": plan["0"].mask}, seed=3, init="random")
    (hardware,) = workload.layers
    kept = weight_masks(network)["0"]
    structure = weight_structures(plan)["0"]
    check_k_of_n(weight_mask(kept, hardware), hardware, structure)
    broken = kept.copy()
    broken[0] = False
    with pytest.raises(InvalidInputError, match="row 0 of the mask keeps"):
        check_k_of_n(weight_mask(broken, hardware), hardware, structure)


@pytest.mark.parametrize("machine", ["nm_systolic", "sparse_tensor_core_2_4", "row_gather", "sparten"])
def test_masks_of_2_of_4_cost_what_the_plan_alone_costs_where_lanes_do_not_wait(machine: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1))
    plan = PruningPlan(network="x", layers={"0": LayerPlan(mask=MaskPlan(granularity="weight", k=2, n=4))})
    assert plan["0"].mask is not None
    attach_masks(network, {"0": plan["0"].mask})
    workload = extract_workload(network, torch.zeros(1, 16, 8, 8), "x", plan)
    masks = {"0": weight_mask(weight_masks(network)["0"], workload.layers[0])}
    accelerator, structures = load_accelerator(machine), weight_structures(plan)
    by_plan, by_mask = (
        simulate(accelerator, workload, structures),
        simulate(accelerator, workload, structures, masks=masks),
    )
    assert by_mask.notices == by_plan.notices == ()
    assert by_mask.weight_bytes == by_plan.weight_bytes
    assert by_mask.layers[0].activity.stall_cycles["imbalance"] <= by_plan.layers[0].activity.stall_cycles["imbalance"]


def test_captured_inputs_meet_the_weights_of_their_own_channel() -> None:
    """Products of a mask and of inputs are the same in any order of the reduction."""
    rng = np.random.default_rng(0)
    layer = extract_workload(nn.Sequential(nn.Conv2d(6, 4, 3)), torch.zeros(1, 6, 7, 7), "x").layers[0]
    assert layer.macs
    weights, inputs = rng.random((4, 6, 3, 3)) < 0.4, rng.random((1, 6, 7, 7)) < 0.5
    expected = torch.nn.functional.conv2d(torch.tensor(inputs).double(), torch.tensor(weights).double()).sum()
    workload = Workload(name="x", layers=(layer,))
    for machine in ("sparten", "eyeriss_v2"):
        cost = simulate(
            load_accelerator(machine),
            workload,
            masks={layer.name: weight_mask(weights, layer)},
            activation_masks={layer.name: activation_mask(inputs, layer)},
        )
        assert cost.macs == int(expected), machine


def test_the_example_keeps_the_same_number_of_weights_in_every_layer() -> None:
    network = build_network("digits_resnet")
    workload = extract_workload(network, network_example("digits_resnet"), "digits_resnet")
    tiles, rows, free = (
        {name: mask.nonzeros for name, mask in masks.masks.items()}
        for masks in load_example().three_masks("digits_resnet", network, workload)
    )
    assert tiles == rows == free
    assert KofN(granularity="weight", k=2, n=8) == load_example().TILES


def test_the_command_takes_a_plan_and_the_masks_that_pruning_made_of_it(tmp_path: Path) -> None:
    tiles = LayerPlan(mask=MaskPlan(granularity="weight", k=2, n=4), weight_bits=4, activation_bits=4)
    kernels = LayerPlan(mask=MaskPlan(granularity="kernel", k=8, n=32))
    plan = PruningPlan(network="digits_resnet", layers={"stages.1.conv1": tiles, "stages.1.conv2": kernels})
    network = build_network("digits_resnet")
    attach_plan(network, plan, seed=0)
    (tmp_path / "plan.json").write_text(plan.to_json())
    write_tensors(tmp_path / "masks.safetensors", freeze_masks(network))
    files = ("--plan", tmp_path / "plan.json", "--masks", tmp_path / "masks.safetensors")
    ended = run_cli("simulate", "-a", "nm_systolic", "-w", "digits_resnet", *files, "--json", tmp_path / "cost.json")
    assert ended.code == 0, ended.err
    layers = {layer["name"]: layer for layer in json.loads((tmp_path / "cost.json").read_text())["layers"]}
    assert layers["stages.1.conv1"]["stall_cycles"]["imbalance"] == 0
    assert layers["stages.1.conv1"]["macs"]["done"] * 2 == sum(layers["stages.1.conv1"]["macs"].values())
    assert layers["stages.1.conv2"]["stall_cycles"]["imbalance"] > 0, "kernels fill blocks of 8 weights unevenly"
