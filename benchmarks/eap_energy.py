"""Filters chosen for an accelerator's energy against filters chosen for multiplications, at equal predicted energy.

    COSIM_DATA=data python -m benchmarks.eap_energy resnet20_cifar --json energy.json

For each accelerator: the plan of a budget on multiplications (score lost per multiplication saved) sets the energy; the
other plan has that energy as its budget (score lost per picojoule saved). Accuracies after recalibration of the batch
normalisation, of all 10,000 test images of CIFAR-10.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from accel_models.accelerator import load_accelerator
from accel_models.evaluate import simulate
from benchmarks.eap_accuracy import SCORE_BATCH, SCORE_IMAGES, Dense, load_dense, read_results
from cosim.codesign.evaluator import extract_plan
from cosim.files import write_json
from cosim.pruning.apply import plan_of_groups, prunable_groups, remove_filters
from cosim.pruning.counting import Cost, Widths
from cosim.pruning.criteria import ScoreOptions, criterion_names, score_layers
from cosim.pruning.selection import Budget, WidthRules, select_plan, worth_widths
from cosim.training import evaluate, recalibrate_batchnorm

ACCELERATORS = ("edge_ws_16x16", "tpu_like_128x128")


def energy_cost(accelerator: str, network: str, dense: Dense) -> Cost:
    """Energy of one inference in pJ as a function of the widths; each set of widths is simulated once."""
    hardware, example = load_accelerator(accelerator), torch.zeros(1, *dense.test.images.shape[1:])
    sizes = {group.name: group.size for group in dense.groups}
    known: dict[tuple[tuple[str, int], ...], float] = {}

    def cost(widths: Widths) -> float:
        smaller = {name: width for name, width in widths.items() if width < sizes[name]}
        key = tuple(sorted(smaller.items()))
        if key not in known:
            plan = plan_of_groups(network, dense.groups, smaller)
            known[key] = simulate(hardware, *extract_plan(plan, dense.model, example, dense.groups)).energy_pj
        return known[key]

    return cost


def compare(
    network: str, dense: Dense, accelerator: str, options: argparse.Namespace, seed: int
) -> dict[str, Mapping[str, float]]:
    """Budget -> share of multiplications and energy that stays, and the accuracies."""
    energy = energy_cost(accelerator, network, dense)
    order = torch.randperm(len(dense.train), generator=torch.Generator().manual_seed(seed))[:SCORE_IMAGES]
    batches = ((dense.train.batch(part), dense.train.labels[part]) for part in order.split(SCORE_BATCH))
    layers = [layer for group in prunable_groups(dense.groups) for layer in group.producers]
    scores = score_layers(dense.model, batches, layers, options.criterion, options=ScoreOptions(seed=seed))
    streams = tuple(g.name for g in prunable_groups(dense.groups) if len(g.producers) > 1)
    rules = WidthRules(min_share=0.1, multiple=options.multiple, exclude=streams)
    macs = Budget("MACs", (1 - options.macs_cut) * dense.macs({}), dense.macs)
    found, widths = {}, worth_widths(dense.groups, scores, [macs], rules)
    found["MACs"] = _judge(network, dense, energy, widths, scores)
    same = Budget("energy_pj", energy(widths), energy)
    widths = worth_widths(dense.groups, scores, [same], rules)
    found["energy"] = _judge(network, dense, energy, widths, scores)
    return found


def _judge(
    network: str, dense: Dense, energy: Cost, widths: Widths, scores: Mapping[str, torch.Tensor]
) -> Mapping[str, float]:
    plan = select_plan(network, dense.groups, scores, widths)
    model = remove_filters(dense.model, torch.zeros(1, *dense.test.images.shape[1:]), plan, dense.groups)
    found = {
        "macs": dense.macs(widths) / dense.macs({}),
        "energy": energy(widths) / energy({}),
        "pruned": evaluate(model, dense.test),
    }
    recalibrate_batchnorm(model, dense.train)
    return found | {"recalibrated": evaluate(model, dense.test)}


def main() -> None:
    """Run what is missing in the file and show the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eap_energy", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="resnet20_cifar, resnet56_cifar; none: show the table")
    parser.add_argument("--json", type=Path, required=True, help="results, read and extended")
    parser.add_argument("--accelerators", nargs="+", default=list(ACCELERATORS))
    parser.add_argument("--criterion", default="nuclear_norm", choices=criterion_names())
    parser.add_argument("--macs-cut", type=float, default=0.40)
    parser.add_argument("--multiple", type=int, default=1, help="widths are multiples of this")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=0, help="try the script on so many images")
    options = parser.parse_args()
    results, dense = read_results(options.json), {}  # type: dict, dict[str, Dense]
    for network, accelerator, seed in itertools.product(options.networks, options.accelerators, options.seeds):
        parts = (network, accelerator, options.criterion, options.macs_cut, options.multiple, options.images, seed)
        key = ", ".join(map(str, parts))
        if key not in results:
            dense.setdefault(network, load_dense(network, options.images))
            results[key] = compare(network, dense[network], accelerator, options, seed)
            write_json(options.json, results)
    table = Table(title="Accuracy at equal predicted energy (%)", title_justify="left")
    for name in ("network, accelerator, criterion, cut, multiple, images, seed", "budget"):
        table.add_column(name, overflow="fold")
    for name in ("macs", "energy", "pruned", "recalibrated"):
        table.add_column(name, justify="right")
    for key, found in results.items():
        for budget, values in found.items():
            table.add_row(key, budget, *(f"{100 * value:.2f}" for value in values.values()))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
