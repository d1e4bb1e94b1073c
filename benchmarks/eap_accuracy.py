"""Criteria on CIFAR-10: accuracy of a trained ResNet pruned to the same size, recalibrated and fine-tuned.

    COSIM_DATA=data python -m benchmarks.eap_accuracy resnet56_cifar --epochs 3 --seeds 0 1 2 --json r56.json
    python -m benchmarks.eap_accuracy --json r56.json          # the table of what is there

Starts from `$COSIM_DATA/weights/resnet56_cifar10.pt` (akamaster/pytorch_resnet_cifar10; its author trained on all
50,000 images and kept the best test epoch). Every finished case is in the JSON file at once; a second call with the
same file goes on where the first one stopped, inside a training too. Accuracies are of all 10,000 test images, which
choose nothing; all training images at hand score, recalibrate and fine-tune.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from cosim.data import Augmentation, Split, load_dataset
from cosim.files import write_json
from cosim.networks import build_network, load_weights
from cosim.prune_run.choosing import stage_widths
from cosim.prune_run.measuring import IMAGES, drawn, measured_scores
from cosim.pruning.apply import prunable_groups, remove_filters
from cosim.pruning.counting import Cost, macs_cost, parameters_cost
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.criteria import ScoreOptions, criterion_names, score_layers
from cosim.pruning.selection import Budget, WidthRules, global_widths, select_plan, worth_widths
from cosim.training import FitOptions, Recipe, evaluate, fit, recalibrate_batchnorm

SCORE_IMAGES, SCORE_BATCH = 640, 128
AUGMENTATION = Augmentation(4, flip=True)
"""Of the given weights' training, of fine-tuning, and of the images that recalibrate batch normalisation."""
SELECTIONS = ("uniform", "global", "worth", "measured")
STAGES = ("pruned", "recalibrated", "finetuned")


@dataclass(frozen=True)
class Case:
    """One row before it is averaged over seeds."""

    network: str
    criterion: str
    selection: str
    """uniform: the same width in all blocks of a stage; global: one threshold; worth: score lost per cost saved;
    measured: the same with scores in units of measured damage."""
    variant: str
    where: str
    normalisation: str
    stream: bool
    """Prune the residual stream too."""
    epochs: int
    lr: float
    distill: bool
    macs_cut: float
    parameters_cut: float
    precision: str
    images: int
    """Test and training images used, 0: all (fewer only to try the script)."""
    seed: int

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Dense:
    """The trained network with what all cases share."""

    model: nn.Module
    groups: tuple[ChannelGroup, ...]
    train: Split
    test: Split
    macs: Cost
    parameters: Cost
    accuracy: float


def load_dense(network: str, images: int) -> Dense:
    """Network, data and costs; all training images at hand, because nothing is chosen by the validation split."""
    data = load_dataset("cifar10")
    weights = Path(os.environ.get("COSIM_DATA", "data")) / "weights" / f"{network.removesuffix('_cifar')}_cifar10.pt"
    model = load_weights(build_network(network), weights).eval()
    example = torch.zeros(1, *data.input_shape)
    groups = tuple(trace_channel_groups(model, example))
    whole = data.train.joined(data.validation)
    train, test = (_first(split, images) for split in (whole, data.test))
    costs = macs_cost(model, example, groups), parameters_cost(model, groups)
    return Dense(model, groups, train, test, *costs, evaluate(model, test))


def _first(split: Split, count: int) -> Split:
    return split.part(slice(count)) if count else split


def run_case(
    case: Case, dense: Dense, checkpoint: Path, scores: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """Accuracies of one case, and what it cost; by other scores than the criterion's, if they are given."""
    start = time.perf_counter()
    scores = score_case(case, dense) if scores is None else scores
    scores = damage_scores(dense, scores, case.seed) if case.selection == "measured" else scores
    widths = choose_widths(case, dense, scores)
    plan = select_plan(case.network, dense.groups, scores, widths, case.normalisation)  # type: ignore[arg-type]
    model = remove_filters(dense.model, torch.zeros(1, *dense.test.images.shape[1:]), plan, dense.groups)
    found = {
        "macs": 1 - dense.macs(widths) / dense.macs({}),
        "parameters": 1 - sum(p.numel() for p in model.parameters()) / dense.parameters({}),
        "dense": dense.accuracy,
        "pruned": evaluate(model, dense.test),
    }
    recalibrate_batchnorm(model, dense.train, augmentation=AUGMENTATION)
    found["recalibrated"] = evaluate(model, dense.test)
    if case.epochs:
        recipe = Recipe(
            case.epochs,
            128,
            case.lr,
            crop_padding=AUGMENTATION.padding,
            flip=AUGMENTATION.flip,
            precision=case.precision,  # type: ignore[arg-type]
        )
        options = FitOptions(teacher=dense.model if case.distill else None, checkpoint=checkpoint)
        fit(model, dense.train, recipe, seed=case.seed, options=options)
        checkpoint.unlink(missing_ok=True)
        found["finetuned"] = evaluate(model, dense.test)
    return found | {"seconds": time.perf_counter() - start}


def score_case(case: Case, dense: Dense) -> dict[str, Tensor]:
    order = torch.randperm(len(dense.train), generator=torch.Generator().manual_seed(case.seed))[:SCORE_IMAGES]
    batches = ((dense.train.batch(part), dense.train.labels[part]) for part in order.split(SCORE_BATCH))
    layers = [layer for group in prunable_groups(dense.groups) for layer in group.producers]
    options = ScoreOptions(case.variant, case.where, case.seed)  # type: ignore[arg-type]
    return score_layers(dense.model, batches, layers, case.criterion, options=options)


def choose_widths(case: Case, dense: Dense, scores: Mapping[str, Tensor]) -> dict[str, int]:
    """Widths that meet both budgets; streams (groups of several layers) stay whole unless asked for."""
    budgets = (
        Budget("MACs", (1 - case.macs_cut) * dense.macs({}), dense.macs),
        Budget("parameters", (1 - case.parameters_cut) * dense.parameters({}), dense.parameters),
    )
    streams = () if case.stream else tuple(g.name for g in prunable_groups(dense.groups) if len(g.producers) > 1)
    if case.selection == "uniform":
        return stage_widths(dense.groups, budgets, WidthRules(exclude=streams))
    select = global_widths if case.selection == "global" else worth_widths
    how = "none" if case.selection == "measured" else case.normalisation
    return select(dense.groups, scores, budgets, WidthRules(min_share=0.1, exclude=streams), how)  # type: ignore[arg-type]


def damage_scores(dense: Dense, scores: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Scores in units of the divergence from the dense network's outputs."""
    example = torch.zeros(1, *dense.test.images.shape[1:])
    images = drawn(dense.train, IMAGES, seed)
    return measured_scores(dense.model, example, dense.groups, scores, images, AUGMENTATION)


# ---------------------------------------------------------------- the file and the table


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else {}


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Mean ± sd over seeds, in percent."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for result in results.values():
        case = {name: value for name, value in result["case"].items() if name != "seed"}
        rows.setdefault(json.dumps(case, sort_keys=True), []).append(result)
    table = Table(title="CIFAR-10, all test images, mean ± sd over seeds (%)", title_justify="left")
    for name in ("network", "criterion", "how", "MACs", "parameters", "dense", *STAGES, "seeds"):
        table.add_column(name, justify="left" if name in ("network", "criterion", "how") else "right", overflow="fold")
    for group in rows.values():
        case = group[0]["case"]
        numbers = [spread([r["found"].get(n) for r in group]) for n in ("macs", "parameters", "dense", *STAGES)]
        table.add_row(case["network"], case["criterion"], _how(case), *numbers, str(len(group)))
    Console(width=150).print(table)


def _how(case: Mapping[str, Any]) -> str:
    parts = [case["selection"], case["normalisation"], "stream" if case["stream"] else "inner"]
    parts += [case["variant"]] if case["variant"] != "per_image" else []
    parts += [case["where"]] if case["where"] != "after_activation" else []
    parts += [f"lr {case['lr']:g}"] if case["lr"] != 0.01 else []
    parts += [f"{case['epochs']} epochs", "distilled"] if case["distill"] else [f"{case['epochs']} epochs"]
    return ", ".join(parts) + (f", {case['images']} images only" if case["images"] else "")


def spread(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "-"
    return f"{statistics.mean(known):.2f}" + (f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else "")


def _cases(options: argparse.Namespace) -> list[Case]:
    shared = {
        name: getattr(options, name)
        for name in (
            "variant",
            "where",
            "normalisation",
            "stream",
            "lr",
            "macs_cut",
            "parameters_cut",
            "precision",
            "images",
        )
    }
    return [
        Case(
            network=network,
            criterion=criterion,
            selection=selection,
            distill=distill,
            epochs=epochs,
            seed=seed,
            **shared,
        )
        for seed, network, selection, distill, epochs, criterion in itertools.product(
            options.seeds, options.networks, options.selections, options.distill, options.epochs, options.criteria
        )
    ]


def checkpoint_of(results: Path, key: str) -> Path:
    """Where the training of a case is kept until it ends."""
    return results.with_name(f"{results.stem}-{zlib.crc32(key.encode()):08x}.checkpoint")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eap_accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="resnet20_cifar, resnet56_cifar; none: show the table")
    parser.add_argument("--json", type=Path, required=True, help="results, read and extended")
    parser.add_argument("--criteria", nargs="+", default=list(criterion_names()), choices=criterion_names())
    parser.add_argument("--selections", nargs="+", default=["uniform"], choices=SELECTIONS)
    parser.add_argument("--distill", nargs="+", type=int, choices=(0, 1), default=[0], help="1: from the dense network")
    parser.add_argument("--epochs", nargs="+", type=int, default=[3], help="of fine-tuning; 0: none")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--variant", default="per_image", choices=("per_image", "per_batch", "centred"))
    parser.add_argument("--where", default="after_activation", choices=("after_activation", "before_add"))
    parser.add_argument("--normalisation", default="mean", choices=("mean", "max", "l2", "sum", "rank", "none"))
    parser.add_argument("--stream", action="store_true", help="prune the residual stream too")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--macs-cut", type=float, default=0.40)
    parser.add_argument("--parameters-cut", type=float, default=0.45)
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="of fine-tuning")
    parser.add_argument("--images", type=int, default=0, help="try the script on so many images")
    parser.add_argument("--threads", type=int, help="of torch")
    return parser


def main() -> None:
    """Run what is missing in the file, one case after the other, and show the table."""
    options = _parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    results, dense = read_results(options.json), {}  # type: dict[str, dict[str, Any]], dict[str, Dense]
    for case in _cases(options):
        if case.key in results:
            continue
        if case.network not in dense:
            dense[case.network] = load_dense(case.network, case.images)
        found = run_case(case, dense[case.network], checkpoint_of(options.json, case.key))
        results[case.key] = {"case": asdict(case), "found": found}
        write_json(options.json, results)
        shown = ", ".join(f"{name} {100 * found[name]:.2f}" for name in STAGES if name in found)
        print(f"{case.network} {case.criterion} seed {case.seed}: {shown} ({found['seconds']:.0f} s)", flush=True)
    show(results)


if __name__ == "__main__":
    main()
