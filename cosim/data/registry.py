"""The data sets that ship, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from cosim.data.cifar import CIFAR10, CIFAR100, load_cifar
from cosim.data.dataset import Dataset
from cosim.data.digits import load_digits
from cosim.data.download import Progress
from cosim.data.folder import load_image_folder
from cosim.data.idx import FASHION_MNIST, MNIST, load_idx
from cosim.data.synthetic import load_synthetic
from cosim.errors import ConfigError


class _Request(NamedTuple):
    seed: int
    root: Path | None
    fetch: bool
    progress: Progress | None


def _idx(source: str) -> Callable[[_Request], Dataset]:
    chosen = {"mnist": MNIST, "fashion_mnist": FASHION_MNIST}[source]
    return lambda ask: load_idx(chosen, ask.seed, ask.root, fetch=ask.fetch, progress=ask.progress)


def _cifar(source: str) -> Callable[[_Request], Dataset]:
    chosen = {"cifar10": CIFAR10, "cifar100": CIFAR100}[source]
    return lambda ask: load_cifar(chosen, ask.seed, ask.root, fetch=ask.fetch, progress=ask.progress)


_DATASETS: dict[str, Callable[[_Request], Dataset]] = {
    "digits": lambda ask: load_digits(ask.seed),
    "mnist": _idx("mnist"),
    "fashion_mnist": _idx("fashion_mnist"),
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
    "imagefolder": lambda ask: load_image_folder(ask.seed, ask.root),
    "synthetic": lambda ask: load_synthetic(ask.seed),
}
_SYNTHETIC = re.compile(r"synthetic:(\d+)x(\d+)x(\d+)(?::(\d+))?")


def dataset_names() -> tuple[str, ...]:
    """Names that `load_dataset` knows."""
    return tuple(_DATASETS)


def load_dataset(
    name: str,
    seed: int = 0,
    *,
    root: Path | str | None = None,
    download: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Load a data set; the same seed gives the same splits.

    Parameters
    ----------
    name
        One of `dataset_names()`, or `synthetic:CxHxW` or `synthetic:CxHxW:CLASSES` for made-up images.
    root
        Folder that holds the files; default `$COSIM_DATA` or `data`. digits and synthetic need none.
    download
        Fetch what is missing from the official addresses.
    progress
        Hears of the download: file name, bytes here, bytes in all.

    Raises
    ------
    ConfigError
        No data set has this name, or its files are missing or damaged.
    """
    made_up = _SYNTHETIC.fullmatch(name)
    if made_up:
        channels, height, width, classes = (int(number or 10) for number in made_up.groups())
        return load_synthetic(seed, (channels, height, width), classes)
    if name not in _DATASETS:
        near = get_close_matches(name, _DATASETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"data set {name!r} is unknown; did you mean {near!r}? Known: {', '.join(_DATASETS)}")
    return _DATASETS[name](_Request(seed, None if root is None else Path(root), download, progress))
