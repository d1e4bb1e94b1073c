"""Where the nuclear norm trails L1: its variants, what reads the maps, and which layers, on a trained ResNet.

    COSIM_DATA=data python -m benchmarks.eap_variants resnet20_cifar --json variants.json --seeds 0 1 2
    python -m benchmarks.eap_variants resnet20_cifar --json variants.json --epochs 5 --distill --seeds 0 1 2
    python -m benchmarks.eap_variants resnet20_cifar --json variants.json --layers --images 1000
    python -m benchmarks.eap_variants --json variants.json          # the tables of what is there

Scores of different variants, all else as in `benchmarks.eap_accuracy`; with --layers, half of the channels of one layer
leave and all others stay: how much the outputs then differ from the dense network's (Kullback-Leibler divergence).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.eap_accuracy import (
    AUGMENTATION,
    SCORE_BATCH,
    SELECTIONS,
    STAGES,
    Case,
    Dense,
    checkpoint_of,
    load_dense,
    read_results,
    run_case,
    score_case,
    spread,
)
from cosim.files import write_json
from cosim.prune_run.measuring import divergence
from cosim.pruning.apply import prunable_groups, remove_filters
from cosim.pruning.criteria import weigh_by_readers
from cosim.pruning.selection import select_plan
from cosim.training import predict

Scores = dict[str, Tensor]


def _scores(criterion: str, variant: str = "per_image", *, read: bool = False) -> Callable[[Case, Dense], Scores]:
    def score(case: Case, dense: Dense) -> Scores:
        found = score_case(replace(case, criterion=criterion, variant=variant), dense)
        return weigh_by_readers(dense.model, dense.groups, found) if read else found

    return score


def _mixed(one: str, last: str, *, stage: bool) -> Callable[[Case, Dense], Scores]:
    """One criterion, but another for the last group of a single layer, or for all of its size (its stage)."""

    def score(case: Case, dense: Dense) -> Scores:
        found, other = (_scores(name)(case, dense) for name in (one, last))
        inner = [group for group in prunable_groups(dense.groups) if len(group.producers) == 1]
        changed = [group for group in inner if group.size == inner[-1].size] if stage else inner[-1:]
        return found | {name: other[name] for group in changed for name in group.producers}

    return score


def _product(one: str, other: str) -> Callable[[Case, Dense], Scores]:
    """Scores of two criteria multiplied."""

    def score(case: Case, dense: Dense) -> Scores:
        first, second = (_scores(name)(case, dense) for name in (one, other))
        return {name: first[name] * second[name] for name in first}

    return score


def unit_gradients(case: Case, dense: Dense) -> Scores:
    """Root mean square over batches of the loss's gradient with respect to each filter at norm 1.

    Under weight decay the norm of a filter whose scale has no effect settles where its fourth power is proportional to
    the square of this (van Laarhoven, arXiv 1706.05350): norms remember the gradients of the training.
    """
    layers = [layer for group in prunable_groups(dense.groups) for layer in group.producers]
    model, squares = copy.deepcopy(dense.model).train(), dict.fromkeys(layers, torch.zeros(()))
    for images in torch.arange(len(dense.train)).split(SCORE_BATCH):
        model.zero_grad()
        nn.functional.cross_entropy(model(dense.train.batch(images)), dense.train.labels[images]).backward()
        for name in squares:
            squares[name] = squares[name] + model.get_submodule(name).weight.grad.square().flatten(1).sum(1)  # type: ignore[union-attr,operator]
    return {name: square.sqrt() * filter_norms(model, name) for name, square in squares.items()}


def filter_norms(model: nn.Module, layer: str) -> Tensor:
    """Frobenius norm of every filter."""
    return model.get_submodule(layer).weight.detach().flatten(1).norm(dim=1)  # type: ignore[operator]


VARIANTS: dict[str, Callable[[Case, Dense], Scores]] = {
    "nuclear norm": _scores("nuclear_norm"),
    "nuclear norm, batch": _scores("nuclear_norm", "per_batch"),
    "nuclear norm, centred": _scores("nuclear_norm", "centred"),
    "nuclear norm, read": _scores("nuclear_norm", read=True),
    "nuclear norm, centred, read": _scores("nuclear_norm", "centred", read=True),
    "nuclear norm, L1 in the last block": _mixed("nuclear_norm", "l1", stage=False),
    "nuclear norm, L1 in the last stage": _mixed("nuclear_norm", "l1", stage=True),
    "nuclear norm, times L1": _product("nuclear_norm", "l1"),
    "unit gradient": unit_gradients,
    "L1": _scores("l1"),
    "L1, read": _scores("l1", read=True),
    "L1, nuclear norm in the last stage": _mixed("l1", "nuclear_norm", stage=True),
    "random": _scores("random"),
}
"""Name -> scores of a case. "read": times the norm of the weights that read the map."""


def divergences(case: Case, dense: Dense, scores: Mapping[str, Tensor]) -> dict[str, float]:
    """Layer -> divergence when half of its channels leave."""
    example, sure = torch.zeros(1, *dense.test.images.shape[1:]), predict(dense.model, dense.train)
    found = {}
    for group in prunable_groups(dense.groups):
        if len(group.producers) == 1:
            plan = select_plan(case.network, dense.groups, scores, {group.name: group.size // 2})
            model = remove_filters(dense.model, example, plan, dense.groups, verify=False)
            found[group.name] = divergence(model, sure, dense.train, AUGMENTATION)
    return found


# ---------------------------------------------------------------- the file and the tables


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Accuracies, mean ± sd over seeds, in percent; divergences, means in thousandths of a nat."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for result in results.values():
        case = {name: value for name, value in result["case"].items() if name != "seed"}
        rows.setdefault(json.dumps([result["kind"], result["variant"], case], sort_keys=True), []).append(result)
    accuracies = Table(title="CIFAR-10, mean ± sd over seeds (%)", title_justify="left")
    for name in ("network", "variant", "how", *STAGES, "seeds"):
        accuracies.add_column(name, overflow="fold")
    layers: dict[str, Table] = {}
    for group in rows.values():
        first = group[0]
        if first["kind"] == "layers":
            table = layers.setdefault(first["case"]["network"], _layer_table(first))
            means = [sum(r["found"][name] for r in group) / len(group) for name in first["found"]]
            table.add_row(first["variant"], *(f"{1000 * mean:.0f}" for mean in (*means, sum(means))))
            continue
        numbers = [spread([r["found"].get(name) for r in group]) for name in STAGES]
        accuracies.add_row(first["case"]["network"], first["variant"], _how(first["case"]), *numbers, str(len(group)))
    for table in (accuracies, *layers.values()):
        Console(width=160).print(table)


def _layer_table(result: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{result['case']['network']}: divergence, half of one layer (1/1000 nat)", title_justify="left"
    )
    for name in ("variant", *result["found"], "sum"):
        table.add_column(name.removesuffix(".conv1"), overflow="fold")
    return table


def _how(case: Mapping[str, Any]) -> str:
    parts = [case["selection"], case["normalisation"], case["where"], "stream" if case["stream"] else "inner"]
    parts += [f"{case['epochs']} epochs"] * bool(case["epochs"]) + ["distilled"] * case["distill"]
    return ", ".join(parts) + (f", {case['images']} images" if case["images"] else "")


def _cases(options: argparse.Namespace) -> list[Case]:
    axes = (options.seeds, options.networks, options.selections, options.normalisations, options.where)
    return [
        Case(
            network=network,
            criterion="nuclear_norm",
            selection=selection,
            variant="per_image",
            where=where,
            normalisation=normalisation,
            stream=options.stream,
            epochs=options.epochs,
            lr=0.01,
            distill=options.distill,
            macs_cut=0.40,
            parameters_cut=0.45,
            precision=options.precision,
            images=options.images,
            seed=seed,
        )
        for seed, network, selection, normalisation, where in itertools.product(*axes)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eap_variants", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="resnet20_cifar, resnet56_cifar; none: show the tables")
    parser.add_argument("--json", type=Path, required=True, help="results, read and extended")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--layers", action="store_true", help="one layer at a time")
    parser.add_argument("--selections", nargs="+", default=["uniform"], choices=SELECTIONS)
    parser.add_argument(
        "--normalisations", nargs="+", default=["mean"], choices=("mean", "max", "l2", "sum", "rank", "none")
    )
    parser.add_argument("--where", nargs="+", default=["after_activation"], choices=("after_activation", "before_add"))
    parser.add_argument("--stream", action="store_true", help="prune the residual stream too")
    parser.add_argument("--epochs", type=int, default=0, help="of fine-tuning")
    parser.add_argument("--distill", action="store_true", help="fine-tune from the dense network's outputs")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="of fine-tuning")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--images", type=int, default=0, help="so many test and training images, 0: all")
    return parser


def main() -> None:
    """Run what is missing in the file, one case after the other, and show the tables."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    results, dense = read_results(options.json), {}  # type: dict, dict[str, Dense]
    kind = "layers" if options.layers else "accuracy"
    for case, variant in itertools.product(_cases(options), options.variants):
        key = f"{kind}, {variant}, {case.key}"
        if key in results:
            continue
        if case.network not in dense:
            dense[case.network] = load_dense(case.network, case.images)
        own = dense[case.network]
        scores = VARIANTS[variant](case, own)
        if options.layers:
            found = divergences(case, own, scores)
        else:
            found = run_case(case, own, checkpoint_of(options.json, key), scores)
        results[key] = {"kind": kind, "variant": variant, "case": asdict(case), "found": found}
        write_json(options.json, results)
        print(f"{case.network} {variant} seed {case.seed}: {found}", flush=True)
    show(results)


if __name__ == "__main__":
    main()
