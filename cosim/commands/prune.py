"""cosim prune."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress as Bars
from torch import nn

from accel_models.accelerator import load_accelerator
from accel_models.cost import NetworkCost
from accel_models.workload import Workload
from cosim.codesign.check import check_images
from cosim.codesign.design import Design
from cosim.codesign.evaluator import one_thread, price_plan
from cosim.commands.show import count, energy, percent, save, table
from cosim.compress import Compressed, Recovery, Trained, compress, load_compressed, prepare
from cosim.data import Dataset, load_dataset
from cosim.errors import ConfigError, PruningError
from cosim.extract import extract_workload
from cosim.files import read_origin, read_tensors, write_tensors, write_text
from cosim.networks import build_network
from cosim.pruning.apply import attach_plan, plan_of_groups, prunable_groups, remove_filters
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.criteria import criterion_names
from cosim.pruning.plan import PruningPlan, load_plan
from cosim.training import Recipe, evaluate, fit


@dataclass(frozen=True)
class PruneRequest:
    """The options of `cosim prune`."""

    network: str
    dataset: str
    plan: Path | None
    keep: float | None
    criterion: str
    epochs: int
    dense_epochs: int
    lr: float
    seed: int
    weights: Path | None
    accelerator: str | None
    out: Path | None
    data_root: Path | None = None
    download: bool = False


def run_prune_command(request: PruneRequest, json_path: Path | None, console: Console) -> None:
    """Prune and recover a network, or measure one that was pruned before."""
    _check(request)
    one_thread()
    data = load_dataset(request.dataset, request.seed, root=request.data_root, download=request.download)
    model = build_network(request.network, request.seed)
    _check_fit(request, model, data)
    if request.weights is not None:
        _measure(request, model, data, json_path, console)
    else:
        _prune(request, model, data, json_path, console)


def _check(request: PruneRequest) -> None:
    if (request.plan is None) == (request.keep is None):
        raise ConfigError("give either --plan FILE or --keep SHARE: one says what stays")
    if request.keep is not None and not 0 < request.keep <= 1:
        raise ConfigError(f"--keep {request.keep}: must be in (0, 1], the share of filters that stay")
    if request.weights is not None and request.plan is None:
        raise ConfigError(f"--weights {request.weights} needs the --plan that it belongs to")
    if not (request.lr > 0 and math.isfinite(request.lr)):
        raise ConfigError(f"--lr {request.lr}: must be a number above 0")
    if request.accelerator is not None:
        load_accelerator(request.accelerator)
    if request.criterion not in criterion_names():
        raise ConfigError(f"--criterion {request.criterion!r} is none of {', '.join(criterion_names())}")


def _check_fit(request: PruneRequest, model: nn.Module, data: Dataset) -> None:
    """Refuse, before anything is trained, data that the network does not take and a plan that it cannot have."""
    example = check_images(model, request.network, data)
    if request.plan is not None:
        plan = _load_plan(request, request.plan)
        try:
            pruned = remove_filters(model, example, plan, trace_channel_groups(model, example), verify=False)
            attach_plan(pruned, plan, seed=request.seed)
        except PruningError as error:
            raise ConfigError(f"{request.plan}: {error}") from error


def _measure(request: PruneRequest, model: nn.Module, data: Dataset, json_path: Path | None, console: Console) -> None:
    """Load pruned weights and report their accuracy."""
    assert request.plan is not None
    assert request.weights is not None
    plan = _load_plan(request, request.plan)
    state = read_tensors(request.weights)
    _check_origin(request, request.weights)
    try:
        pruned = load_compressed(model, torch.zeros(1, *data.input_shape), plan, state)
    except PruningError as error:
        raise ConfigError(f"{request.weights}: {error}; give the weights that belong to {request.plan}") from error
    result = {"validation_accuracy": evaluate(pruned, data.validation), "test_accuracy": evaluate(pruned, data.test)}
    shown = ", ".join(f"{name.replace('_', ' ')} {percent(value)}" for name, value in result.items())
    console.print(f"{request.weights}: {shown}", markup=False, soft_wrap=True)
    save(json_path, result, console)


def _check_origin(request: PruneRequest, path: Path) -> None:
    """Another split would count images that the network was trained on."""
    origin, given = read_origin(path), {"dataset": request.dataset, "seed": str(request.seed)}
    for name, value in given.items():
        if origin.get(name, value) != value:
            raise ConfigError(
                f"{path}: was trained with {name} {origin[name]}, not {value}; add --{name} {origin[name]} to measure "
                "them on images that they have not seen"
            )


def _load_plan(request: PruneRequest, path: Path) -> PruningPlan:
    plan = load_plan(path)
    if plan.network != request.network:
        raise ConfigError(f"{path}: network: the plan is for {plan.network!r}, not for {request.network!r}")
    return plan


def _prune(request: PruneRequest, model: nn.Module, data: Dataset, json_path: Path | None, console: Console) -> None:
    with Bars(console=console) as bars:
        step = bars.add_task("train the dense network", total=3)
        dense = Recipe(request.dense_epochs, lr=0.003, optimizer="adam", weight_decay=1e-2, schedule="warmup_cosine")
        fit(model, data.train, dense, seed=request.seed)
        bars.update(step, advance=1, description="score filters")
        trained = prepare(model.eval(), data, request.criterion, seed=request.seed)
        plan = _load_plan(request, request.plan) if request.plan else keep_plan(request.network, trained, request.keep)
        bars.update(step, advance=1, description="prune and fine-tune")
        recipe = Recipe(epochs=request.epochs, lr=request.lr)
        compressed = compress(trained, data, plan, Recovery(recipe), seed=request.seed, stages=True)
        bars.update(step, advance=1, description="done")
    _report(request, trained, compressed, data, json_path, console)


def keep_plan(network: str, trained: Trained, keep: float | None) -> PruningPlan:
    """The same share of filters in every group that can lose some."""
    kept = {group.name: max(1, round((keep or 1.0) * group.size)) for group in prunable_groups(trained.groups)}
    return plan_of_groups(network, trained.groups, kept)


def _report(
    request: PruneRequest,
    trained: Trained,
    compressed: Compressed,
    data: Dataset,
    json_path: Path | None,
    console: Console,
) -> None:
    """Accuracy, size and, if an accelerator was named, energy and latency: dense against pruned."""
    columns = {
        "dense": _row(
            trained.model, trained.example, None, request, {"finetuned": evaluate(trained.model, data.validation)}
        ),
        "pruned": _row(compressed.model, trained.example, compressed.plan, request, dict(compressed.accuracy)),
    }
    for name, model in (("dense", trained.model), ("pruned", compressed.model)):
        columns[name]["test_accuracy"] = evaluate(model, data.test)
        if request.accelerator is not None:
            plan = compressed.plan if name == "pruned" else PruningPlan(network=request.network)
            cost = _cost(request.accelerator, plan, trained)
            columns[name] |= {"energy_pj": cost.energy_pj, "latency_ms": cost.latency_ms}
    names = list(dict.fromkeys(key for column in columns.values() for key in column))
    rows = [[name, *(_shown(name, columns[side].get(name)) for side in columns)] for name in names]
    console.print(table(f"{request.network} on {request.dataset}", ["", *columns], rows))
    out = request.out or Path("runs") / f"prune-{request.network}"
    write_text(out / "plan.json", compressed.plan.to_json())
    origin = {"network": request.network, "dataset": request.dataset, "seed": str(request.seed)}
    write_tensors(out / "weights.safetensors", compressed.model.state_dict(), origin)
    write_tensors(out / "masks.safetensors", compressed.masks)
    console.print(f"plan, weights and masks: {out}", markup=False, soft_wrap=True)
    save(json_path, columns, console)


def _row(
    model: nn.Module, example: torch.Tensor, plan: PruningPlan | None, request: PruneRequest, accuracy: dict[str, float]
) -> dict[str, Any]:
    workload: Workload = extract_workload(model, example, request.network, plan)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    named = {f"validation_{step}": value for step, value in accuracy.items()}
    return {**named, "macs": workload.macs, "parameters": parameters}


def _cost(accelerator: str, plan: PruningPlan, trained: Trained) -> NetworkCost:
    return price_plan(Design(load_accelerator(accelerator), plan), trained.model, trained.example, trained.groups)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in ("macs", "parameters"):
        return count(value)
    if name == "energy_pj":
        return energy(value)
    return f"{value:.4g}" if name == "latency_ms" else percent(value)
