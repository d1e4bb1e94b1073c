"""The recipe of `cosim prune`: one set of names for options and files, refused by name where it cannot be used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cosim.commands import prune as command
from cosim.data import load_dataset, load_synthetic
from cosim.errors import ConfigError
from cosim.files import read_json
from cosim.networks import network_entry
from cosim.prune_run.checking import check_run
from cosim.prune_run.recipe import PruneRecipe, make_recipe, option
from tests.cosim.conftest import run_cli

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.yaml"))
PRUNE = ("prune", "-n", "digits_resnet", "-d", "digits")
ASKED = {"network": "digits_resnet", "dataset": "digits"}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_field_of_a_recipe_is_an_option_with_its_docstring() -> None:
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", run_cli("prune", "--help").out).split())
    for name, field in PruneRecipe.model_fields.items():
        assert f" {option(name)}" in shown, name
        assert field.description, name


def test_options_win_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "r.yaml", "network: digits_resnet\ndataset: digits\nkeep: 0.5\nepochs: 7\nfrom: a.pt\n")
    recipe = make_recipe({"epochs": 1}, file)
    assert (recipe.epochs, recipe.keep, recipe.from_) == (1, 0.5, Path("a.pt"))


def test_steps_mean_the_iterative_schedule() -> None:
    recipe = make_recipe({**ASKED, "keep": 0.5, "steps": 4})
    assert (recipe.schedule, recipe.rounds) == ("iterative", 4)
    assert make_recipe({**ASKED, "keep": 0.5}).rounds == 1


FILES: dict[str, tuple[str, str]] = {
    "unknown key": ("macs_cutt: 0.4", "r.yaml: macs_cutt: unknown key; did you mean 'macs_cut'?"),
    "value": ("keep: 1.5", "r.yaml: keep"),
    "text": ("keep: 0.5\nepochs: many", "r.yaml: epochs"),
    "list": ("- keep", "r.yaml: must hold keys and values"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_is_refused_by_its_key(case: str, tmp_path: Path) -> None:
    text, message = FILES[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_recipe(ASKED, write(tmp_path / "r.yaml", text))


TOGETHER: dict[str, tuple[dict[str, Any], str]] = {
    "nothing stays": ({}, "--plan FILE or --keep SHARE"),
    "keep and budget": ({"keep": 0.5, "macs_cut": 0.5}, "one of the first three"),
    "k > n": ({"k": 5, "n": 4}, "--k 5 is more than --n 4"),
    "k = 0": ({"k": 0, "n": 4}, "--k 0"),
    "k alone": ({"k": 2}, "--k and --n belong together"),
    "density and k": ({"k": 2, "n": 4, "density": 0.5}, "--density and --k"),
    "no density": ({"keep": 0.5, "granularity": "kernel"}, "--granularity kernel needs"),
    "method alone": ({"keep": 0.5, "method": "dpp"}, "--method dpp learns masks"),
    "method": ({"density": 0.5, "method": "magnitud"}, "did you mean 'magnitude'"),
    "filters twice": ({"keep": 0.5, "density": 0.5, "granularity": "filter"}, "--granularity filter"),
    "filters by magnitude": ({"density": 0.5, "granularity": "filter", "method": "magnitude"}, "for --method dpp"),
    "straight rigl": ({"density": 0.5, "straight_through": False, "method": "rigl"}, "--no-straight-through"),
    "refit nothing": ({"keep": 0.5, "refit": True}, "--refit is for masks"),
    "refit filters": ({"density": 0.5, "granularity": "filter", "refit": True}, "--refit is for masks"),
    "kernels by rigl": ({"density": 0.5, "granularity": "kernel", "method": "rigl"}, "--granularity weight"),
    "energy of nothing": ({"energy_mj": 1.0}, "--accelerator"),
    "steps in one": ({"keep": 0.5, "schedule": "layerwise", "steps": 3}, "--steps belongs to"),
    "cut all": ({"macs_cut": 1.0}, "--macs-cut 1.0"),
    "criterion": ({"keep": 0.5, "criterion": "l3"}, "--criterion 'l3' is none of"),
    "variant": ({"keep": 0.5, "variant": "per_pixel"}, "per_pixel"),
    "normalisation": ({"keep": 0.5, "normalisation": "median"}, "median"),
    "measured shares": ({"keep": 0.5, "normalisation": "measured"}, "--normalisation measured compares groups"),
    "measured alike": ({"macs_cut": 0.5, "selection": "uniform", "normalisation": "measured"}, "worth or global"),
    "selection": ({"macs_cut": 0.5, "selection": "best"}, "--selection 'best'"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_options_that_make_no_sense_are_refused(case: str) -> None:
    given, message = TOGETHER[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_recipe({**ASKED, **given})


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no network": (("prune", "-d", "digits", "--keep", "0.5"), "--network"),
    "tile": ((*PRUNE, "--k", "2", "--n", "16"), "conv1: mask.n = 16 is more than the fan-in 9; use n <= 9"),
    "kernel": ((*PRUNE, "--density", "0.5", "--granularity", "kernel"), "--exclude conv1"),
    "filters n": ((*PRUNE, "--k", "4", "--n", "16", "--granularity", "filter"), "--n 16 is not its 32 filters"),
    "energy": ((*PRUNE, "-a", "edge_os_16x16", "--energy-mj", "1e-6"), "least width it is 0.000"),
    "macs": ((*PRUNE, "--macs-cut", "0.99", "--min-share", "0.5"), "budget macs = 7635.2 cannot be met"),
    "excluded": ((*PRUNE, "--macs-cut", "0.5", "--exclude", "conv7"), "conv7"),
    "keep nothing": ((*PRUNE, "--keep", "0"), "--keep 0.0"),
    "from": ((*PRUNE, "--keep", "0.5", "--from", "no.pt"), "no.pt: cannot be read"),
    "bits": ((*PRUNE, "--keep", "0.5", "-a", "edge_os_16x16", "--weight-bits", "16"), "16 bits"),
    "unknown option": ((*PRUNE, "--kep", "0.5"), "--kep"),
    "recipe missing": (("prune", "--recipe", "no.yaml"), "no.yaml: cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_before_anything_is_trained(case: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[case]
    ended = run_cli(*arguments)
    assert ended.code == 2, ended.err
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_cuda_device_that_is_not_there_is_refused(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    ended = run_cli(*PRUNE, "--keep", "0.5", "--device", "cuda")
    assert ended.code == 2
    assert "use --device cpu" in ended.err


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_shipped_recipe_names_its_network_and_a_size_that_the_network_can_have(file: Path) -> None:
    recipe = make_recipe({"dataset": "synthetic"}, file)
    assert recipe.network == file.stem
    assert network_entry(recipe.network).dataset == "cifar10"
    check_run(recipe, load_dataset("synthetic"))


def test_there_is_a_recipe_for_every_network_of_the_paper() -> None:
    names = {"resnet56_cifar", "resnet110_cifar", "vgg16_cifar", "densenet40_cifar", "googlenet_cifar"}
    assert {file.stem for file in RECIPES} == names


def test_a_shipped_recipe_prunes_another_network_with_options_that_win(tmp_path: Path) -> None:
    file = next(file for file in RECIPES if file.stem == "resnet56_cifar")
    ended = run_cli(*PRUNE, "--recipe", file, "--dense-epochs", "1", "--epochs", "1", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    results = read_json(tmp_path / "run" / "results.json")
    assert results["pruned"]["macs"] <= (1 - 0.404) * results["dense"]["macs"]
    assert results["pruned"]["parameters"] <= (1 - 0.459) * results["dense"]["parameters"]
    assert results["layers"]["conv1"]["channels_kept"] == results["layers"]["conv1"]["channels"]  # a stream


@pytest.mark.slow
@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_shipped_recipe_runs_to_its_end_on_a_reduced_budget(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch of 32 images each."""
    monkeypatch.setattr(command, "load_dataset", lambda name, seed, **place: load_synthetic(seed, images=64))
    short = ("--dense-epochs", "1", "--epochs", "1", "--out", tmp_path / "run")
    ended = run_cli("prune", "--recipe", file, *short)
    assert ended.code == 0, ended.err
    results, recipe = read_json(tmp_path / "run" / "results.json"), make_recipe({}, file)
    assert results["pruned"]["macs"] <= (1 - (recipe.macs_cut or 0)) * results["dense"]["macs"]
    assert results["pruned"]["parameters"] <= (1 - (recipe.parameters_cut or 0)) * results["dense"]["parameters"]
