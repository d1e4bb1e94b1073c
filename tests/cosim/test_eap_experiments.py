"""The experiments on energy-aware pruning run, on a small part of their budget."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import eap_accuracy, eap_energy, eap_variants
from cosim.data import load_synthetic
from cosim.networks import build_network
from cosim.pruning.apply import prunable_groups
from cosim.pruning.counting import macs_cost, parameters_cost
from cosim.pruning.coupling import trace_channel_groups
from cosim.training import evaluate

EXAMPLE = Path(__file__).parents[2] / "examples" / "toy_boundaries.py"


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_boundaries", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_toy_networks_learn_and_lose_half_of_their_units(toy: ModuleType) -> None:
    points, classes = toy.points_of("spirals", 0)
    dense = toy.train((16, 16), points, classes, 0)
    assert float((toy.decide(dense, points) == classes).double().mean()) > 0.9
    for criterion in toy.CRITERIA:
        pruned = toy.prune(dense, points, classes, criterion, 0)
        assert [layer.out_features for layer in pruned if isinstance(layer, torch.nn.Linear)] == [8, 8, 2]
        moved = toy.keep_means(dense, pruned, points)
        with torch.no_grad():
            torch.testing.assert_close(moved(points).mean(0), dense(points).mean(0), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def dense() -> eap_accuracy.Dense:
    data = load_synthetic(0, (3, 32, 32), 10, images=600)
    model = build_network("resnet20_cifar").eval()
    example = torch.zeros(1, 3, 32, 32)
    groups = tuple(trace_channel_groups(model, example))
    test = eap_accuracy._first(data.test, 60)
    costs = macs_cost(model, example, groups), parameters_cost(model, groups)
    return eap_accuracy.Dense(model, groups, eap_accuracy._first(data.train, 120), test, *costs, evaluate(model, test))


def case(**changes: object) -> eap_accuracy.Case:
    fields: dict = {
        "network": "resnet20_cifar", "criterion": "l1", "selection": "uniform", "variant": "per_image",
        "where": "after_activation", "normalisation": "mean", "stream": False, "epochs": 0, "lr": 0.01,
        "distill": False, "macs_cut": 0.4, "parameters_cut": 0.45, "images": 0, "seed": 0,
        "precision": "auto",
    }  # fmt: skip
    return eap_accuracy.Case(**fields | changes)


@pytest.mark.parametrize("selection", ["uniform", "global", "worth"])
def test_every_selection_meets_both_budgets_and_spares_the_stream(
    dense: eap_accuracy.Dense, selection: str, tmp_path: Path
) -> None:
    found = eap_accuracy.run_case(case(selection=selection), dense, tmp_path / "checkpoint")
    assert found["macs"] >= 0.40
    assert found["parameters"] >= 0.45
    assert min(found["macs"] - 0.40, found["parameters"] - 0.45) < 0.01  # one of them binds
    scores = eap_accuracy.score_case(case(), dense)
    widths = eap_accuracy.choose_widths(case(selection=selection), dense, scores)
    streams = [group for group in prunable_groups(dense.groups) if len(group.producers) > 1]
    assert streams
    assert all(widths.get(group.name, group.size) == group.size for group in streams)


def test_results_are_kept_and_not_measured_again(
    dense: eap_accuracy.Dense,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "results.json"
    arguments = ["eap", "resnet20_cifar", "--json", str(path), "--criteria", "l1", "--epochs", "1", "--distill", "1"]
    monkeypatch.setattr("sys.argv", [*arguments, "--seeds", "0"])
    monkeypatch.setattr(eap_accuracy, "load_dense", lambda *_: dense)
    eap_accuracy.main()
    results = json.loads(path.read_text())
    assert [set(eap_accuracy.STAGES) <= set(result["found"]) for result in results.values()] == [True]
    assert list(tmp_path.iterdir()) == [path]  # no checkpoint left

    def fail(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(eap_accuracy, "run_case", fail)
    eap_accuracy.main()
    assert "resnet20_cifar" in capsys.readouterr().out


def test_variants_are_judged_whole_and_one_layer_at_a_time(
    dense: eap_accuracy.Dense,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "variants.json"
    arguments = ["eap", "resnet20_cifar", "--json", str(path), "--variants", "nuclear norm, L1 in the last block"]
    monkeypatch.setattr(eap_variants, "load_dense", lambda *_: dense)
    for extra in ([], ["--layers"]):
        monkeypatch.setattr("sys.argv", [*arguments, *extra])
        eap_variants.main()
    whole, layers = (result["found"] for result in json.loads(path.read_text()).values())
    assert whole["macs"] >= 0.40
    assert len(layers) == 9  # one a block
    assert min(layers.values()) > 0
    assert "divergence, half of one layer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "changed"), [("block", {"layer3.2"}), ("stage", {"layer3.0", "layer3.1", "layer3.2"})]
)
def test_the_end_of_the_network_has_the_other_criterion(
    dense: eap_accuracy.Dense, part: str, changed: set[str]
) -> None:
    found = eap_variants.VARIANTS[f"nuclear norm, L1 in the last {part}"](case(), dense)
    nuclear, l1 = (eap_accuracy.score_case(case(criterion=name), dense) for name in ("nuclear_norm", "l1"))
    for block in ("layer2.2", "layer3.0", "layer3.1", "layer3.2"):
        expected = l1 if block in changed else nuclear
        assert torch.equal(found[f"{block}.conv1"], expected[f"{block}.conv1"])


def test_energy_is_compared_at_equal_energy(
    dense: eap_accuracy.Dense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "energy.json"
    arguments = ["eap", "resnet20_cifar", "--json", str(path), "--accelerators", "edge_ws_16x16", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", [*arguments, "--importance", "scores", "--criterion", "l1"])
    monkeypatch.setattr(eap_energy, "load_dense", lambda *_: dense)
    eap_energy.main()
    (result,) = json.loads(path.read_text()).values()
    by_macs, by_energy = result["found"]["MACs"], result["found"]["energy"]
    assert by_macs["macs"] <= 0.60
    assert by_energy["energy"] <= by_macs["energy"] < 1
    assert by_energy["widths"] != by_macs["widths"]
