"""Where the files of a data set lie, and what is said when they do not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cosim.data.dataset import Dataset, Normalization, Split
from cosim.data.download import Progress, Remote, download
from cosim.errors import ConfigError

VALIDATION_SHARE = 0.1
"""Of the official training images, class by class: the usual 45,000 / 5,000 of CIFAR-10 (He et al., arXiv 1512.03385,
section 4.2)."""


@dataclass(frozen=True)
class Source:
    """A data set that is fetched as files."""

    name: str
    folder: str
    """Below the root."""
    address: str
    """The official page or folder."""
    remotes: tuple[Remote, ...]


def default_root() -> Path:
    """`$COSIM_DATA`, or `data` in the working directory."""
    return Path(os.environ.get("COSIM_DATA") or "data")


def find_folder(source: Source, root: Path | None) -> Path:
    """The folder of a data set below the root; the root itself where it bears the folder's name."""
    root = default_root() if root is None else Path(root)
    tail = Path(source.folder).parts
    return root if root.parts[-len(tail) :] == tail else root / source.folder


def require(source: Source, folder: Path, files: tuple[str, ...]) -> None:
    """Refuse a folder without these files.

    Raises
    ------
    ConfigError
        The message names data set, folder, the first missing file and what to do.
    """
    for file in files:
        if not (folder / file).is_file():
            raise ConfigError(
                f"data set {source.name!r}: {folder / file} is missing; fetch it from {source.address} into {folder}, "
                "add --download, or name another folder ($COSIM_DATA)"
            )


def fetch_all(source: Source, folder: Path, progress: Progress | None) -> list[Path]:
    """Download every file of a source."""
    return [download(remote, folder, progress) for remote in source.remotes]


def deal(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Part the images class by class, by chance: (the larger part, `share` of them), each in random order.

    Parameters
    ----------
    labels : [N], int
    share : in (0, 1)
    """
    rng = np.random.default_rng(seed)
    by_class = np.lexsort((rng.random(len(labels)), labels))
    ranks = np.arange(len(labels))
    chosen = np.floor((ranks + 1) * share) > np.floor(ranks * share)  # evenly spread over the sorted images
    return rng.permutation(by_class[~chosen]), rng.permutation(by_class[chosen])


def assemble(name: str, official: tuple[Split, Split], classes: int, *, seed: int, note: str = "") -> Dataset:
    """A Dataset of the official training and test split; validation images come from the training split."""
    whole, test = official
    train, validation = deal(whole.labels.numpy(), VALIDATION_SHARE, seed)

    channels, height, width = whole.images.shape[1:]
    own, held = (whole.part(torch.from_numpy(index)) for index in (train, validation))
    return Dataset(name, own, held, test, classes, (channels, height, width), note)


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The constants of torchvision's checkpoints, and of widely used CIFAR-10 weights."""
