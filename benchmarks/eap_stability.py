"""Do a few images rank filters like many, and poor images like good ones? The trained ResNet-56 on CIFAR-10."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

from benchmarks.registry import Row, benchmark
from cosim.data import Split, load_dataset
from cosim.networks import build_network, load_weights
from cosim.pruning.criteria import rank_correlation, score_layers

FEW, MANY, DRAWS, BATCH = 128, 5000, 5, 128


def blurred(images: Tensor) -> Tensor:
    """Means over 5 x 5 pixels."""
    return F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), 5, stride=1)


def noisy(images: Tensor) -> Tensor:
    """Normal noise of half a standard deviation of the pixels."""
    generator = torch.Generator().manual_seed(0)
    return images + 0.5 * images.std() * torch.randn(images.shape, generator=generator)


def shapeless(images: Tensor) -> Tensor:
    """Normal noise of the pixels' mean and spread: no image at all."""
    generator = torch.Generator().manual_seed(0)
    return images.mean() + images.std() * torch.randn(images.shape, generator=generator)


QUALITIES: dict[str, Callable[[Tensor], Tensor]] = {"blurred": blurred, "noisy": noisy, "noise alone": shapeless}


def layer_scores(
    network: nn.Module, split: Split, index: Tensor, change: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Nuclear norms of the convolutions' maps on some images."""
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return score_layers(network, (change(split.batch(part)) for part in index.split(BATCH)), layers)


def correlations(some: dict[str, Tensor], reference: dict[str, Tensor]) -> list[float]:
    return [rank_correlation(some[layer], reference[layer]) for layer in reference]


@benchmark("eap_stability_128_images")
def stability() -> list[Row]:
    """Rank correlation, per layer, of the scores of 128 images with those of 5,000 others."""
    weights = Path(os.environ.get("COSIM_DATA", "data")) / "weights" / "resnet56_cifar10.pt"
    network = load_weights(build_network("resnet56_cifar"), weights).eval()
    split = load_dataset("cifar10").train
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    many = layer_scores(network, split, order[:MANY], lambda images: images)
    draws = order[MANY:].split(FEW)[:DRAWS]
    plain = [value for draw in draws for value in correlations(layer_scores(network, split, draw, lambda x: x), many)]
    poor = {
        name: statistics.median(correlations(layer_scores(network, split, draws[0], change), many))
        for name, change in QUALITIES.items()
    }
    note = f"{len(many)} layers, {DRAWS} draws; 5 % are below {sorted(plain)[len(plain) // 20]:.3f}; poor images: "
    note += ", ".join(f"{name} {value:.3f}" for name, value in poor.items())
    return [
        Row(
            name="eap_stability_128_images",
            value=statistics.median(plain),
            unit="rank correlation",
            note=note,
        )
    ]
