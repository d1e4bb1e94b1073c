"""What masks of a trained ResNet-20 lose by exchanging what magnitudes would keep.

    python -m benchmarks.dpp_exchange --data data --patterns "kernel 1:2" 2:4

First every ranking of the units without training, then DPP in three forms and magnitudes, trained for 2 epochs. Judged
by the divergence of the outputs from the dense network's (nat an image) and the agreement of the predicted classes, on
1,000 images that the masked network is not trained on (the given weights are: they saw all 50,000).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.dpp_accuracy import CIFAR10
from benchmarks.dpp_tables import Data, conv_plans, trained
from cosim.data import Split, load_dataset
from cosim.networks import build_network
from cosim.networks.weights import load_weights
from cosim.prune_run.measuring import logits_divergence
from cosim.pruning.dpp_layout import magnitude_mask
from cosim.pruning.dpp_schedules import MaskSchedule
from cosim.pruning.mask_methods import DynamicProbabilistic, MaskMethod, build_method
from cosim.pruning.plan import MaskPlan
from cosim.pruning.refit import FIT_IMAGES, refit
from cosim.training import predict, recalibrate_batchnorm

SETTING = replace(CIFAR10, epochs=2)
SAMPLES = 512
"""Images of the Fisher information, whose gradients are taken one by one."""
TRAINED: Mapping[str, Callable[[], MaskMethod]] = {
    "magnitude": partial(build_method, "magnitude"),
    "DPP": partial(DynamicProbabilistic, MaskSchedule()),
    "DPP, not straight through": partial(DynamicProbabilistic, MaskSchedule(straight_through=False)),
    "DPP, nor following": partial(DynamicProbabilistic, MaskSchedule(straight_through=False, follow=False)),
}
REFITTED = ("magnitude", "DPP, nor following")
"""Those that are trained from refitted weights too."""
Masks = dict[str, Tensor]


def removal_costs(model: nn.Module, layers: Mapping[str, nn.Conv2d], images: Split) -> Masks:
    """Layer -> root of the mean squared gradient x weight, labels drawn from the outputs (Fisher information)."""
    costs = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    generator = torch.Generator().manual_seed(0)
    for index in range(SAMPLES):
        outputs = model(images.batch(slice(index, index + 1)))
        label = torch.multinomial(outputs.detach().softmax(1), 1, generator=generator)[:, 0]
        model.zero_grad()
        functional.cross_entropy(outputs, label).backward()
        for name, layer in layers.items():
            assert layer.weight.grad is not None
            costs[name] += (layer.weight.grad * layer.weight.detach()).square()
    model.zero_grad()
    return {name: (cost / SAMPLES).sqrt() for name, cost in costs.items()}


class Judge:
    """Compares networks with the dense one on images that they are not trained on."""

    def __init__(self, model: nn.Module, train: Split, images: Split) -> None:
        self.train, self.images, self.expected = train, images, predict(model, images)

    def __call__(self, network: nn.Module) -> tuple[float, float]:
        """Recalibrated in place: (divergence from the dense outputs, nat an image; share of equal classes)."""
        recalibrate_batchnorm(network, self.train, augmentation=SETTING.recipe(0).augmentation)
        found = predict(network, self.images)
        same = found.argmax(1) == self.expected.argmax(1)
        return logits_divergence(found, self.expected), float(same.float().mean())


def masked(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy with the masks on it."""
    network = copy.deepcopy(model)
    for name, mask in masks.items():
        network.get_parameter(f"{name}.weight").data.mul_(mask)
    return network


def exchanged(masks: Masks, others: Masks) -> float:
    """Share of what the others keep that the masks do not."""
    return sum(int((others[n] & ~masks[n]).sum()) for n in masks) / sum(int(mask.sum()) for mask in others.values())


def rows_of(pattern: str, model: nn.Module, data: Data, judge: Judge) -> list[tuple[str, float, float, float]]:
    """(how the masks are found, exchanged, divergence, same class) of one pattern."""
    plans: dict[str, MaskPlan] = conv_plans(model, pattern)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and name in plans}
    costs = removal_costs(model, layers, data.train)
    by_size = {name: magnitude_mask(layer.weight.detach(), plans[name]) for name, layer in layers.items()}
    by_cost = {name: magnitude_mask(costs[name], plans[name]) for name in layers}
    rows = [
        (f"{label}, no training", exchanged(masks, by_size), *judge(masked(model, masks)))
        for label, masks in (("magnitude", by_size), ("Fisher information", by_cost))
    ]
    images, network = data.train.batch(slice(0, FIT_IMAGES)), copy.deepcopy(model)
    rows.append(("refitted, no training", exchanged(refit(network, plans, images), by_size), *judge(network)))
    for label, start in [*product(TRAINED, [None]), *product(REFITTED, [images])]:
        network = copy.deepcopy(model)
        masks = trained(network, TRAINED[label](), plans, data, SETTING, 0, start)
        label += ", refitted" if start is not None else ""
        rows.append((label, exchanged(masks, by_size), *judge(network)))
        print(pattern, *rows[-1], flush=True)
    return rows


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dpp_exchange", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the unpacked data sets")
    parser.add_argument("--patterns", nargs="+", default=["kernel 1:2"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = load_dataset("cifar10", root=options.data)
    model = load_weights(build_network("resnet20_cifar"), options.data / "weights" / "resnet20_cifar10.pt").eval()
    data, judge = Data(found.train, found.test), Judge(model, found.train, found.validation)
    table = Table("pattern", "masks", "exchanged, %", "divergence, nat", "same class, %")
    for pattern in options.patterns:
        for label, share, divergence, same in rows_of(pattern, model, data, judge):
            table.add_row(pattern, label, f"{100 * share:.1f}", f"{divergence:.3f}", f"{100 * same:.1f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
