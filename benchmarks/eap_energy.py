"""Energy budgets against budgets of multiplications, at equal predicted energy on an accelerator.

    COSIM_DATA=data python -m benchmarks.eap_energy resnet20_cifar --json energy.json
    python -m benchmarks.eap_energy --json energy.json          # the table of what is there

One plan loses a share of the multiplications; its predicted energy is the budget of the other. Both minimise the same
loss (`worth_widths`): the sum of the removed scores, or what the groups were measured to lose (`calibrated_scores`).
Accuracies of all 10,000 test images, after batch normalisation is recalibrated on training images.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from accel_models.accelerator import load_accelerator
from benchmarks.eap_accuracy import (
    AUGMENTATION,
    SCORE_BATCH,
    SCORE_IMAGES,
    Dense,
    damage_scores,
    load_dense,
    read_results,
)
from cosim.codesign.width_cost import hardware_cost
from cosim.files import write_json
from cosim.prune_run.measuring import KEEP, drawn
from cosim.pruning.apply import prunable_groups, remove_filters
from cosim.pruning.counting import Cost, Widths
from cosim.pruning.criteria import ScoreOptions, criterion_names, score_layers
from cosim.pruning.criteria.combining import Normalisation
from cosim.pruning.selection import Budget, WidthRules, select_plan, worth_widths
from cosim.training import evaluate, recalibrate_batchnorm

ACCELERATORS = ("tpu_like_256x256", "tpu_like_128x128", "gemmini_16x16", "eyeriss_v2")
"""Where the plan by energy is predicted to lose at least 5 % less on ResNet-20; elsewhere energy follows MACs."""
RECALIBRATED = 2048
"""Training images that recalibrate a plan's network."""
LEAST = KEEP[0]
"""Share of a group that stays at least."""
Scores = Mapping[str, Tensor]


def criterion_scores(dense: Dense, criterion: str, seed: int) -> dict[str, Tensor]:
    images = drawn(dense.train, SCORE_IMAGES, seed)
    parts = torch.arange(len(images)).split(SCORE_BATCH)
    layers = [layer for group in prunable_groups(dense.groups) for layer in group.producers]
    batches = ((images.batch(part), images.labels[part]) for part in parts)
    return score_layers(dense.model, batches, layers, criterion, options=ScoreOptions(seed=seed))


class Plans:
    """Widths for budgets, and accuracies of the networks, for one importance; a plan is judged once."""

    def __init__(self, network: str, dense: Dense, scores: Scores, how: Normalisation, seed: int) -> None:
        self.network, self.dense, self.scores, self.how, self.seed = network, dense, scores, how, seed
        streams = tuple(g.name for g in prunable_groups(dense.groups) if len(g.producers) > 1)
        self.rules = WidthRules(min_share=LEAST, exclude=streams)
        self.known: dict[tuple[int, ...], float] = {}

    def widths(self, name: str, limit: float, cost: Cost) -> dict[str, int]:
        return worth_widths(self.dense.groups, self.scores, [Budget(name, limit, cost)], self.rules, self.how)

    def accuracy(self, widths: Widths) -> float:
        key = tuple(widths.values())
        if key not in self.known:
            plan = select_plan(self.network, self.dense.groups, self.scores, widths, self.how)
            example = torch.zeros(1, *self.dense.test.images.shape[1:])
            model = remove_filters(self.dense.model, example, plan, self.dense.groups)
            recalibrate_batchnorm(model, drawn(self.dense.train, RECALIBRATED, self.seed), augmentation=AUGMENTATION)
            self.known[key] = evaluate(model, self.dense.test)
        return self.known[key]


def compare(plans: Plans, macs_cut: float, energy: Cost) -> dict[str, dict[str, Any]]:
    """Budget -> share of multiplications and energy that stays, accuracy and widths."""
    dense = plans.dense
    by_macs = plans.widths("MACs", (1 - macs_cut) * dense.macs({}), dense.macs)
    by_energy = plans.widths("energy_pj", energy(by_macs), energy)
    return {
        budget: {
            "macs": dense.macs(widths) / dense.macs({}),
            "energy": energy(widths) / energy({}),
            "recalibrated": plans.accuracy(widths),
            "widths": dict(widths),
        }
        for budget, widths in (("MACs", by_macs), ("energy", by_energy))
    }


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Means over seeds, and the gain of the energy budget, mean ± sd of the seeds' differences."""
    rows: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for result in results.values():
        names = ("network", "accelerator", "criterion", "importance", "macs_cut", "images")
        rows.setdefault(tuple(str(result["case"][name]) for name in names), []).append(result["found"])
    table = Table(title="Accuracy at equal predicted energy (%), mean over seeds", title_justify="left")
    columns = ("network", "accelerator", "criterion", "importance", "cut", "images", "energy", "MACs of both", "both")
    for name in (*columns, "gain", "seeds"):
        table.add_column(name, overflow="fold")
    for key, found in rows.items():
        gains = [100 * (f["energy"]["recalibrated"] - f["MACs"]["recalibrated"]) for f in found]
        shares = [_pair(found, name) for name in ("macs", "recalibrated")]
        gain = f"{statistics.mean(gains):+.2f}" + (f" ± {statistics.stdev(gains):.2f}" if len(gains) > 1 else "")
        table.add_row(*key, _pair(found, "energy"), *shares, gain, str(len(found)))
    Console(width=170).print(table)


def _pair(found: list[Mapping[str, Any]], name: str) -> str:
    """The plan by multiplications, then the plan by energy."""
    means = [100 * statistics.mean(f[budget][name] for f in found) for budget in ("MACs", "energy")]
    return f"{means[0]:.2f} -> {means[1]:.2f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eap_energy", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="resnet20_cifar, resnet56_cifar; none: show the table")
    parser.add_argument("--json", type=Path, required=True, help="results, read and extended")
    parser.add_argument("--accelerators", nargs="+", default=list(ACCELERATORS))
    parser.add_argument("--criterion", default="nuclear_norm", choices=criterion_names())
    parser.add_argument("--importance", nargs="+", default=["measured"], choices=("measured", "scores"))
    parser.add_argument("--macs-cut", type=float, default=0.40)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=0, help="try the script on so many images")
    return parser


def main() -> None:
    """Run what is missing in the file and show the table."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    results = read_results(options.json)
    for network in options.networks:
        dense, costs = load_dense(network, options.images), {}  # type: Dense, dict[str, Cost]
        for seed, importance in itertools.product(options.seeds, options.importance):
            keys = {name: _case(options, network, name, importance, seed) for name in options.accelerators}
            missing = {name: case for name, case in keys.items() if str(case) not in results}
            plans = _plans(options, network, dense, importance, seed) if missing else None
            for name, case in missing.items():
                if name not in costs:
                    example = torch.zeros(1, *dense.test.images.shape[1:])
                    costs[name] = hardware_cost(load_accelerator(name), dense.model, example, dense.groups, network)
                assert plans is not None
                results[str(case)] = {"case": case, "found": compare(plans, options.macs_cut, costs[name])}
                write_json(options.json, results)
    show(results)


def _case(options: argparse.Namespace, network: str, accelerator: str, importance: str, seed: int) -> dict[str, Any]:
    shared = {name: getattr(options, name) for name in ("criterion", "macs_cut", "images")}
    return {"network": network, "accelerator": accelerator, "importance": importance, **shared, "seed": seed}


def _plans(options: argparse.Namespace, network: str, dense: Dense, importance: str, seed: int) -> Plans:
    scores = criterion_scores(dense, options.criterion, seed)
    if importance == "measured":
        return Plans(network, dense, damage_scores(dense, scores, seed), "none", seed)
    return Plans(network, dense, scores, "mean", seed)


if __name__ == "__main__":
    main()
