"""Batches of a split, shuffled and augmented, fast enough that a small network never waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor

from cosim.data.dataset import Split


@dataclass(frozen=True)
class Augmentation:
    """Random crops of the padded image, and mirrored images.

    Source: Lee et al., arXiv 1409.5185, section 3.2; used by He et al., arXiv 1512.03385, section 4.2.

    Raises
    ------
    ValueError
        The padding is negative.
    """

    padding: int = 4
    """Black pixels (bytes of 0, scaled as all others) on each side before an image is cut out, >= 0."""
    flip: bool = True
    """Mirror every second image, by chance."""

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"augmentation: padding is {self.padding}; it must be at least 0")


class Batch(NamedTuple):
    """A few images of a split."""

    images: Tensor
    """[n, C, H, W] float32, as a network takes them."""
    labels: Tensor
    """[n] int64."""
    positions: Tensor
    """[n] int64, on the CPU: which images of the split they are."""


class Loader:
    """The batches of each epoch; a pure function of (seed, epoch), whatever was read before.

    Augmentation copies whole rows of the images, padded and mirrored once at the start: an image that is cut out is H
    runs of W x C bytes. The set in memory is then 2 (H + 2p)(W + 2p) C bytes an image: 9.4 KB for CIFAR-10.

    Parameters
    ----------
    split
        Stays where it is; batches are made on the same device.
    batch_size : int, >= 1
        A last batch of one image joins the one before it (batch normalisation needs two).
    seed : int
        Order of the images, crops and flips.
    augmentation
        Nothing by default.
    """

    def __init__(self, split: Split, batch_size: int, *, seed: int, augmentation: Augmentation | None = None) -> None:
        self.split, self.batch_size, self.seed, self.augmentation = split, batch_size, seed, augmentation
        self._canvas = None if augmentation is None else _Canvas(split, augmentation)

    def epoch(self, number: int, order: Tensor | None = None) -> Iterator[Batch]:
        """Every image once.

        Parameters
        ----------
        number : int, >= 0
            The epoch: each has crops, flips and, if none is given, an order of its own.
        order : Tensor [N], int64, optional
            Order of the images.
        """
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
        if order is None:
            order = torch.randperm(len(self.split), generator=generator)
        corners = None if self._canvas is None else self._canvas.draw(order, generator)
        done = 0
        for index in cut_batches(order, self.batch_size):
            if corners is None or self._canvas is None:
                images = self.split.batch(index.to(self.split.images.device))
            else:
                images = self._canvas.cut(corners[done : done + len(index)])
            done += len(index)
            yield Batch(images, self.split.labels[index.to(self.split.labels.device)], index)


def cut_batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """The order in pieces; a last piece of one image joins the one before it."""
    pieces = list(order.split(batch_size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


class _Canvas:
    """Padded images, and behind them their mirror images, as one long run of rows [H, W, C]."""

    def __init__(self, split: Split, augmentation: Augmentation) -> None:
        images, self.augmentation = split.images, augmentation
        self.count, self.channels, self.height, self.width = images.shape
        padded = F.pad(images, (augmentation.padding,) * 4).permute(0, 2, 3, 1)
        canvas = torch.cat([padded, padded.flip(2)]) if augmentation.flip else padded.contiguous()
        self.row = canvas.shape[2] * self.channels
        self.image = canvas.shape[1] * self.row
        run = self.width * self.channels
        self.runs = canvas.view(-1).as_strided((canvas.numel() - run + 1, run), (1, 1))  # a run from every element on
        self.lines = torch.arange(self.height, device=images.device) * self.row
        self.factors: tuple[Tensor, Tensor] | None = None
        if images.dtype == torch.uint8:
            scale, shift = split.pixel_factors()
            self.factors = scale.repeat(self.width), shift.repeat(self.width)

    def draw(self, order: Tensor, generator: torch.Generator) -> Tensor:
        """First element of each image's cut-out, in the order given."""
        count, reach = len(order), 2 * self.augmentation.padding + 1
        down, right = torch.randint(0, reach, (2, count), generator=generator)
        mirrored = torch.randint(0, 2 if self.augmentation.flip else 1, (count,), generator=generator)
        corners = (mirrored * self.count + order) * self.image + down * self.row + right * self.channels
        return corners.to(self.lines.device)

    def cut(self, corners: Tensor) -> Tensor:
        """The images that begin there, scaled: [n, C, H, W] in the channels_last memory format."""
        images = self.runs.index_select(0, (corners[:, None] + self.lines).view(-1))
        if self.factors is not None:
            scale, shift = self.factors
            scaled = torch.empty(images.shape, device=images.device)
            images = torch.addcmul(shift, scaled.copy_(images), scale, out=scaled)
        return images.view(len(corners), self.height, self.width, self.channels).permute(0, 3, 1, 2)
