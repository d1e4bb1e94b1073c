"""`cosim prune` with masks: every method, what the simulator and an export make of them, learned filters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from accel_models.sparsity import KofN
from cosim.commands.simulate import load_any_workload
from cosim.files import read_tensors
from cosim.pruning.dpp_layout import check_mask, magnitude_mask
from cosim.pruning.mask_methods import build_method, method_names
from cosim.pruning.plan import MaskPlan, PruningPlan, load_plan
from tests.cosim.conftest import run_cli
from tests.cosim.pruned_run import DENSE_MACS, DENSE_PARAMETERS, LENET, PRUNE, pruned, train_dense


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained dense network."""
    return train_dense(tmp_path_factory)


@pytest.mark.parametrize("method", method_names())
def test_masks_of_every_method_have_the_density_and_weights_obey_them(method: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    results = pruned(out, *LENET, "--method", method, "--dense-epochs", "1", "--weight-bits", "4")
    masks, plan = read_tensors(out / "masks.safetensors"), load_plan(out / "plan.json")
    state = read_tensors(out / "weights.safetensors")
    exact = build_method(method).exact_rows
    assert set(masks) == {"fc1", "fc2", "fc3"}
    for name, mask in masks.items():
        assert float(mask.float().mean()) == pytest.approx(0.1, abs=0.001)
        assert not state[f"{name}.weight"][~mask].any()
        assert state[f"{name}.weight"].unique().numel() <= 15
        assert (plan[name].mask is not None) == exact
        if plan[name].mask is not None:
            check_mask(mask, plan[name].mask, name)
    assert results["pruned"]["nonzero_weights"] <= sum(int(mask.sum()) for mask in masks.values())


def test_masks_go_on_to_the_simulator_and_into_an_export(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiles = ("--k", "2", "--n", "4", "--exclude", "conv1", "-a", "nm_systolic")
    results = pruned(out, *PRUNE, "--from", weights, *tiles)
    assert results["pruned"]["energy_pj"] < 0.8 * results["dense"]["energy_pj"]
    structures = load_any_workload("digits_resnet", out / "plan.json")[1]
    assert structures["linear"] == KofN(granularity="weight", k=2, n=4)
    assert "conv1" not in structures
    simulate = ("simulate", "-a", "nm_systolic", "-w", "digits_resnet")
    assert run_cli(*simulate, "--plan", out / "plan.json", "--json", tmp_path / "s.json").code == 0
    total = json.loads((tmp_path / "s.json").read_text())["total"]
    assert total["energy_pj"] == pytest.approx(results["pruned"]["energy_pj"])
    assert run_cli(*simulate, "--masks", out / "masks.safetensors").code == 0
    files = ("--plan", out / "plan.json", "--weights", out / "weights.safetensors")
    exported = run_cli("export", "-n", "digits_resnet", *files, "--format", "safetensors", "--out", tmp_path / "ex")
    assert exported.code == 0, exported.err


def test_a_plan_with_masks_is_learned_by_the_method_asked_for(weights: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    pruned(first, *PRUNE, "--from", weights, "--keep", "0.5", "--density", "0.25", "--epochs", "0")
    again = pruned(
        tmp_path / "again", *PRUNE, "--from", weights, "--plan", first / "plan.json", "--method", "magnitude"
    )
    masks = [read_tensors(out / "masks.safetensors") for out in (first, tmp_path / "again")]
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())  # DPP starts from magnitudes
    assert again["pruned"]["macs"] < 0.3 * DENSE_MACS


def test_weights_out_of_a_mask_stay_as_they_are_if_asked_to(weights: Path, tmp_path: Path) -> None:
    """Where weights out of a mask do not learn, fewer of them come back."""
    found = []
    for number, extra in enumerate(((), ("--no-straight-through",))):
        out = tmp_path / str(number) / "run"
        pruned(out, *PRUNE, "--from", weights, "--k", "2", "--n", "4", "--exclude", "conv1", *extra)
        found.append(read_tensors(out / "masks.safetensors"))
    exchanged = [_exchanged(weights, masks) for masks in found]
    assert 0 < exchanged[1] < exchanged[0]


def test_refitted_weights_keep_more_of_the_network(weights: Path, tmp_path: Path) -> None:
    """Recalibrated, before any training, a quarter of the kernels: by far more accurate than the largest ones."""
    asked = (*PRUNE, "--from", weights, "--density", "0.25", "--granularity", "kernel", "--exclude", "conv1")
    plain, fitted = (
        pruned(tmp_path / extra[-1], *asked, "--method", "magnitude", "--epochs", "0", *extra[:-1])
        for extra in (("plain",), ("--refit", "fitted"))
    )
    accuracy = [results["accuracy"]["recalibrated"]["test"] for results in (plain, fitted)]
    assert accuracy[1] > accuracy[0] + 0.05
    bare = tmp_path / "plan.json"
    bare.write_text(PruningPlan(network="digits_resnet").model_dump_json())
    refused = run_cli(*PRUNE, "--from", weights, "--plan", bare, "--refit", "--out", tmp_path / "refused")
    assert refused.code == 2
    assert "no layer has a mask" in refused.err


def _exchanged(weights: Path, masks: dict[str, torch.Tensor]) -> int:
    """Weights that a mask keeps and the magnitudes of the start do not."""
    plan, state = MaskPlan(granularity="weight", k=2, n=4), read_tensors(weights)
    return sum(int((mask & ~magnitude_mask(state[f"{name}.weight"], plan)).sum()) for name, mask in masks.items())


def test_learned_filters_are_removed_from_all_layers_that_share_them(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    bits = ("--weight-bits", "4", "--activation-bits", "8")
    results = pruned(out, *PRUNE, "--from", weights, "--density", "0.5", "--granularity", "filter", *bits)
    assert results["pruned"]["parameters"] < 0.3 * DENSE_PARAMETERS
    plan = load_plan(out / "plan.json")
    assert plan["conv1"].filters == plan["stages.0.conv2"].filters
    assert plan["conv1"].filters is not None
    assert plan["conv1"].filters.keep is not None
    files = ("--plan", out / "plan.json", "--weights", out / "weights.safetensors", "--json", tmp_path / "again.json")
    assert run_cli(*PRUNE, *files).code == 0
    assert json.loads((tmp_path / "again.json").read_text())["test_accuracy"] == results["pruned"]["test_accuracy"]
