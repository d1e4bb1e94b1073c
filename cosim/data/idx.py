"""MNIST and Fashion-MNIST: gzipped IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosim.data.dataset import Dataset, Normalization, Split
from cosim.data.download import Progress, Remote
from cosim.data.sources import Source, assemble, fetch_all, find_folder, require
from cosim.errors import ConfigError

_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_UBYTE = 0x08
"""Type of the elements, third byte of the header (http://yann.lecun.com/exdb/mnist/, "The IDX file format")."""


def _remotes(addresses: tuple[str, ...], md5s: tuple[str, ...]) -> tuple[Remote, ...]:
    return tuple(
        Remote(file, md5, tuple(address + file for address in addresses))
        for file, md5 in zip(_FILES, md5s, strict=True)
    )


MNIST = Source(
    name="mnist",
    folder="MNIST/raw",
    address="http://yann.lecun.com/exdb/mnist/",
    remotes=_remotes(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
)
"""PyTorch's copy comes first: the official server often refuses. The md5s are those of the official files."""

FASHION_MNIST = Source(
    name="fashion_mnist",
    folder="FashionMNIST/raw",
    address="https://github.com/zalandoresearch/fashion-mnist",
    remotes=_remotes(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
)

_NORMALIZATIONS = {
    "mnist": Normalization((0.1307,), (0.3081,)),
    "fashion_mnist": Normalization((0.2860,), (0.3530,)),
}
"""Mean and standard deviation of the training pixels."""


def load_idx(
    source: Source, seed: int = 0, root: Path | None = None, *, fetch: bool = False, progress: Progress | None = None
) -> Dataset:
    """MNIST or Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 grey pixels, ten classes.

    Sources: LeCun, Cortes, Burges, "The MNIST database of handwritten digits"; Xiao et al., arXiv 1708.07747.

    Parameters
    ----------
    seed
        Decides which tenth of the training images is for validation.
    root
        Holds `MNIST/raw` or `FashionMNIST/raw`; default `$COSIM_DATA` or `data`.
    fetch
        Download what is missing.

    Raises
    ------
    ConfigError
        A file is missing, damaged or does not fit its labels; the message names it.
    """
    folder = find_folder(source, root)
    if fetch:
        fetch_all(source, folder, progress)
    require(source, folder, _FILES)
    normalization = _NORMALIZATIONS[source.name]
    train, test = (_read_split(folder, part, normalization) for part in ("train", "t10k"))
    return assemble(source.name, (train, test), 10, seed=seed)


def _read_split(folder: Path, part: str, normalization: Normalization) -> Split:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", dims=3)[:, None]
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", dims=1).long()
    if len(images) != len(labels):
        raise ConfigError(f"{folder}: {len(images)} {part} images but {len(labels)} labels; fetch the files again")
    return Split(images, labels, normalization)


def read_idx(path: Path, dims: int) -> Tensor:
    """Bytes of a gzipped IDX file with that many dimensions.

    Raises
    ------
    ConfigError
        The file is truncated or no such file.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise ConfigError(f"{path}: is truncated or no gzip file ({error}); delete it and fetch it again") from error
    start = 4 + 4 * dims
    if len(content) < start or content[:4] != bytes((0, 0, _UBYTE, dims)):
        raise ConfigError(f"{path}: is no IDX file of bytes with {dims} dimensions; delete it and fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dims, 4))
    if len(content) - start != math.prod(shape):
        raise ConfigError(
            f"{path}: holds {len(content) - start:,} bytes for shape {list(shape)}, it takes {math.prod(shape):,}; "
            "delete it and fetch it again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())
