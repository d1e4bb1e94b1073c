"""Data and judging: the loader against a per-image Pillow pipeline, evaluate against the plainest loop."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.registry import Row, benchmark
from cosim.data import Augmentation, Dataset, Loader, Split, load_dataset, load_synthetic
from cosim.errors import ConfigError
from cosim.networks import build_network
from cosim.training import evaluate, recalibrate_batchnorm

IMAGES = 10_000
BATCH = 128
REPEATS = 3
WORKERS = 2


class _PerImage(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """What a training script does to an image: pad, crop, flip, to tensor, normalise, one at a time, with Pillow."""

    def __init__(self, split: Split) -> None:
        from PIL import Image

        assert split.normalization is not None
        self.images = [
            Image.fromarray(np.ascontiguousarray(pixels)) for pixels in split.images.permute(0, 2, 3, 1).numpy()
        ]
        self.labels = split.labels.tolist()
        self.mean = torch.tensor(split.normalization.mean)[:, None, None]
        self.std = torch.tensor(split.normalization.std)[:, None, None]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, ImageOps

        image = ImageOps.expand(self.images[index], 4)
        left, top = random.randint(0, 8), random.randint(0, 8)
        image = image.crop((left, top, left + 32, top + 32))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(self.mean).div_(self.std), self.labels[index]


@benchmark("loader_over_pil")
def loader_speed() -> list[Row]:
    """An epoch of augmented 32x32 images in this process, against Pillow in this process and in two workers."""
    split = _cifar_like().train
    loader = Loader(split, BATCH, seed=0, augmentation=Augmentation())
    plain = _PerImage(split)
    peers = {
        f"Pillow, {workers or 'no'} workers": torch.utils.data.DataLoader(
            plain, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        for workers in (0, WORKERS)
    }
    ours, theirs = float("inf"), dict.fromkeys(peers, float("inf"))
    for epoch in range(REPEATS):
        ours = min(ours, _seconds(partial(_exhaust, loader.epoch(epoch))))
        for name, peer in peers.items():
            theirs[name] = min(theirs[name], _seconds(partial(_exhaust, peer)))
    best = min(theirs, key=lambda name: theirs[name])
    rates = len(split) / ours, len(split) / theirs[best]
    return [
        Row(
            name="loader_over_pil",
            value=rates[0],
            unit="images/s",
            peer=best,
            peer_value=rates[1],
            ratio=rates[0] / rates[1],
            note=f"batch {BATCH}, crop and flip, {torch.get_num_threads()} threads",
        )
    ]


@benchmark("evaluate_over_plain")
def evaluate_speed() -> list[Row]:
    """ResNet-20 on 10,000 images: ours against a loop in the default layout with batches of 128."""
    split = _cifar_like().test
    network = build_network("resnet20_cifar").eval()
    recalibrate_batchnorm(network, split, images=512)
    ours = theirs = float("inf")
    for _ in range(REPEATS):
        ours = min(ours, _seconds(lambda: evaluate(network, split)))
        theirs = min(theirs, _seconds(lambda: plain_evaluate(network, split)))
    difference = abs(evaluate(network, split) - plain_evaluate(network, split)) * len(split)
    assert difference <= 2, f"{difference:g} images are judged differently: ties of a random network explain one or two"
    rates = len(split) / ours, len(split) / theirs
    return [
        Row(
            name="evaluate_over_plain",
            value=rates[0],
            unit="images/s",
            peer="plain loop",
            peer_value=rates[1],
            ratio=rates[0] / rates[1],
            note=f"ResNet-20, {len(split):,} images, {torch.get_num_threads()} threads",
        )
    ]


def plain_evaluate(network: nn.Module, split: Split) -> float:
    """The loop that everybody writes."""
    assert split.normalization is not None
    mean = torch.tensor(split.normalization.mean)[:, None, None]
    std = torch.tensor(split.normalization.std)[:, None, None]
    network.eval()
    hits = 0
    with torch.no_grad():
        for start in range(0, len(split), BATCH):
            images = (split.images[start : start + BATCH].float() / 255 - mean) / std
            hits += int((network(images).argmax(1) == split.labels[start : start + BATCH]).sum())
    return hits / len(split)


def _cifar_like() -> Dataset:
    """CIFAR-10 where it is, else made-up images of its shape: 10,000 for training and for test."""
    try:
        return load_dataset("cifar10")
    except ConfigError:
        return load_synthetic(images=4 * IMAGES)


def _exhaust(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
