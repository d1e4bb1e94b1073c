"""Split and Dataset: labelled images held as tensors, so that a batch is an index."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Shift and scale of each channel: (pixel / 255 - mean) / std.

    Raises
    ------
    ValueError
        The two are not of one length, or a std is not positive.
    """

    mean: tuple[float, ...]
    """One a channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    """One a channel, > 0, of pixels in [0, 1]."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(f"normalization: mean {self.mean} and std {self.std}: give one of each a channel, std > 0")

    def factors(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """(scale, shift), each [C] float32, so that a byte becomes scale x byte + shift."""
        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float64)
        return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images.

    Parameters
    ----------
    images : Tensor [N, C, H, W], float32 or uint8
        Scaled images, or pixels as they are in the file: a quarter of the memory; `batch` scales them.
    labels : Tensor [N], int64
        Class of each image, from 0.
    normalization
        What `batch` does to pixels; without it they become numbers in [0, 1]. Not for float32 images.

    Raises
    ------
    ValueError
        The lengths differ, or the normalization does not fit the images.
    """

    images: Tensor
    labels: Tensor
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels; give one label per image")
        if self.normalization is None:
            return
        if self.images.dtype != torch.uint8:
            raise ValueError(f"images of {self.images.dtype} are scaled already; give no normalization")
        if len(self.normalization.mean) != self.images.shape[1]:
            channels = len(self.normalization.mean)
            raise ValueError(f"normalization of {channels} channels for images of {self.images.shape[1]}")

    def part(self, index: Tensor | slice) -> Split:
        """Some of the images, copied unless the index is a slice."""
        return Split(self.images[index], self.labels[index], self.normalization)

    def joined(self, other: Split) -> Split:
        """These images and then those of another split of the data set."""
        images, labels = torch.cat((self.images, other.images)), torch.cat((self.labels, other.labels))
        return Split(images, labels, self.normalization)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor | slice) -> Tensor:
        """Images as a network takes them.

        Returns
        -------
        Tensor [n, C, H, W], float32
            In the channels_last memory format where pixels were scaled.
        """
        images = self.images[index]
        if images.dtype != torch.uint8:
            return images
        scale, shift = self.pixel_factors()
        scaled = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=torch.channels_last)
        scaled.copy_(images)
        return torch.addcmul(shift[:, None, None], scaled, scale[:, None, None], out=scaled)

    def pixel_factors(self) -> tuple[Tensor, Tensor]:
        """(scale, shift), each [C] float32: a byte becomes scale x byte + shift."""
        channels = self.images.shape[1]
        plain = Normalization((0.0,) * channels, (1.0,) * channels)
        return (self.normalization or plain).factors(self.images.device)

    def to(self, device: torch.device) -> Split:
        """The same split on a device; float32 images in the memory format in which convolutions are fastest."""
        images = self.images.to(device)
        if images.dtype != torch.uint8 and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return Split(images, self.labels.to(device), self.normalization)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three disjoint splits: train to learn, validation to choose, test to report."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    """Number of classes."""
    input_shape: tuple[int, int, int]
    """(C, H, W) of one image."""
    note: str = ""
    """What is missing, e.g. "1 of 5 training batches"."""

    @property
    def summary(self) -> str:
        """Name, number of images of each split, and what is missing."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        counts = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
        return f"{self.name}: {counts} images" + (f" ({self.note})" if self.note else "")
