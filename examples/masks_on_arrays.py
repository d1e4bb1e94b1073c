"""The same number of weights in every layer, kept row by row, tile by tile, or wherever they are largest: what sparse
arrays make of the three masks. Half a minute on one core.

python examples/masks_on_arrays.py [WEIGHTS]

WEIGHTS are those of resnet20_cifar; without them $COSIM_DATA/weights/resnet20_cifar10.pt is taken if it is there, else
a small network is trained on the embedded digits. Weights have 8 bits, inputs are taken as dense.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from accel_models import KofN, NetworkCost, VectorOp, Workload, load_accelerator, simulate
from accel_models.masks import WeightMasks, weight_mask
from cosim.data import load_dataset
from cosim.extract import extract_workload, weight_masks, weight_structures
from cosim.networks import build_network, load_weights
from cosim.networks.registry import network_example
from cosim.pruning.apply import attach_plan
from cosim.pruning.plan import LayerPlan, MaskPlan, PruningPlan
from cosim.training import Recipe, fit

ARRAYS = ("row_gather", "nm_systolic", "sparten", "eyeriss_v2")
TILES = KofN(granularity="weight", k=2, n=8)


@dataclass(frozen=True)
class Masks:
    """One way to keep weights of a network: names as the table has them, masks, and what is fixed of them."""

    name: str
    masks: WeightMasks
    structures: dict[str, KofN]


def trained_network(weights: Path | None) -> tuple[str, nn.Module]:
    """resnet20_cifar from a file, or a small network trained on the digits."""
    given = weights or Path(os.environ.get("COSIM_DATA", "data")) / "weights" / "resnet20_cifar10.pt"
    if weights is not None or given.exists():
        return "resnet20_cifar", load_weights(build_network("resnet20_cifar"), given)
    network = build_network("digits_resnet")
    fit(network, load_dataset("digits").train, Recipe(epochs=5, lr=0.003, optimizer="adam"), seed=0)
    return "digits_resnet", network


def three_masks(name: str, network: nn.Module, workload: Workload) -> Iterator[Masks]:
    """The largest weights of every tile, of every row and of every layer, the same number in each layer."""
    layers = {layer.name: layer for layer in workload.layers if not isinstance(layer, VectorOp)}
    rows = {n: (TILES.kept_per_row(layer), layer.as_gemm().k) for n, layer in layers.items()}
    for title, sizes in (("k of n per row", rows), ("2 of 8 per tile", dict.fromkeys(rows, (TILES.k, TILES.n)))):
        plans = {n: LayerPlan(mask=MaskPlan(granularity="weight", k=k, n=size)) for n, (k, size) in sizes.items()}
        plan = PruningPlan(network=name, layers=plans)
        masked = copy.deepcopy(network)
        attach_plan(masked, plan, seed=0)
        kept = {n: weight_mask(mask, layers[n]) for n, mask in weight_masks(masked).items()}
        yield Masks(title, kept, weight_structures(plan))
    free = {}
    for n, (k, _) in rows.items():
        size = network.get_parameter(f"{n}.weight").detach().abs()
        threshold = size.flatten().topk(k * len(size)).values[-1]
        free[n] = weight_mask((size >= threshold).numpy(), layers[n])
    yield Masks("unstructured", free, {})


def costs(weights: Path | None = None) -> Iterator[tuple[str, Masks, NetworkCost]]:
    """(accelerator, masks, cost) of every pair."""
    name, network = trained_network(weights)
    workload = extract_workload(network, network_example(name), name)
    for masks in three_masks(name, network, workload):
        for array in ARRAYS:
            yield array, masks, simulate(load_accelerator(array), workload, masks.structures, masks=masks.masks)


def metadata_bytes(cost: NetworkCost, masks: Masks) -> int:
    """What is stored beside 8 bits for each weight that stays."""
    return cost.weight_bytes - sum(mask.nonzeros for mask in masks.masks.values())


def main() -> None:
    torch.set_num_threads(1)
    table = Table("accelerator", "masks", "cycles", "imbalance", "bank conflicts", "energy uJ", "metadata kB")
    for column in table.columns[2:]:
        column.justify = "right"
    for array, masks, cost in sorted(costs(Path(sys.argv[1]) if sys.argv[1:] else None), key=lambda row: row[0]):
        stalls = [sum(layer.activity.stall_cycles.get(cause, 0) for layer in cost.layers) for cause in _CAUSES]
        figures = [f"{cost.latency_cycles:,}", *(f"{stall:,}" for stall in stalls)]
        table.add_row(
            array, masks.name, *figures, f"{cost.energy_pj / 1e6:.2f}", f"{metadata_bytes(cost, masks) / 1024:.1f}"
        )
    Console(width=120).print(table)


_CAUSES = ("imbalance", "bank_conflict")

if __name__ == "__main__":
    main()
