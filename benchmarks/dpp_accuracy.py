"""Accuracy of the ways to find masks at equal density, data and epochs; a table of runs that can be interrupted.

    python -m benchmarks.dpp_accuracy mnist --data data --out dpp_mnist.json --seeds 0 1 2
    python -m benchmarks.dpp_accuracy lenet5 --data data --out dpp_lenet5.json --seeds 0 1 2
    python -m benchmarks.dpp_accuracy cifar10 --data data --out dpp_cifar10.json
    python -m benchmarks.dpp_accuracy cifar10 --data data --out dpp_cifar10.json --refit --methods dpp magnitude
    python -m benchmarks.dpp_accuracy any_k --data data --out dpp_any_k.json
    python -m benchmarks.dpp_accuracy learned_k --data data --out dpp_learned_k.json
    python -m benchmarks.dpp_accuracy released --data data --out dpp_released.json

Every finished run is in the file at once; the same command goes on where it stopped, and a file of other settings is
refused. Test accuracy is that of the last epoch, never the best one. All training images are used (no validation).
MNIST: 3 dense epochs, then 5 with masks, against 8 dense ones. CIFAR-10: from trained weights of ResNet-20.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from accel_models import KofN, Workload, load_accelerator, simulate
from benchmarks.dpp_released import released
from benchmarks.dpp_tables import (
    Data,
    Setting,
    Tables,
    conv_plans,
    dense_run,
    judged,
    load,
    masked_run,
    row_plans,
    show,
    trained,
)
from cosim.extract import extract_workload
from cosim.networks import build_network
from cosim.networks.weights import load_weights
from cosim.pruning.any_k import AnyK, at_share
from cosim.pruning.dpp import attach_masks, freeze_masks
from cosim.pruning.dpp_schedules import MaskSchedule
from cosim.pruning.learned_k import BudgetedMasks
from cosim.pruning.mask_methods import DynamicProbabilistic, MaskMethod, build_method, method_names
from cosim.pruning.plan import MaskPlan
from cosim.pruning.refit import FIT_IMAGES
from cosim.training import evaluate, fit

DENSE = "dense"
Energy = Callable[[dict[str, int]], float]
"""layer -> k of the layers that count -> pJ"""


MNIST = Setting("mnist", 3, 5, 1.5e-3, "adam", 64, 0.0, augment=False, precision="float32")
LENET5 = replace(MNIST, precision="bfloat16")
"""Twice as fast as float32 where the processor multiplies bfloat16."""
CIFAR10 = Setting("cifar10", 0, 3, 0.02, "sgd", 128, 1e-4, augment=True, precision="bfloat16", distill=True)
"""Distilled from the given network, which saw five times the images at hand."""
ANY_K_EPOCHS = 7
"""Of the one training for all k: 1.4 times those of a training for one."""


def mnist(options: argparse.Namespace, network: str = "lenet_300_100", setting: Setting = MNIST) -> Tables:
    data, tables = load("mnist", options.data), Tables(options.out, setting)
    for seed in options.seeds:
        fresh = build_network(network, seed)
        total = setting.dense_epochs + setting.epochs
        tables.add(
            {"network": network, "method": DENSE, "target": 1.0, "seed": seed},
            dense_run(fresh, data, setting, total, seed),
        )
        warm = copy.deepcopy(fresh)
        if _missing(tables, options, seed):
            fit(warm, data.train, setting.recipe(setting.dense_epochs), seed=seed)
        for density, method in _grid(options):
            run = masked_run(warm, partial(build_method, method), row_plans(warm, density), data, setting, seed)
            tables.add({"network": network, "method": method, "target": density, "seed": seed}, run)
    return tables


def _grid(options: argparse.Namespace) -> Iterator[tuple[float, str]]:
    for density in options.densities:
        for method in options.methods:
            yield density, method


def _missing(tables: Tables, options: argparse.Namespace, seed: int) -> bool:
    done = {(row["target"], row["method"], row["seed"]) for row in tables.rows}
    return any((density, method, seed) not in done for density, method in _grid(options))


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
        images = data.train.batch(slice(0, FIT_IMAGES)) if options.refit else None
        for pattern, method in product(options.patterns, options.methods):
            make = _trained_out if method == "dpp" else partial(build_method, method)
            run = masked_run(model, make, conv_plans(model, pattern), data, CIFAR10, seed, images)
            label = f"{method}, refitted" if options.refit else method
            tables.add({"method": label, "target": pattern, "seed": seed}, run)
    return tables


def _trained_out() -> MaskMethod:
    """DPP for a network that is trained already."""
    return DynamicProbabilistic(MaskSchedule(straight_through=False, follow=False))


def any_k(options: argparse.Namespace) -> Tables:
    """One run for all densities against a run per density, LeNet-300-100."""
    data, tables, network = load("mnist", options.data), Tables(options.out, MNIST), "lenet_300_100"
    for seed in options.seeds:
        warm = build_network(network, seed)
        fit(warm, data.train, MNIST.recipe(MNIST.dense_epochs), seed=seed)
        for density in options.densities:
            run = masked_run(warm, DynamicProbabilistic, row_plans(warm, density), data, MNIST, seed)
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
    masks = trained(network, method, plans, data, MNIST, seed)
    k = {name: int(mask[0].sum()) for name, mask in masks.items()}
    return {**judged(network, data, MNIST), "k": k, "energy_uj": energy(k) * 1e-6}


_TABLES: dict[str, Callable[[argparse.Namespace], Tables]] = {
    "mnist": mnist,
    "lenet5": partial(mnist, network="lenet5", setting=LENET5),
    "cifar10": cifar10,
    "any_k": any_k,
    "learned_k": learned_k,
    "released": released,
}


def main() -> None:
    """Run what is missing of one table and show it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dpp_accuracy", description=__doc__)
    parser.add_argument("table", choices=tuple(_TABLES))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the unpacked data sets")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.05, 0.1, 0.25])
    parser.add_argument("--patterns", nargs="+", default=["2:4", "1:4", "kernel 1:2"])
    parser.add_argument("--refit", action="store_true", help="cifar10: from refitted weights (cosim.pruning.refit)")
    parser.add_argument("--methods", nargs="+", choices=method_names(), default=list(method_names()))
    parser.add_argument("--accelerators", nargs="+", default=["row_gather", "sparten"], help="of learned_k")
    options = parser.parse_args()
    torch.set_num_threads(1)
    show(_TABLES[options.table](options), Console(width=120))


if __name__ == "__main__":
    main()
