"""Made-up images of any shape: for tests, timings and networks whose data cannot be here."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the usual name

from cosim.data.dataset import Dataset, Normalization, Split
from cosim.data.sources import deal
from cosim.errors import ConfigError

_PATTERN = 4
"""Each class has a pattern of so many patches a side."""
_NOISE = 0.25
"""Share of noise in a pixel; an assumption: learnable in an epoch, not at once."""


def load_synthetic(
    seed: int = 0, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, images: int = 2000
) -> Dataset:
    """Images of coarse random patterns, one a class, under noise; half train, a quarter each validation and test.

    Parameters
    ----------
    seed : decides patterns, noise and splits
    shape : (C, H, W), each >= 1
    classes : >= 1
    images : in all splits together, at least 4

    Raises
    ------
    ConfigError
        A size is out of range.
    """
    if min(shape) < 1 or classes < 1 or images < 4:
        raise ConfigError(
            f"data set 'synthetic': shape {shape}, {classes} classes, {images} images; give sizes of at least 1 and "
            "4 images"
        )
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, shape[0], _PATTERN, _PATTERN, generator=generator)
    labels = torch.arange(images) % classes
    pixels = torch.empty(images, *shape, dtype=torch.uint8)
    for index in torch.arange(images).split(256):  # float images only for a few at a time
        clean = F.interpolate(patterns[labels[index]], size=shape[1:])
        noise = torch.rand(clean.shape, generator=generator)
        pixels[index] = ((1 - _NOISE) * clean + _NOISE * noise).mul(255).byte()
    normalization = Normalization((0.5,) * shape[0], (0.25,) * shape[0])
    train, rest = deal(labels.numpy(), 0.5, seed)
    validation, test = np.array_split(rest, 2)

    def part(index: np.ndarray) -> Split:
        return Split(pixels[index], labels[index], normalization)

    return Dataset("synthetic", part(train), part(validation), part(test), classes, shape)
