"""The pass that scores all filters of ResNet-56, against the forward pass, `svdvals` per layer and a loop over maps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.registry import Row, benchmark
from cosim.data import Split, load_dataset, load_synthetic
from cosim.errors import ConfigError
from cosim.networks import build_network, load_weights
from cosim.pruning.activations import activation_nodes
from cosim.pruning.criteria import ScoreOptions, measure_scores, score_layers
from cosim.pruning.criteria.maps import NodeHooks
from cosim.training import recalibrate_batchnorm

BATCHES, BATCH = 5, 128
SLOW_IMAGES = {"svdvals": 128, "loop": 16}
"""Images of the slow peers, whose times grow with their number; the others see all of them."""
REPEATS = 3
STABLE = 0.98


def setting() -> tuple[nn.Module, list[str], list[Tensor]]:
    """ResNet-56 (trained, where $COSIM_DATA/weights is), its layers with feature maps, and the images in batches."""
    network = build_network("resnet56_cifar").eval()
    split = _images()
    weights = Path(os.environ.get("COSIM_DATA", "data")) / "weights" / "resnet56_cifar10.pt"
    if weights.exists():
        load_weights(network, weights)
    else:
        recalibrate_batchnorm(network, split, images=512)
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[: BATCHES * BATCH]
    batches = [split.batch(part).contiguous(memory_format=torch.channels_last) for part in order.split(BATCH)]
    return network, layers, batches


def _images() -> Split:
    """CIFAR-10 where it is, else made-up images of its shape."""
    try:
        return load_dataset("cifar10").train
    except ConfigError:
        return load_synthetic().train


def seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Of the fastest run."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


@torch.no_grad()
def forward(network: nn.Module, batches: list[Tensor]) -> None:
    for batch in batches:
        network(batch)


def svdvals_pass(network: nn.Module, layers: list[str], batches: list[Tensor]) -> None:
    """The forward pass, and `torch.linalg.svdvals` of all maps of a layer at once."""
    _hooked(network, layers, batches, lambda maps: torch.linalg.svdvals(maps.flatten(0, 1)).sum(1))


def loop_pass(network: nn.Module, layers: list[str], batches: list[Tensor]) -> None:
    """The forward pass, and one map after the other, as HRank's published code does it (`get_feature_hook`: a matrix
    operation for each image and channel in a list comprehension)."""

    def one_by_one(maps: Tensor) -> Tensor:
        return torch.tensor(
            [torch.linalg.svdvals(maps[b, k]).sum().item() for b in range(len(maps)) for k in range(maps.shape[1])]
        )

    _hooked(network, layers, batches, one_by_one)


@torch.no_grad()
def _hooked(network: nn.Module, layers: list[str], batches: list[Tensor], reduce: Callable[[Tensor], Tensor]) -> None:
    graph, nodes = activation_nodes(network, layers)

    def hook(output: Tensor) -> Tensor:
        reduce(output)
        return output

    runner = NodeHooks(network, graph, dict.fromkeys(nodes.values(), hook))
    for batch in batches:
        runner.run(batch)


@lru_cache
def measured() -> dict[str, float]:
    """Seconds of each way, measured in turns, so that a busy machine slows all of them."""
    network, layers, batches = setting()
    peers = {"svdvals": svdvals_pass, "loop": loop_pass}
    ways: dict[str, Callable[[], object]] = {
        "forward": lambda: forward(network, batches),
        "scoring": lambda: score_layers(network, batches, layers),
        "stopped": lambda: score_layers(network, batches, layers, options=ScoreOptions(stable=STABLE)),
    }
    for way in ("forward", "scoring"):
        ways[way]()  # loads the kernel
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(REPEATS):
        for way, run in ways.items():
            found[way] = min(found[way], seconds(run, 1))
    for peer, images in SLOW_IMAGES.items():
        few = [batches[0][:images]]
        share = sum(map(len, batches)) / images
        found[peer] = share * seconds(partial(peers[peer], network, layers, few), 1)
    stopped = measure_scores(network, batches, layers, options=ScoreOptions(stable=STABLE))
    found["stopped_images"] = next(iter(stopped.values())).samples
    return found


def _rows(found: dict[str, float]) -> Iterator[Row]:
    own, images = found["scoring"], BATCHES * BATCH
    notes = {
        "forward": f"{images} images, forward pass included; {found['stopped_images']:.0f} images until the ranking is "
        f"stable ({STABLE}): {found['stopped'] / found['forward']:.2f} x",
        "svdvals": f"torch.linalg.svdvals of each layer's maps, measured on {SLOW_IMAGES['svdvals']} images",
        "loop": f"svdvals of one map after the other, measured on {SLOW_IMAGES['loop']} images",
    }
    for peer, note in notes.items():
        yield Row(
            name=f"eap_scoring_over_{peer}",
            value=own,
            unit="s",
            peer=peer,
            peer_value=found[peer],
            ratio=own / found[peer],
            note=f"{note}; {torch.get_num_threads()} threads",
        )


@benchmark("eap_scoring_over_forward", "eap_scoring_over_svdvals", "eap_scoring_over_loop")
def scoring_speed() -> list[Row]:
    """Nuclear norms of all post-activation maps of ResNet-56, 5 x 128 images of 32x32."""
    return list(_rows(measured()))
