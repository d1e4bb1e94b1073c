"""Exported networks: written whole or not at all, loaded back, and the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cosim.export as export
from cosim.errors import ConfigError, PruningError
from cosim.export import Exported, export_onnx, export_program, export_weights, load_exported, plain_network
from cosim.networks import build_network
from cosim.networks.registry import network_example
from cosim.pruning.apply import apply_plan, attach_plan, plan_of_groups, prunable_groups
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.plan import LayerPlan, MaskPlan, PruningPlan

NETWORKS = ["digits_resnet", "gpt_small"]
Writer = Callable[[nn.Module, Tensor, Path], Exported]


def pruned(name: str) -> tuple[nn.Module, Tensor, PruningPlan]:
    model, example = build_network(name).eval(), network_example(name)
    groups = trace_channel_groups(model, example)
    plan = plan_of_groups(name, groups, {g.name: max(1, g.size // 2) for g in prunable_groups(groups)})
    return apply_plan(model, example, plan), example, plan


def onnx(model: nn.Module, example: Tensor, path: Path, **options: Any) -> Exported:
    pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    return export_onnx(model, example, path, **options)


@pytest.mark.parametrize("write", [export_program, onnx])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_loaded_back_gives_the_same_outputs(name: str, write: Writer, tmp_path: Path) -> None:
    model, example, _ = pruned(name)
    written = write(model, example, tmp_path / "deep" / "network")
    assert written.difference <= 1e-5
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["network"]


@pytest.mark.parametrize("name", ["digits_resnet", "resnet20_cifar", "gpt_small"])
def test_weights_and_plan_rebuild_the_network(name: str, tmp_path: Path) -> None:
    model, example, plan = pruned(name)
    assert export_weights(model, example, tmp_path, plan, build_network(name, 7)).difference <= 1e-5
    rebuilt = load_exported(tmp_path, build_network(name, 8), example)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in rebuilt.state_dict().items())


def masked() -> tuple[nn.Module, Tensor]:
    model, example = build_network("digits_resnet").eval(), network_example("digits_resnet")
    layer = LayerPlan(mask=MaskPlan(granularity="weight", k=1, n=4), weight_bits=8)
    attach_plan(model, PruningPlan(network="digits_resnet", layers={"stages.0.conv1": layer}), seed=0)
    return model.eval(), example


def test_masks_are_folded_into_the_weights_or_left_out() -> None:
    model, example = masked()
    folded, dense = plain_network(model), plain_network(model, masks="drop")
    assert torch.equal(folded(example + 1), model(example + 1))
    weight = folded.get_submodule("stages.0.conv1").weight
    assert int((weight == 0).sum()) >= weight.numel() * 3 // 4
    original = build_network("digits_resnet").state_dict()
    assert all(torch.equal(original[key], value) for key, value in dense.state_dict().items())


@pytest.mark.parametrize("write", [export_program, onnx])
def test_a_masked_network_is_exported_with_its_zeros(write: Writer, tmp_path: Path) -> None:
    model, example = masked()
    assert write(model, example, tmp_path / "network").difference <= 1e-5
    assert model(example).shape == (1, 10)  # a copy was frozen
    assert "stages.0.conv1.parametrizations.weight.original" in model.state_dict()


def test_a_file_that_gives_other_outputs_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, example, _ = pruned("digits_resnet")
    (tmp_path / "old.pt2").write_text("before")
    real = torch.export.load
    monkeypatch.setattr(export.torch.export, "load", lambda file: _Shifted(real(file)))
    with pytest.raises(PruningError, match=r"old\.pt2: the network loaded back .* nothing was written"):
        export_program(model, example, tmp_path / "old.pt2")
    assert (tmp_path / "old.pt2").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


class _Shifted:
    def __init__(self, program: Any) -> None:
        self.program = program

    def module(self) -> Callable[..., Tensor]:
        inner = self.program.module()
        return lambda *inputs: inner(*inputs) + 0.1


def test_weights_of_another_plan_are_refused(tmp_path: Path) -> None:
    model, example, plan = pruned("digits_resnet")
    export_weights(model, example, tmp_path, plan, build_network("digits_resnet"))
    (tmp_path / "plan.json").write_text(PruningPlan(network="digits_resnet").to_json())
    with pytest.raises(PruningError, match=r"weights\.safetensors: conv1\.weight: the plan makes .* the file holds"):
        load_exported(tmp_path, build_network("digits_resnet"), example)


def test_onnx_without_its_packages_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'cosim\[onnx\]'"):
        export_onnx(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "x.onnx")
