"""Runs that compare ways to find masks: what one is, the file that they are kept in, and how they are shown."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from cosim.data import Split, load_dataset
from cosim.errors import ConfigError
from cosim.files import read_json, write_json
from cosim.pruning.mask_methods import MaskMethod
from cosim.pruning.plan import MaskPlan
from cosim.pruning.refit import refit
from cosim.training import FitOptions, Recipe, evaluate, fit, recalibrate_batchnorm


@dataclass(frozen=True)
class Setting:
    """One table."""

    dataset: str
    dense_epochs: int
    """Before the masks; 0 where trained weights are given."""
    epochs: int
    """With masks."""
    lr: float
    optimizer: str
    batch_size: int
    weight_decay: float
    augment: bool
    precision: str
    distill: bool = False
    """Learn from the outputs of the network before the masks too."""

    def options(self, teacher: nn.Module) -> FitOptions:
        return FitOptions(teacher=copy.deepcopy(teacher) if self.distill else None)

    def recipe(self, epochs: int) -> Recipe:
        return Recipe(
            epochs,
            self.batch_size,
            self.lr,
            optimizer=self.optimizer,  # type: ignore[arg-type]
            weight_decay=self.weight_decay,
            schedule="linear",
            precision=self.precision,  # type: ignore[arg-type]
            crop_padding=4 if self.augment else 0,
            flip=self.augment,
        )


@dataclass(frozen=True)
class Data:
    train: Split
    test: Split


def load(name: str, root: Path) -> Data:
    """All training images, and the test images."""
    found = load_dataset(name, root=root)
    return Data(found.train.joined(found.validation), found.test)


def row_plans(model: nn.Module, density: float) -> dict[str, MaskPlan]:
    """k of all n weights of each output, in every layer; the smallest k is 1."""
    plans = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            n = module.weight[0].numel()
            plans[name] = MaskPlan(granularity="weight", k=max(1, round(density * n)), n=n)
    return plans


def conv_plans(model: nn.Module, pattern: str) -> dict[str, MaskPlan]:
    """2:4, 1:4 or half of the kernels in every convolution but the first."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    plans = {}
    for name, layer in list(layers.items())[1:]:
        channels = layer.weight.shape[1]
        if pattern == "kernel 1:2":
            plans[name] = MaskPlan(granularity="kernel", k=channels // 2, n=channels)
        else:
            k, n = (int(part) for part in pattern.split(":"))
            plans[name] = MaskPlan(granularity="weight", k=k, n=n)
    return plans


Run = Callable[[], dict[str, Any]]


class Tables:
    """The runs of one file."""

    def __init__(self, path: Path, setting: Setting) -> None:
        self.path, self.settings = path, asdict(setting)
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            content = read_json(path)
            for name, value in self.settings.items():
                if content["settings"].get(name) != value:
                    raise ConfigError(
                        f"{path}: settings.{name} is {content['settings'].get(name)!r}, this run has {value!r}; "
                        "give another --out, or delete the file"
                    )
            self.rows = content["rows"]

    def add(self, key: dict[str, Any], run: Run) -> None:
        """Run unless the file has it."""
        if any(all(row.get(name) == value for name, value in key.items()) for row in self.rows):
            return
        start = time.process_time()
        self.rows.append({**key, **run(), "cpu_s": round(time.process_time() - start, 1)})
        write_json(self.path, {"settings": self.settings, "rows": self.rows})
        print(self.rows[-1], flush=True)


def masked_run(
    model: nn.Module,
    make: Callable[[], MaskMethod],
    plans: dict[str, MaskPlan],
    data: Data,
    setting: Setting,
    seed: int,
    images: torch.Tensor | None = None,
) -> Run:
    """Train a copy with the masks of a method; with images: from weights that are refitted to them."""

    def run() -> dict[str, Any]:
        network = copy.deepcopy(model)
        masks = trained(network, make(), plans, data, setting, seed, images)
        kept = sum(int(mask.sum()) for mask in masks.values())
        return {**judged(network, data, setting), "density": kept / sum(mask.numel() for mask in masks.values())}

    return run


def trained(
    network: nn.Module,
    method: MaskMethod,
    plans: dict[str, MaskPlan],
    data: Data,
    setting: Setting,
    seed: int,
    images: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Train with the masks of a method, in place, and bake them; with images: from refitted weights."""
    options = setting.options(network)
    if images is not None:
        refit(network, plans, images)
    method.attach(network, plans, seed=seed)
    on_step = lambda done: method.on_step(network, done)  # noqa: E731
    recipe = setting.recipe(setting.epochs)
    fit(network, data.train, recipe, seed=seed, penalty=method.penalty, on_step=on_step, options=options)
    return method.finish(network)


def judged(network: nn.Module, data: Data, setting: Setting) -> dict[str, Any]:
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        recalibrate_batchnorm(network, data.train, augmentation=setting.recipe(0).augmentation)
    return {"test_accuracy": evaluate(network, data.test)}


def dense_run(model: nn.Module, data: Data, setting: Setting, epochs: int, seed: int) -> Run:
    """Go on without masks."""

    def run() -> dict[str, Any]:
        network = copy.deepcopy(model)
        fit(network, data.train, setting.recipe(epochs), seed=seed, options=setting.options(model))
        return {**judged(network, data, setting), "density": 1.0}

    return run


def show(tables: Tables, console: Console) -> None:
    """Mean and spread over the seeds."""
    table = Table(title=f"{tables.path}: test accuracy, %")
    for name in ("network", "target", "method", "mean", "lowest", "highest", "seeds"):
        table.add_column(name)
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in tables.rows:
        found = row["test_accuracy"]
        for target, value in found.items() if isinstance(found, dict) else [(str(row["target"]), found)]:
            key = str(row.get("network", "resnet20_cifar")), target, row["method"]
            groups.setdefault(key, []).append(100 * value)
    for key, values in groups.items():
        mean = sum(values) / len(values)
        table.add_row(*key, f"{mean:.2f}", f"{min(values):.2f}", f"{max(values):.2f}", str(len(values)))
    console.print(table)
