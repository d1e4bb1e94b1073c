"""`cosim prune` removes channels: budgets, shares, schedules, figures, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosim.files import read_tensors
from cosim.networks import build_network
from cosim.pruning.plan import PruningPlan
from tests.cosim.conftest import run_cli
from tests.cosim.pruned_run import DENSE_MACS, DENSE_PARAMETERS, PRUNE, pruned, train_dense


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained dense network."""
    return train_dense(tmp_path_factory)


def test_starting_from_weights_trains_no_dense_network(weights: Path, tmp_path: Path) -> None:
    results = pruned(tmp_path / "run", *PRUNE, "--from", weights, "--keep", "0.5")
    assert not (tmp_path / "run" / "dense.safetensors").exists()
    assert list(results["accuracy"]) == ["dense", "pruned", "recalibrated", "finetuned"]
    assert results["accuracy"]["dense"]["test"] > 0.8
    assert results["accuracy"]["pruned"]["test"] < results["accuracy"]["finetuned"]["test"]


@pytest.mark.parametrize("selection", ["worth", "global", "uniform", "local"])
def test_every_selection_meets_both_budgets(selection: str, weights: Path, tmp_path: Path) -> None:
    budgets = ("--macs-cut", "0.4", "--parameters-cut", "0.5", "--selection", selection, "--epochs", "0")
    results = pruned(tmp_path / "run", *PRUNE, "--from", weights, *budgets)
    over_limits = (
        results["pruned"]["macs"] / (0.6 * DENSE_MACS),
        results["pruned"]["parameters"] / (0.5 * DENSE_PARAMETERS),
    )
    assert 0.9 < max(over_limits) <= 1.0


def test_an_energy_budget_is_met_by_the_simulated_network(weights: Path, tmp_path: Path) -> None:
    budget = ("-a", "edge_os_16x16", "--energy-mj", "0.004", "--epochs", "0")
    results = pruned(tmp_path / "run", *PRUNE, "--from", weights, *budget)
    assert 0.0035e9 < results["pruned"]["energy_pj"] <= 0.004e9 < results["dense"]["energy_pj"]


def test_an_energy_budget_counts_the_bits(weights: Path, tmp_path: Path) -> None:
    """Where bits are fewer, more channels stay under the same budget."""
    budget = (*PRUNE, "--from", weights, "-a", "edge_os_16x16", "--energy-mj", "0.004", "--epochs", "0")
    eight = pruned(tmp_path / "eight", *budget)
    four = pruned(tmp_path / "four", *budget, "--weight-bits", "4", "--activation-bits", "4")
    assert 0.0035e9 < four["pruned"]["energy_pj"] <= 0.004e9
    assert four["pruned"]["macs"] > 1.1 * eight["pruned"]["macs"]


def test_a_latency_budget_is_met_by_the_simulated_network(weights: Path, tmp_path: Path) -> None:
    budget = ("-a", "edge_os_16x16", "--latency-ms", "0.02", "--epochs", "0")
    results = pruned(tmp_path / "run", *PRUNE, "--from", weights, *budget)
    assert 0.017 < results["pruned"]["latency_ms"] <= 0.02 < results["dense"]["latency_ms"]


def test_widths_are_multiples_and_what_is_excluded_stays_whole(weights: Path, tmp_path: Path) -> None:
    rules = ("--macs-cut", "0.3", "--multiple", "4", "--exclude", "streams", "--exclude", "stages.0.*")
    results = pruned(tmp_path / "run", *PRUNE, "--from", weights, *rules, "--epochs", "0")
    smaller = {name for name, layer in results["layers"].items() if layer["channels_kept"] < layer["channels"]}
    assert smaller == {"stages.1.conv1", "stages.2.conv1"}
    assert all(results["layers"][name]["channels_kept"] % 4 == 0 for name in smaller)


def test_scores_by_readers_choose_what_the_next_layer_takes(weights: Path, tmp_path: Path) -> None:
    state, kept = read_tensors(weights), {}
    for extra in ((), ("--by-readers",)):
        shown = ("--criterion", "l1", "--keep", "0.5", "--epochs", "0", *extra)
        pruned(tmp_path / f"run{len(extra)}", *PRUNE, "--from", weights, *shown)
        plan = PruningPlan.model_validate_json((tmp_path / f"run{len(extra)}" / "plan.json").read_text())
        filters = plan.layers["stages.2.conv1"].filters
        assert filters is not None
        kept[len(extra)] = filters.keep
    writes = state["stages.2.conv1.weight"].abs().flatten(1).sum(1)
    reads = state["stages.2.conv2.weight"].square().sum(dim=(0, 2, 3)).sqrt()
    for number, score in enumerate((writes, writes * reads)):
        assert kept[number] == tuple(sorted(score.topk(len(kept[number])).indices.tolist()))
    assert kept[0] != kept[1]


def test_measured_scores_spare_the_groups_that_bear_least(weights: Path, tmp_path: Path) -> None:
    """At equal cost the network stays more accurate than where scores have a mean of 1 in every layer."""
    found = {}
    for how in ("mean", "measured"):
        budget = ("--macs-cut", "0.6", "--criterion", "l1", "--epochs", "0", "--normalisation", how)
        found[how] = pruned(tmp_path / how / "run", *PRUNE, "--from", weights, *budget)
    assert found["measured"]["pruned"]["macs"] <= 0.4 * DENSE_MACS
    assert found["measured"]["layers"] != found["mean"]["layers"]
    recalibrated = {how: results["accuracy"]["recalibrated"]["test"] for how, results in found.items()}
    assert recalibrated["measured"] > recalibrated["mean"]


def test_a_recipe_keeps_shares_by_pattern(weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("keep: {'stages.1.*': 0.5, 'stages.2.conv1': 0.25}\nepochs: 0\n")
    results = pruned(tmp_path / "run", *PRUNE[:-2], "--recipe", file, "--from", weights)
    kept = {name: layer["channels_kept"] for name, layer in results["layers"].items()}
    assert (kept["conv1"], kept["stages.1.conv1"], kept["stages.1.conv2"], kept["stages.2.conv1"]) == (16, 16, 16, 16)


def test_all_images_train_and_validation_accuracy_is_left_out(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = run_cli(*PRUNE, "--from", weights, "--keep", "0.5", "--all-images", "--epochs", "0", "--out", out)
    results = json.loads((out / "results.json").read_text())
    assert set(results["accuracy"]["dense"]) == {"test"}
    assert "validation_accuracy" not in results["pruned"]
    assert "validation images are trained on too" in ended.out


# schedules


@pytest.mark.parametrize("schedule", [("--steps", "3"), ("--schedule", "layerwise")])
def test_steps_end_at_the_budget_and_give_a_plan_for_the_dense_network(
    schedule: tuple[str, str], weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    results = pruned(out, *PRUNE, "--from", weights, "--macs-cut", "0.5", "--min-share", "0.5", *schedule, "--distill")
    assert results["pruned"]["macs"] <= 0.5 * DENSE_MACS
    assert "step 1" in results["accuracy"]
    files = ("--plan", out / "plan.json", "--weights", out / "weights.safetensors", "--json", tmp_path / "again.json")
    assert run_cli(*PRUNE, *files).code == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["test_accuracy"] == results["pruned"]["test_accuracy"]


def test_every_step_is_smaller_than_the_one_before(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    results = pruned(out, *PRUNE, "--from", weights, "--parameters-cut", "0.6", "--steps", "3")
    sizes = [DENSE_PARAMETERS]
    for number in (1, 2):
        state = read_tensors(out / f"step-0{number}.safetensors")
        sizes.append(sum(t.numel() for name, t in state.items() if "running" not in name and "num_" not in name))
    sizes.append(results["pruned"]["parameters"])
    expected = [DENSE_PARAMETERS * (1 - 0.2 * step) for step in range(4)]
    assert sizes == pytest.approx(expected, rel=0.03)


def test_a_plan_that_names_its_filters_is_not_scored_anew(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pruned(out, *PRUNE, "--from", weights, "--keep", "0.5", "--epochs", "0")
    ended = run_cli(*PRUNE, "--from", weights, "--plan", out / "plan.json", "--steps", "2", "--out", tmp_path / "b")
    assert ended.code == 2
    assert "names the filters that stay" in ended.err


# figures


def test_batch_normalisation_is_recalibrated_on_images_as_in_training(weights: Path, tmp_path: Path) -> None:
    spread = {}
    for padding in ("0", "2"):
        options = ("--keep", "1", "--epochs", "0", "--crop-padding", padding)
        pruned(tmp_path / padding / "run", *PRUNE, "--from", weights, *options)
        spread[padding] = read_tensors(tmp_path / padding / "run" / "weights.safetensors")["bn1.running_var"]
    assert not spread["0"].allclose(spread["2"], rtol=0.05)


def test_figures_are_written_beside_the_results(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    results = pruned(out, *PRUNE, "--from", weights, "--keep", "0.5", "--epochs", "0", "--sensitivity")
    for name in ("accuracy", "kept", "sensitivity"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert set(results["sensitivity"]["conv1"]) == {"0.25", "0.5", "0.75"}
    assert results["sensitivity"]["conv1"]["0.25"] < results["accuracy"]["dense"]["validation"]


def test_layers_of_the_results_are_those_of_the_weights(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    layers = pruned(out, *PRUNE, "--from", weights, "--keep", "0.5", "--density", "0.5")["layers"]
    state, dense = read_tensors(out / "weights.safetensors"), build_network("digits_resnet").state_dict()
    for name, layer in layers.items():
        weight, before = state[f"{name}.weight"], dense[f"{name}.weight"]
        assert (layer["channels"], layer["weights"]) == (len(before), before.numel())
        assert (layer["channels_kept"], layer["weights_kept"]) == (len(weight), int(weight.count_nonzero()))
    assert PruningPlan.model_validate_json((out / "plan.json").read_text())["linear"].mask is not None
