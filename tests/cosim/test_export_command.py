"""cosim export: what is written is the network asked for, and says how far it is from it."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cosim.commands.export import ExportRequest, run_export_command
from cosim.errors import ConfigError
from cosim.files import read_tensors, write_tensors
from cosim.networks import build_network, network_example
from cosim.pruning.apply import apply_plan, plan_of_groups, prunable_groups
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.plan import LayerPlan, MaskPlan, PruningPlan, load_plan

NAME = "digits_resnet"


def export(out: Path, kind: str, **options: Any) -> str:
    stream = io.StringIO()
    request = ExportRequest(**{"network": NAME, "format": kind, "out": out, **options})
    run_export_command(request, Console(file=stream, width=200))
    return stream.getvalue()


def difference(text: str) -> float:
    found = re.search(r"differ by (\S+) of the largest", text)
    assert found is not None
    return float(found[1])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A plan that halves every width, and weights that belong to it."""
    model, example = build_network(NAME, 3).eval(), network_example(NAME)
    groups = trace_channel_groups(model, example)
    plan = plan_of_groups(NAME, groups, {group.name: group.size // 2 for group in prunable_groups(groups)})
    (tmp_path / "plan.json").write_text(plan.to_json())
    write_tensors(tmp_path / "pruned.safetensors", apply_plan(model, example, plan).state_dict())
    return tmp_path / "plan.json", tmp_path / "pruned.safetensors"


def test_a_dense_network_is_written_with_the_weights_given(tmp_path: Path) -> None:
    weights = tmp_path / "dense.pt"
    torch.save(build_network(NAME, 5).state_dict(), weights)
    text = export(tmp_path / "out", "safetensors", weights=weights)
    assert difference(text) <= 1e-5
    assert "notice" not in text
    found = read_tensors(tmp_path / "out" / "weights.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in build_network(NAME, 5).state_dict().items())
    assert load_plan(tmp_path / "out" / "plan.json") == PruningPlan(network=NAME)


def test_a_pruned_network_becomes_a_program(files: tuple[Path, Path], tmp_path: Path) -> None:
    plan, weights = files
    text = export(tmp_path / "net.pt2", "program", plan=plan, weights=weights)
    assert difference(text) <= 1e-5
    assert "net.pt2" in text
    state = read_tensors(weights)
    program = torch.export.load(tmp_path / "net.pt2")
    assert all(torch.equal(state[name], tensor) for name, tensor in program.state_dict.items())


@pytest.mark.slow
def test_a_pruned_network_becomes_onnx(files: tuple[Path, Path], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    plan, weights = files
    text = export(tmp_path / "net.onnx", "onnx", plan=plan, weights=weights)
    assert difference(text) <= 1e-5
    shapes = {tuple(tensor.dims) for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert tuple(read_tensors(weights)["stages.1.conv1.weight"].shape) in shapes


def test_masks_of_a_plan_are_zeros_or_left_out(tmp_path: Path) -> None:
    masked = LayerPlan(mask=MaskPlan(granularity="weight", k=1, n=4))
    (tmp_path / "plan.json").write_text(PruningPlan(network=NAME, layers={"stages.0.conv1": masked}).to_json())
    zeros = {}
    for masks in ("fold", "drop"):
        text = export(tmp_path / masks, "safetensors", plan=tmp_path / "plan.json", masks=masks)
        assert "without --weights the weights are random" in text
        weight = read_tensors(tmp_path / masks / "weights.safetensors")["stages.0.conv1.weight"]
        zeros[masks] = int((weight == 0).sum()) / weight.numel()
    assert zeros["fold"] >= 0.75
    assert zeros["drop"] == 0.0


@pytest.mark.parametrize(
    ("kind", "out", "options", "message"),
    [
        ("onx", "x", {}, r"--format 'onx' is none of onnx, program, safetensors; did you mean 'onnx'"),
        ("onnx", "x.pt2", {}, r"x\.pt2: give a file that ends with \.onnx"),
        ("program", "x", {}, r"give a file that ends with \.pt2"),
        ("safetensors", "x.safetensors", {}, r"give a folder"),
        ("program", "x.pt2", {"masks": "keep"}, r"--masks 'keep' must be fold"),
        ("program", "x.pt2", {"network": "resnet"}, r"network 'resnet' is unknown"),
        ("program", "x.pt2", {"weights": Path("absent.pt")}, r"absent\.pt: cannot be read"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_anything_is_written(
    kind: str, out: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(tmp_path / out, kind, **options)
    assert not list(tmp_path.iterdir())


def test_plan_weights_and_network_that_do_not_belong_together_are_refused(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    plan, weights = files
    out = tmp_path / "net.pt2"
    with pytest.raises(ConfigError, match=r"plan\.json: network: the plan is for 'digits_resnet', not for 'lenet5'"):
        export(out, "program", network="lenet5", plan=plan)
    with pytest.raises(ConfigError, match=r"conv1\.weight has shape \[8, 1, 3, 3\], the network wants \[16, 1, 3, 3\]"):
        export(out, "program", weights=weights)
    write_tensors(tmp_path / "dense.safetensors", build_network(NAME).state_dict())
    with pytest.raises(ConfigError, match=r"dense\.safetensors: conv1\.weight: .* give the weights that belong to"):
        export(out, "program", plan=plan, weights=tmp_path / "dense.safetensors")
    assert not out.exists()


def test_masks_that_are_zeros_already_cannot_be_dropped(files: tuple[Path, Path], tmp_path: Path) -> None:
    masked = LayerPlan(mask=MaskPlan(granularity="weight", k=1, n=4))
    plan = tmp_path / "masked.json"
    plan.write_text(PruningPlan(network=NAME, layers={"stages.0.conv1": masked}).to_json())
    with pytest.raises(ConfigError, match=r"--masks drop: the masks of .*masked\.json are zeros in"):
        export(tmp_path / "net.pt2", "program", plan=plan, weights=files[1], masks="drop")
