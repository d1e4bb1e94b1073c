"""From a trained network and a plan to a pruned one: exact masks, few levels, and the same again from the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cosim.compress import Compressed, Recovery, Trained, compress, load_compressed, prepare
from cosim.data import Dataset, load_digits
from cosim.errors import ConfigError, PruningError
from cosim.files import read_json, read_tensors, write_json, write_tensors, write_text
from cosim.networks import build_network
from cosim.pruning.apply import filter_plans
from cosim.pruning.dpp_layout import check_mask
from cosim.pruning.plan import LayerPlan, MaskPlan, PruningPlan, load_plan
from cosim.training import Recipe, evaluate, fit, predict

RECOVERY = Recovery(Recipe(epochs=1, lr=0.05, lr_scale=(("logits", 10.0),)))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_digits(0)


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> Trained:
    model = build_network("digits_resnet", 0)
    fit(model, digits.train, Recipe(epochs=2, lr=0.003, optimizer="adam", weight_decay=1e-2), seed=0)
    return prepare(model.eval(), digits, "nuclear_norm", seed=0)


@pytest.fixture(scope="module")
def plan(trained: Trained) -> PruningPlan:
    """Half of the first stage's filters, all kinds of masks (one with a short last tile) and widths."""
    layers: dict[str, LayerPlan] = {}
    for group in trained.groups:
        if group.name in ("conv1", "stages.0.conv1"):
            layers |= filter_plans(group, 8)
    weight, kernel = MaskPlan(granularity="weight", k=2, n=5), MaskPlan(granularity="kernel", k=3, n=8)
    layers["stages.0.conv1"] = layers["stages.0.conv1"].model_copy(update={"mask": weight, "weight_bits": 4})
    layers["stages.1.conv1"] = LayerPlan(mask=kernel, weight_bits=2)
    layers["linear"] = LayerPlan(mask=MaskPlan(granularity="weight", k=16, n=64), weight_bits=3)
    return PruningPlan(network="digits_resnet", layers=layers)


@pytest.fixture(scope="module")
def compressed(trained: Trained, digits: Dataset, plan: PruningPlan) -> Compressed:
    return compress(trained, digits, plan, RECOVERY, seed=0)


def weight(model: nn.Module, layer: str) -> torch.Tensor:
    return model.state_dict()[f"{layer}.weight"]


def test_masks_keep_exactly_k_of_n_and_the_weights_obey_them(compressed: Compressed) -> None:
    planned = {name: layer.mask for name, layer in compressed.plan.layers.items() if layer.mask is not None}
    assert compressed.masks.keys() == planned.keys()
    for name, mask in planned.items():
        check_mask(compressed.masks[name], mask, name)
        assert not weight(compressed.model, name)[~compressed.masks[name]].any()


def test_each_layer_has_no_more_levels_than_its_bits_allow(compressed: Compressed) -> None:
    layers = [name for name, m in compressed.model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for name in layers:
        levels = weight(compressed.model, name).unique().numel()
        assert levels <= 2 ** compressed.plan[name].weight_bits - 1, name


def test_filters_are_gone_and_the_plan_says_which_stayed(compressed: Compressed) -> None:
    filters = compressed.plan["conv1"].filters
    assert filters is not None
    assert filters.keep is not None
    assert len(filters.keep) == 8
    assert compressed.plan["stages.0.conv2"].filters == filters
    assert len(weight(compressed.model, "conv1")) == 8


def test_nothing_but_plain_parameters_is_left(compressed: Compressed) -> None:
    dense = {name for name, _ in build_network("digits_resnet").named_parameters()}
    assert {name for name, _ in compressed.model.named_parameters()} == dense
    assert not compressed.model.training


def test_the_dense_network_is_left_as_it_was(trained: Trained, compressed: Compressed) -> None:
    assert weight(trained.model, "conv1").shape == (16, 1, 3, 3)
    assert weight(trained.model, "stages.0.conv1").unique().numel() > 16


def test_accuracy_is_that_of_the_model_handed_back(compressed: Compressed, digits: Dataset) -> None:
    assert compressed.accuracy["finetuned"] == evaluate(compressed.model, digits.validation)


def test_the_seed_decides_every_weight(
    trained: Trained, digits: Dataset, plan: PruningPlan, compressed: Compressed
) -> None:
    again = compress(trained, digits, plan, RECOVERY, seed=0)
    other = compress(trained, digits, plan, RECOVERY, seed=1)
    state = compressed.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.model.state_dict().items())
    assert again.accuracy == compressed.accuracy
    assert not torch.equal(weight(other.model, "conv1"), weight(compressed.model, "conv1"))


def test_without_fine_tuning_the_largest_weights_stay(trained: Trained, digits: Dataset) -> None:
    mask = MaskPlan(granularity="weight", k=1, n=64)
    layers = {"linear": LayerPlan(mask=mask, weight_bits=32)}
    done = compress(trained, digits, PruningPlan(network="x", layers=layers), Recovery(Recipe(epochs=0)), seed=0)
    dense = weight(trained.model, "linear")
    assert torch.equal(done.masks["linear"].float().argmax(1), dense.abs().argmax(1))
    assert torch.equal(weight(done.model, "linear"), dense * done.masks["linear"])


def test_saved_weights_and_plan_give_the_network_back(compressed: Compressed, digits: Dataset, tmp_path: Path) -> None:
    write_text(tmp_path / "plan.json", compressed.plan.to_json())
    write_tensors(tmp_path / "weights.safetensors", compressed.model.state_dict())
    model = load_compressed(
        build_network("digits_resnet", seed=9),
        torch.zeros(1, 1, 8, 8),
        load_plan(tmp_path / "plan.json"),
        read_tensors(tmp_path / "weights.safetensors"),
    )
    assert evaluate(model, digits.validation) == compressed.accuracy["finetuned"]
    assert torch.equal(predict(model, digits.test), predict(compressed.model, digits.test))


def test_weights_of_another_plan_are_refused_by_name(compressed: Compressed) -> None:
    dense = PruningPlan(network="digits_resnet")
    with pytest.raises(PruningError, match=r"conv1\.weight: the plan makes \(16, 1, 3, 3\), the file holds \(8,"):
        load_compressed(build_network("digits_resnet"), torch.zeros(1, 1, 8, 8), dense, compressed.model.state_dict())
    lacking = {name: t for name, t in compressed.model.state_dict().items() if name != "linear.bias"}
    with pytest.raises(PruningError, match=r"linear\.bias.*missing"):
        load_compressed(build_network("digits_resnet"), torch.zeros(1, 1, 8, 8), compressed.plan, lacking)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("read", [read_json, read_tensors])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"{"])
def test_files_that_cannot_be_read_are_named(read: object, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        read(path)  # type: ignore[operator]
