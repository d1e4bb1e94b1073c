"""Captured activations: those that the layers read, whole or refused as a file, and what `simulate` makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from accel_models.accelerator import load_accelerator
from accel_models.activation_masks import activation_mask
from accel_models.evaluate import simulate
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.masks import Mask
from accel_models.workload import Workload
from cosim.commands.zeros import Zeros, read_activation_masks, useless_zeros, write_activation_masks
from cosim.data import load_dataset
from cosim.errors import ConfigError
from cosim.extract import capture_activations, extract_workload
from cosim.files import write_tensors
from cosim.networks import build_network, network_entry, network_example
from cosim.pruning.apply import apply_plan, plan_of_groups, prunable_groups
from cosim.pruning.coupling import trace_channel_groups
from tests.cosim.conftest import Ended

NAME = "digits_resnet"


def images_for(name: str, count: int = 2) -> Tensor:
    return torch.randn(count, *network_entry(name).input_shape, generator=torch.Generator().manual_seed(0))


def hooked(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What modules with weights read, seen from outside."""
    found: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs: found.setdefault(name, []).append(inputs[0].detach() != 0)

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [module.register_forward_pre_hook(keep(name)) for name, module in layers]
    with torch.no_grad():
        for image in images.split(1):
            model(image)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(seen) for name, seen in found.items()}


@pytest.mark.parametrize("name", [NAME, "lenet_300_100", "resnet20_cifar", "densenet40_cifar", "googlenet_cifar"])
def test_captured_masks_are_what_the_layers_read(name: str):
    model, images = build_network(name, 1).eval(), images_for(name)
    masks, seen = capture_activations(model, images), hooked(model, images)
    workload = extract_workload(model, network_example(name), name)
    weighted = [layer.name for layer in workload.layers if not isinstance(layer, VectorOp)]
    assert list(masks) == weighted
    for layer, mask in masks.items():
        assert np.array_equal(mask.to_bool().ravel(), seen[layer].numpy().ravel()), layer
    assert {mask.shape[0] for mask in masks.values()} == {2}
    assert min(mask.density for mask in masks.values()) < 0.8


def test_a_network_is_left_as_it_was():
    model = build_network(NAME).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    capture_activations(model, images_for(NAME))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class _Mixed(nn.Module):
    """A module that runs twice, functions with weights, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(6, 4))
        self.table = nn.Parameter(torch.randn(6, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.again(torch.relu(self.again(x))))
        x = torch.relu(nn.functional.linear(x, self.weight)) @ self.table
        return self.attention(x, x, x)[0]


def test_functions_and_repeats_have_masks_and_products_of_activations_have_none():
    torch.manual_seed(0)
    model, image = _Mixed().eval(), torch.randn(3, 5, 4)
    masks = capture_activations(model, image)
    assert list(masks) == ["again", "again#1", "weight", "table"]
    with torch.no_grad():
        first = torch.relu(model.again(image))
        last = torch.relu(nn.functional.linear(torch.relu(model.again(first)), model.weight))
    assert np.array_equal(masks["again#1"].to_bool(), (first != 0).numpy())
    assert np.array_equal(masks["table"].to_bool(), (last != 0).numpy())


def test_no_images_and_activations_that_are_no_numbers_are_refused():
    model = build_network(NAME).eval()
    with pytest.raises(ConfigError, match="give at least one"):
        capture_activations(model, images_for(NAME)[:0])
    next(model.parameters()).data[:] = torch.nan
    with pytest.raises(ConfigError, match=r"layer '.+': an input is not a number"):
        capture_activations(model, images_for(NAME))


@pytest.mark.parametrize("name", [NAME, "resnet20_cifar", "mobilenet_v2"])
def test_eyeriss_gates_the_zero_inputs_that_meet_a_product(name: str):
    """Counted by a convolution of ones over the inputs that are not zero."""
    model, images = build_network(name, 2).eval(), images_for(name, 1 if name == "mobilenet_v2" else 2)
    workload = extract_workload(model, network_example(name), name)
    seen = hooked(model, images)
    cost = simulate(load_accelerator("eyeriss_v1"), workload, activation_masks=capture_activations(model, images))
    counted = 0
    for layer, found in zip(workload.layers, cost.layers, strict=True):
        if isinstance(layer, Conv2d):
            ones = torch.ones(layer.k, layer.c // layer.groups, layer.r, layer.s, dtype=torch.float64)
            inputs = seen[layer.name].flatten(0, 1).double()
            met = nn.functional.conv2d(inputs, ones, None, layer.stride, layer.padding, layer.dilation, layer.groups)
            counted += 1
        elif isinstance(layer, Gemm):
            met = seen[layer.name].double() * layer.n
            counted += 1
        else:
            continue
        done = round(met.sum().item() / len(images))
        assert (found.activity.macs.done, found.activity.macs.gated) == (done, layer.macs - done), layer.name
    assert counted > 5


LAYERS = (
    Conv2d(name="conv", k=8, c=3, p=7, q=7, r=3, s=3, padding=(1, 1)),
    Gemm(name="fc", m=1, n=10, k=70),
)
NETWORK = Workload(name="net", layers=LAYERS)


def captured(runs: int = 3) -> dict[str, Mask]:
    rng = np.random.default_rng(0)
    shapes = {"conv": (runs, 3, 7, 7), "fc": (runs, 1, 70)}
    return {layer.name: activation_mask(rng.random(shapes[layer.name]) < 0.5, layer) for layer in LAYERS}


def test_a_file_gives_the_masks_back_and_has_the_same_bytes_each_time(tmp_path: Path):
    for name in ("a", "b"):
        write_activation_masks(tmp_path / name, captured(), {"network": "net", "images": 3})
    found = read_activation_masks(tmp_path / "a", NETWORK)
    assert found.masks == captured()
    assert found.notices == ()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32])
def test_plain_tensors_of_0_and_1_are_masks_too(tmp_path: Path, dtype: type):
    save_file({name: mask.to_bool().astype(dtype) for name, mask in captured().items()}, tmp_path / "m.safetensors")
    assert read_activation_masks(tmp_path / "m.safetensors", NETWORK).masks == captured()


def test_layers_without_masks_are_named(tmp_path: Path):
    write_activation_masks(tmp_path / "m", {"fc": captured()["fc"]}, {})
    (notice,) = read_activation_masks(tmp_path / "m", NETWORK).notices
    assert "no masks of 1 layers (conv): their inputs have the density given, or are dense" in notice


def damaged(name: str, change: Callable[[np.ndarray], np.ndarray], shapes: dict[str, Any]) -> dict[str, Any]:
    words = change(captured()[name].words.copy())
    return {"tensor": {name: words}, "metadata": {"activation_masks": json.dumps({"shapes": shapes})}}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (damaged("conv", lambda w: w | np.uint64(2**63), {"conv": [3, 3, 7, 7]}), "conv: its words do not hold a mask"),
        (damaged("conv", lambda w: w[:, :0], {"conv": [3, 3, 7, 7]}), "conv: its words do not hold a mask"),
        (damaged("conv", lambda w: w.astype(np.int64), {"conv": [3, 3, 7, 7]}), "conv: its words do not hold a mask"),
        (damaged("conv", lambda w: w, {"conv": [3, 3, 7, "x"]}), "conv: its words do not hold a mask"),
        (damaged("conv", lambda w: w, {"conv": [3, 3, 49, 49]}), "conv: its words do not hold a mask"),
        (damaged("conv", lambda w: w, {}), "layer 'conv': mask of inputs (9, 1)"),
        ({"tensor": {"other": np.ones((1, 3, 7, 7))}}, "tensor 'other' is of no layer of 'net'"),
        ({"tensor": {"conv": np.full((1, 3, 7, 7), 2.0)}}, "layer 'conv': mask of inputs: element (0, 0, 0, 0)"),
        ({"tensor": {"conv": np.ones((1, 3, 7, 8))}}, "layer 'conv': mask of inputs (1, 3, 7, 8); the layer reads"),
        ({"tensor": {}}, "holds no masks"),
    ],
)  # fmt: skip
def test_files_that_hold_no_masks_of_the_network_are_refused(tmp_path: Path, file: dict[str, Any], message: str):
    save_file(file["tensor"], tmp_path / "m.safetensors", file.get("metadata"))
    with pytest.raises(ValueError, match=r"m\.safetensors|layer") as caught:
        read_activation_masks(tmp_path / "m.safetensors", NETWORK)
    assert message in str(caught.value)


def test_an_array_without_a_use_for_zero_inputs_says_so():
    zeros = Zeros(structures={}, masks={}, activation_masks=captured(), densities={})
    assert "edge_os_16x16 makes nothing of zero inputs" in useless_zeros(load_accelerator("edge_os_16x16"), zeros)[0]
    assert useless_zeros(load_accelerator("row_gather"), zeros)
    for name in ("eyeriss_v1", "nm_systolic", "scnn", "dstc"):
        assert useless_zeros(load_accelerator(name), zeros) == ()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A plan that halves every width, and weights that belong to it."""
    model, example = build_network(NAME, 3).eval(), network_example(NAME)
    groups = trace_channel_groups(model, example)
    plan = plan_of_groups(NAME, groups, {group.name: group.size // 2 for group in prunable_groups(groups)})
    (tmp_path / "plan.json").write_text(plan.to_json())
    write_tensors(tmp_path / "pruned.safetensors", apply_plan(model, example, plan).state_dict())
    return tmp_path / "plan.json", tmp_path / "pruned.safetensors"


def test_what_is_captured_is_simulated_beside_its_densities(
    cosim: Callable[..., Ended], files: tuple[Path, Path], tmp_path: Path
):
    plan, weights = files
    out, densities = tmp_path / "inputs.safetensors", tmp_path / "densities.json"
    ended = cosim("capture", "-n", NAME, "-d", "digits", "--plan", plan, "--weights", weights, "--images", 3,
                  "--out", out, "--json", densities)  # fmt: skip
    assert ended.code == 0, ended.err
    assert f"written: {out}" in ended.out.replace("\n", "")
    simulate_ = ("simulate", "-a", "eyeriss_v2", "-w", NAME, "--plan", plan)
    masked = cosim(*simulate_, "--activation-masks", out, "--json", tmp_path / "masked.json")
    assert masked.code == 0, masked.err
    assert "masks, and estimates from their densities" in masked.out
    data = json.loads((tmp_path / "masked.json").read_text())
    assert f"{data['total']['latency_cycles']:,}" in masked.out
    assert f"{data['from_densities']['total']['latency_cycles']:,}" in masked.out
    assert all(len(layer["sparse"]["run_cycles"]) == 3 for layer in data["layers"] if "sparse" in layer)
    assert cosim(*simulate_, "--density", densities, "--json", tmp_path / "expected.json").code == 0
    expected = json.loads((tmp_path / "expected.json").read_text())
    assert data["from_densities"]["total"] == expected["total"]
    assert data["total"]["macs"] < expected["total"]["macs"]  # padding is zero


def test_captured_images_are_those_of_the_validation_split(
    cosim: Callable[..., Ended], files: tuple[Path, Path], tmp_path: Path
):
    model = build_network(NAME, 3).eval()
    write_tensors(tmp_path / "dense.safetensors", model.state_dict())
    ended = cosim("capture", "-n", NAME, "-d", "digits", "--weights", tmp_path / "dense.safetensors", "--out",
                  tmp_path / "m", "--seed", 1)  # fmt: skip
    assert ended.code == 0, ended.err
    expected = capture_activations(model, load_dataset("digits", 1).validation.batch(slice(0, 4)))
    assert {name: words.tolist() for name, words in load_file(tmp_path / "m").items()} == {
        name: mask.words.tolist() for name, mask in expected.items()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images", "100000"), "--images 100000: digits has"),
        (("--weights", "plan.json"), "plan.json"),
        (("-d", "digit"), "did you mean 'digits'"),
        (("-n", "resnet20_cifar"), "takes no images"),
        (("--plan", "plan.json", "--weights", "dense.safetensors"), "give the weights that belong to"),
    ],
)
def test_what_cannot_be_captured_is_refused_and_leaves_no_file(
    cosim: Callable[..., Ended],
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    write_tensors(tmp_path / "dense.safetensors", build_network(NAME).state_dict())
    ended = cosim("capture", "-n", NAME, "-d", "digits", "--weights", "dense.safetensors", "--out", "m", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert not (tmp_path / "m").exists()
