"""Estimates from densities against masks of real activations, on every sparse accelerator: a table of the documents.

`python -m benchmarks.captured_zeros --weights resnet20_cifar10.pt`: a trained network runs on validation images; the
weights are dense, then those of least magnitude leave, layer by layer. Cycles are those of the lanes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from accel_models.accelerator import Accelerator, load_accelerator
from accel_models.captured_layers import mean_products
from accel_models.cost import NetworkCost
from accel_models.evaluate import simulate
from accel_models.layers import VectorOp
from accel_models.masks import Mask, weight_mask
from accel_models.workload import Workload
from cosim.data import load_dataset
from cosim.extract import capture_activations, extract_workload
from cosim.networks import build_network, load_weights, network_entry, network_example

ACCELERATORS = ("eyeriss_v2", "scnn", "dstc", "sparten", "nm_systolic", "eyeriss_v1")
HEADER = (
    "accelerator", "cycles, densities", "masks", "padding known", "single images", "imbalance, densities", "masks",
    "MACs done", "energy",
)  # fmt: skip


class Lanes(NamedTuple):
    """Sums over layers, in cycles; of an array without lanes its latency."""

    cycles: float
    imbalance: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.captured_zeros", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="trained weights of the network")
    parser.add_argument("--network", default="resnet20_cifar")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--keep", type=float, default=0.3, help="share of the weights that stay in every layer")
    options = parser.parse_args()
    model = load_weights(build_network(options.network), options.weights)
    workload = extract_workload(model, network_example(options.network), options.network)
    data = load_dataset(network_entry(options.network).dataset or "synthetic")
    images = data.validation.batch(slice(0, options.images))
    print(f"{options.network}, {options.images} images of {data.name}, dense weights:\n")
    _table(workload, {}, capture_activations(model, images))
    weights = prune(model, workload, options.keep)
    print(f"\n{100 * options.keep:g} % of the weights of every layer:\n")
    _table(workload, weights, capture_activations(model, images))


def prune(model: nn.Module, workload: Workload, keep: float) -> dict[str, Mask]:
    """Set the weights of least magnitude of every layer to zero; masks of those that stay."""
    found, modules = {}, dict(model.named_modules())
    for layer in workload.layers:
        if isinstance(layer, VectorOp):
            continue
        weight = modules[layer.name].weight.data
        least = weight.abs().flatten().kthvalue(max(1, round((1 - keep) * weight.numel()))).values
        weight.mul_(weight.abs() > least)
        found[layer.name] = weight_mask(weight.numpy() != 0, layer)
    return found


def _table(workload: Workload, weights: Mapping[str, Mask], inputs: Mapping[str, Mask]) -> None:
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for name in ACCELERATORS:
        print(f"| {' | '.join(_row(load_accelerator(name), workload, weights, inputs))} |")


def _row(
    machine: Accelerator, workload: Workload, weights: Mapping[str, Mask], inputs: Mapping[str, Mask]
) -> tuple[str, ...]:
    structures = {name: mask.density for name, mask in weights.items()}
    layers = {layer.name: layer for layer in workload.layers if not isinstance(layer, VectorOp)}
    # padding is zero, too: the share of inputs that products meet
    met = {name: float(mean_products(layers[name], None, mask)) / layers[name].macs for name, mask in inputs.items()}
    expected = simulate(machine, workload, structures, densities={name: mask.density for name, mask in inputs.items()})
    padded = simulate(machine, workload, structures, densities=met)
    exact = simulate(machine, workload, masks=weights, activation_masks=inputs)
    estimate, found = _lanes(expected), _lanes(exact)
    return (
        machine.name,
        f"{estimate.cycles:,.0f}",
        f"{found.cycles:,.0f} ({_change(estimate.cycles, found.cycles)})",
        _change(_lanes(padded).cycles, found.cycles) if _meets_padding(machine) else "-",
        _spread(exact),
        f"{100 * estimate.imbalance / estimate.cycles:.1f} %",
        f"{100 * found.imbalance / found.cycles:.1f} %",
        _change(expected.macs, exact.macs),
        _change(expected.energy_pj, exact.energy_pj),
    )


def _meets_padding(machine: Accelerator) -> bool:
    """Lanes that own tiles of the image do not."""
    return machine.lanes is not None and machine.lanes.accumulators is None


def _lanes(cost: NetworkCost) -> Lanes:
    reports = [layer.activity.sparse for layer in cost.layers if layer.activity.sparse is not None]
    if not reports:
        return Lanes(cost.latency_cycles, 0.0)
    return Lanes(sum(each.used.cycles for each in reports), sum(each.used.imbalance_cycles for each in reports))


def _spread(cost: NetworkCost) -> str:
    """Fewest and most cycles of an image, against the mean."""
    runs = [layer.activity.sparse.run_cycles for layer in cost.layers if layer.activity.sparse is not None]
    if not runs or not all(runs):
        return "-"
    totals = np.sum(runs, axis=0)
    return f"{_change(totals.mean(), totals.min())} to {_change(totals.mean(), totals.max())}"


def _change(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %"


if __name__ == "__main__":
    main()
