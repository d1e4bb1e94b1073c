"""Accuracy of the ways to find masks at equal density, data and epochs; a table of runs that can be interrupted.

    python -m benchmarks.dpp_accuracy mnist --data data --out dpp_mnist.json --seeds 0 1 2
    python -m benchmarks.dpp_accuracy cifar10 --data data --out dpp_cifar10.json
    python -m benchmarks.dpp_accuracy any_k --data data --out dpp_any_k.json
    python -m benchmarks.dpp_accuracy learned_k --data data --out dpp_learned_k.json

Every finished run is in the file at once; the same command goes on where it stopped, and a file of other settings is
refused. Test accuracy is that of the last epoch, never the best one. All training images are used (no validation).
MNIST: 3 dense epochs, then 5 with masks, against 8 dense ones. CIFAR-10: from trained weights of ResNet-20.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from accel_models import KofN, Workload, load_accelerator, simulate
from cosim.data import Split, load_dataset
from cosim.errors import ConfigError
from cosim.extract import extract_workload
from cosim.files import read_json, write_json
from cosim.networks import build_network
from cosim.networks.weights import load_weights
from cosim.pruning.any_k import AnyK, at_share
from cosim.pruning.dpp import attach_masks, freeze_masks
from cosim.pruning.learned_k import BudgetedMasks
from cosim.pruning.mask_methods import DynamicProbabilistic, MaskMethod, build_method, method_names
from cosim.pruning.plan import MaskPlan
from cosim.training import Recipe, evaluate, fit, recalibrate_batchnorm

DENSE = "dense"


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


MNIST = Setting("mnist", 3, 5, 1.5e-3, "adam", 64, 0.0, augment=False, precision="float32")
CIFAR10 = Setting("cifar10", 0, 5, 0.02, "sgd", 128, 1e-4, augment=True, precision="bfloat16")


ANY_K_EPOCHS = 7
"""Of the one training for all k: 1.4 times those of a training for one."""


@dataclass(frozen=True)
class Data:
    train: Split
    test: Split


def load(name: str, root: Path) -> Data:
    """All training images, and the test images."""
    found = load_dataset(name, root=root)
    parts = found.train, found.validation
    images, labels = torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts])
    return Data(Split(images, labels, found.train.normalization), found.test)


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
Energy = Callable[[dict[str, int]], float]
"""layer -> k of the layers that count -> pJ"""


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


def masked_run(model: nn.Module, name: str, plans: dict[str, MaskPlan], data: Data, setting: Setting, seed: int) -> Run:
    """Train a copy with the masks of a method."""

    def run() -> dict[str, Any]:
        network = copy.deepcopy(model)
        masks = _trained(network, build_method(name), plans, data, setting, seed)
        kept = sum(int(mask.sum()) for mask in masks.values())
        return {**_judged(network, data), "density": kept / sum(mask.numel() for mask in masks.values())}

    return run


def _trained(
    network: nn.Module, method: MaskMethod, plans: dict[str, MaskPlan], data: Data, setting: Setting, seed: int
) -> dict[str, torch.Tensor]:
    """Train with the masks of a method, in place, and bake them."""
    method.attach(network, plans, seed=seed)
    on_step = lambda done: method.on_step(network, done)  # noqa: E731
    fit(network, data.train, setting.recipe(setting.epochs), seed=seed, penalty=method.penalty, on_step=on_step)
    return method.finish(network)


def _judged(network: nn.Module, data: Data) -> dict[str, Any]:
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        recalibrate_batchnorm(network, data.train)
    return {"test_accuracy": evaluate(network, data.test)}


def dense_run(model: nn.Module, data: Data, setting: Setting, epochs: int, seed: int) -> Run:
    """Go on without masks."""

    def run() -> dict[str, Any]:
        network = copy.deepcopy(model)
        fit(network, data.train, setting.recipe(epochs), seed=seed)
        return {**_judged(network, data), "density": 1.0}

    return run


def mnist(options: argparse.Namespace) -> Tables:
    data, tables = load("mnist", options.data), Tables(options.out, MNIST)
    for network in options.networks:
        for seed in options.seeds:
            fresh = build_network(network, seed)
            total = MNIST.dense_epochs + MNIST.epochs
            tables.add(
                {"network": network, "method": DENSE, "target": 1.0, "seed": seed},
                dense_run(fresh, data, MNIST, total, seed),
            )
            warm = copy.deepcopy(fresh)
            if _missing(tables, network, options, seed):
                fit(warm, data.train, MNIST.recipe(MNIST.dense_epochs), seed=seed)
            for density, method in _grid(options):
                run = masked_run(warm, method, row_plans(warm, density), data, MNIST, seed)
                tables.add({"network": network, "method": method, "target": density, "seed": seed}, run)
    return tables


def _grid(options: argparse.Namespace) -> Iterator[tuple[float, str]]:
    for density in options.densities:
        for method in options.methods:
            yield density, method


def _missing(tables: Tables, network: str, options: argparse.Namespace, seed: int) -> bool:
    done = {(row["network"], row["target"], row["method"], row["seed"]) for row in tables.rows}
    return any((network, density, method, seed) not in done for density, method in _grid(options))


def cifar10(options: argparse.Namespace) -> Tables:
    data, tables = load("cifar10", options.data), Tables(options.out, CIFAR10)
    model = load_weights(build_network("resnet20_cifar"), options.data / "weights" / "resnet20_cifar10.pt")
    tables.add(
        {"method": "given weights", "target": "dense", "seed": 0}, lambda: {"test_accuracy": evaluate(model, data.test)}
    )
    for seed in options.seeds:
        tables.add(
            {"method": DENSE, "target": "dense", "seed": seed}, dense_run(model, data, CIFAR10, CIFAR10.epochs, seed)
        )
        for pattern in options.patterns:
            for method in options.methods:
                run = masked_run(model, method, conv_plans(model, pattern), data, CIFAR10, seed)
                tables.add({"method": method, "target": pattern, "seed": seed}, run)
    return tables


def any_k(options: argparse.Namespace) -> Tables:
    """One run for all densities against a run per density, LeNet-300-100."""
    data, tables, network = load("mnist", options.data), Tables(options.out, MNIST), "lenet_300_100"
    for seed in options.seeds:
        warm = build_network(network, seed)
        fit(warm, data.train, MNIST.recipe(MNIST.dense_epochs), seed=seed)
        for density in options.densities:
            run = masked_run(warm, "dpp", row_plans(warm, density), data, MNIST, seed)
            tables.add({"network": network, "method": "dpp", "target": density, "seed": seed}, run)
        key = {"network": network, "method": "any_k", "target": options.densities, "seed": seed}
        tables.add(key, partial(_any_k_run, warm, options.densities, data, seed))
    return tables


def _any_k_run(warm: nn.Module, densities: list[float], data: Data, seed: int) -> dict[str, Any]:
    network = copy.deepcopy(warm)
    attach_masks(network, row_plans(network, max(densities)), seed=seed)
    method = AnyK(densities, seed=seed)
    on_step = lambda done: method.on_step(network, done)  # noqa: E731
    fit(network, data.train, MNIST.recipe(ANY_K_EPOCHS), seed=seed, on_step=on_step)
    found = {}
    for density in densities:
        single = copy.deepcopy(network)
        at_share(single, density)
        freeze_masks(single)
        found[str(density)] = evaluate(single, data.test)
    return {"test_accuracy": found}


def learned_k(options: argparse.Namespace) -> Tables:
    """k per layer learned under the energy that one share of all rows costs, against that share; LeNet-300-100."""
    data, tables, network = load("mnist", options.data), Tables(options.out, MNIST), "lenet_300_100"
    for seed in options.seeds:
        warm = build_network(network, seed)
        fit(warm, data.train, MNIST.recipe(MNIST.dense_epochs), seed=seed)
        for name, density in product(options.accelerators, options.densities):
            plans, energy = row_plans(warm, density), energy_of(warm, data, name)
            budget = energy({layer: plan.k for layer, plan in plans.items()})
            methods = {
                "uniform": DynamicProbabilistic(),
                "learned_k": BudgetedMasks(partial(_of_one, energy), budget),
            }
            for label, method in methods.items():
                key = {"network": f"{network} on {name}", "method": label, "target": density, "seed": seed}
                tables.add(key, partial(_priced_run, warm, method, plans, data, seed, energy))
    return tables


def _of_one(energy: Energy, layer: str, k: int) -> float:
    return energy({layer: k})


def energy_of(model: nn.Module, data: Data, accelerator: str) -> Energy:
    """layer -> k of those layers alone -> their energy on an accelerator of the library, pJ."""
    workload, units = extract_workload(model, data.test.batch(slice(0, 1)), "network"), row_plans(model, 1.0)
    layers, chip = {layer.name: layer for layer in workload.layers}, load_accelerator(accelerator)

    @cache
    def of_layer(name: str, k: int) -> float:
        structure = KofN(granularity="weight", k=k, n=units[name].n)
        alone = Workload(name=name, layers=(layers[name],))
        return simulate(chip, alone, {name: structure}).energy_pj

    return lambda ks: sum(of_layer(name, k) for name, k in ks.items())


def _priced_run(
    warm: nn.Module,
    method: MaskMethod,
    plans: dict[str, MaskPlan],
    data: Data,
    seed: int,
    energy: Energy,
) -> dict[str, Any]:
    network = copy.deepcopy(warm)
    masks = _trained(network, method, plans, data, MNIST, seed)
    k = {name: int(mask[0].sum()) for name, mask in masks.items()}
    return {**_judged(network, data), "k": k, "energy_uj": energy(k) * 1e-6}


def show(tables: Tables, console: Console) -> None:
    """Mean and spread over the seeds."""
    table = Table(title=f"{tables.path}: test accuracy, %")
    for name in ("network", "target", "method", "mean", "lowest", "highest", "seeds"):
        table.add_column(name)
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in tables.rows:
        if isinstance(row["test_accuracy"], float):
            key = str(row.get("network", "resnet20_cifar")), str(row["target"]), row["method"]
            groups.setdefault(key, []).append(100 * row["test_accuracy"])
    for key, values in groups.items():
        mean = sum(values) / len(values)
        table.add_row(*key, f"{mean:.2f}", f"{min(values):.2f}", f"{max(values):.2f}", str(len(values)))
    console.print(table)


_TABLES: dict[str, Callable[[argparse.Namespace], Tables]] = {
    "mnist": mnist,
    "cifar10": cifar10,
    "any_k": any_k,
    "learned_k": learned_k,
}


def main() -> None:
    """Run what is missing of one table and show it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dpp_accuracy", description=__doc__)
    parser.add_argument("table", choices=tuple(_TABLES))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the unpacked data sets")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--networks", nargs="+", default=["lenet_300_100", "lenet5"])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.05, 0.1, 0.25])
    parser.add_argument("--patterns", nargs="+", default=["2:4", "1:4", "kernel 1:2"])
    parser.add_argument("--methods", nargs="+", choices=method_names(), default=list(method_names()))
    parser.add_argument("--accelerators", nargs="+", default=["row_gather", "sparten"], help="of learned_k")
    options = parser.parse_args()
    torch.set_num_threads(1)
    show(_TABLES[options.table](options), Console(width=120))


if __name__ == "__main__":
    main()
