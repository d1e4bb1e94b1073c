"""cosim prune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from torch import nn

from cosim.codesign.check import check_images
from cosim.commands.show import count, energy, percent, save, table
from cosim.compress import load_own_plan, read_compressed
from cosim.data import Dataset, load_dataset
from cosim.errors import ConfigError
from cosim.files import read_json, read_origin
from cosim.networks import build_network
from cosim.prune_run.checking import check_run, find_device, training_data
from cosim.prune_run.folder import RESULTS, open_folder
from cosim.prune_run.recipe import PruneRecipe
from cosim.prune_run.results import describe, write_network, write_results
from cosim.prune_run.running import Run, run_recipe
from cosim.prune_run.sensing import write_sensitivity
from cosim.training import evaluate

_COSTS = {
    "macs": "MACs",
    "parameters": "parameters",
    "nonzero_weights": "non-zero weights",
    "energy_pj": "energy",
    "latency_ms": "latency, ms",
}


@dataclass(frozen=True, kw_only=True)
class Places:
    """What `cosim prune` is told besides its recipe: where things are."""

    out: Path | None = None
    resume: bool = False
    weights: Path | None = None
    """Weights that belong to the plan: measure them."""
    data: Path | None = None
    download: bool = False
    json: Path | None = None


def run_prune_command(recipe: PruneRecipe, places: Places, console: Console) -> None:
    """Prune and recover a network, or measure one that was pruned before."""
    torch.set_num_threads(recipe.threads)
    data = load_dataset(recipe.dataset, recipe.seed, root=places.data, download=places.download)
    if places.weights is not None:
        _measure(recipe, places, data, console)
        return
    data = training_data(recipe, data)
    console.print(f"{recipe.network} on {data.summary}", markup=False, highlight=False, soft_wrap=True)
    device = find_device(recipe)
    base = check_run(recipe, data)
    recipe = recipe.model_copy(update={"device": device.type})
    folder = open_folder(places.out or Path("runs") / f"prune-{recipe.network}", recipe, resume=places.resume)
    if places.resume and (folder.path / RESULTS).exists():
        results = read_json(folder.path / RESULTS)
    else:
        with _Screen(console) as screen:
            run = Run(recipe, data, device, folder, screen.show)
            outcome = run_recipe(run, base)
            write_network(run, outcome)
            results = describe(run, outcome)
            if recipe.sensitivity:
                results["sensitivity"] = write_sensitivity(run, outcome.dense)
        write_results(run, results)
    _show(recipe, results, console)
    console.print(f"plan, weights, masks, figures: {folder.path}", markup=False, soft_wrap=True)
    save(places.json, results, console)


class _Screen:
    """A progress bar for each training, in epochs, and for what goes layer by layer."""

    def __init__(self, console: Console) -> None:
        self.bars = Bars(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Screen:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def show(self, name: str, done: int, total: int) -> None:
        if name not in self.tasks:
            unit = "layers" if name == "refit" else "epochs"
            self.tasks[name] = self.bars.add_task(name, total=total, unit=unit)
        self.bars.update(self.tasks[name], completed=done, total=total)


def _show(recipe: PruneRecipe, results: Mapping[str, Any], console: Console) -> None:
    """Accuracy by stage, then what the networks cost."""
    accuracy = results["accuracy"]
    splits = list(accuracy["dense"])
    rows = [[stage, *(percent(values[split]) for split in splits)] for stage, values in accuracy.items()]
    console.print(table("accuracy", ["", *splits], rows))
    dense, pruned = results["dense"], results["pruned"]
    names = [name for name in _COSTS if name in dense]
    rows = [
        [_COSTS[name], _shown(name, dense[name]), _shown(name, pruned[name]), _change(dense[name], pruned[name])]
        for name in names
    ]
    machine = f" on {recipe.accelerator}" if recipe.accelerator else ""
    console.print(table(f"cost{machine}", ["", "dense", "pruned", "change"], rows))


def _shown(name: str, value: float) -> str:
    if name == "energy_pj":
        return energy(value)
    return f"{value:.4g}" if name == "latency_ms" else count(value)


def _change(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %"


def _measure(recipe: PruneRecipe, places: Places, data: Dataset, console: Console) -> None:
    """Load pruned weights and report their accuracy."""
    if recipe.plan is None:
        raise ConfigError(f"--weights {places.weights} needs the --plan that it belongs to")
    assert places.weights is not None
    model = build_network(recipe.network, recipe.seed)
    example = check_images(model, recipe.network, data)
    plan = load_own_plan(recipe.plan, recipe.network)
    pruned = read_compressed(model, example, plan, recipe.plan, places.weights)
    _check_origin(recipe, places.weights)
    result = _judged(pruned, data, ("validation", "test"))
    shown = ", ".join(f"{name.replace('_', ' ')} {percent(value)}" for name, value in result.items())
    console.print(f"{places.weights}: {shown}", markup=False, soft_wrap=True)
    save(places.json, result, console)


def _judged(model: nn.Module, data: Dataset, splits: Sequence[str]) -> dict[str, float]:
    return {f"{name}_accuracy": evaluate(model, getattr(data, name)) for name in splits}


def _check_origin(recipe: PruneRecipe, path: Path) -> None:
    """Another split would count images that the network was trained on."""
    origin, given = read_origin(path), {"dataset": recipe.dataset, "seed": str(recipe.seed)}
    for name, value in given.items():
        if origin.get(name, value) != value:
            raise ConfigError(
                f"{path}: was trained with {name} {origin[name]}, not {value}; add --{name} {origin[name]} to measure "
                "them on images that they have not seen"
            )
