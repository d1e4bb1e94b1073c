"""CIFAR-10 and CIFAR-100: the official folders of Python pickles, read without running what a pickle may ask for."""

from __future__ import annotations

import io
import pickle
import tarfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cosim.data.dataset import Dataset, Split
from cosim.data.download import Progress, Remote, download
from cosim.data.sources import IMAGENET, Source, assemble, find_folder, require
from cosim.errors import ConfigError
from cosim.files import replace_file

_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_PIXELS = 3 * 32 * 32


class _Layout(NamedTuple):
    train: tuple[str, ...]
    test: str
    labels: str
    classes: int


CIFAR10 = Source(
    name="cifar10",
    folder="cifar-10-batches-py",
    address=_PAGE,
    remotes=(
        Remote(
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
        ),
    ),
)
CIFAR100 = Source(
    name="cifar100",
    folder="cifar-100-python",
    address=_PAGE,
    remotes=(
        Remote(
            "cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
            ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
        ),
    ),
)
_LAYOUTS = {
    "cifar10": _Layout(tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "labels", 10),
    "cifar100": _Layout(("train",), "test", "fine_labels", 100),
}


def load_cifar(
    source: Source, seed: int = 0, root: Path | None = None, *, fetch: bool = False, progress: Progress | None = None
) -> Dataset:
    """CIFAR-10 or CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels in three colours.

    Training batches that are missing are left out, and the data set's note says how many are there. Pixels are scaled
    with the constants of ImageNet, with which the widely used CIFAR-10 weights (akamaster/pytorch_resnet_cifar10) were
    trained; a network trained anew does not care.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

    Parameters
    ----------
    seed
        Decides which tenth of the training images is for validation.
    root
        Holds `cifar-10-batches-py` or `cifar-100-python`; default `$COSIM_DATA` or `data`.
    fetch
        Download and unpack the official archive where batches are missing.

    Raises
    ------
    ConfigError
        No training batch or the test batch is missing, or a batch is damaged; the message names the file.
    """
    layout, folder = _LAYOUTS[source.name], find_folder(source, root)
    if fetch and not all((folder / file).exists() for file in (*layout.train, layout.test)):
        _unpack(download(source.remotes[0], folder.parent, progress), folder, (*layout.train, layout.test))
    there = tuple(file for file in layout.train if (folder / file).exists())
    require(source, folder, (*(there or layout.train[:1]), layout.test))
    batches = [read_cifar_batch(folder / file, layout.labels) for file in there]
    train = Split(torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches]), IMAGENET)
    test = Split(*read_cifar_batch(folder / layout.test, layout.labels), IMAGENET)
    note = "" if there == layout.train else f"{len(there)} of {len(layout.train)} training batches"
    return assemble(source.name, (train, test), layout.classes, seed=seed, note=note)


def read_cifar_batch(path: Path, labels: str = "labels") -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 3, 32, 32] uint8 and labels [N] int64 of an official batch.

    Parameters
    ----------
    labels
        Key of the labels: "labels", "fine_labels" or "coarse_labels".

    Raises
    ------
    ConfigError
        The file is truncated, asks for anything but numbers, or holds no such images.
    """
    try:
        content = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise any kind
        raise ConfigError(f"{path}: is truncated or no CIFAR batch ({error}); delete it and fetch it again") from error
    pixels = content.get(b"data") if isinstance(content, dict) else None
    classes = content.get(labels.encode()) if isinstance(content, dict) else None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise ConfigError(f"{path}: holds no array [N, {_PIXELS}] of bytes under 'data'; give an official CIFAR batch")
    if not isinstance(classes, list) or len(classes) != len(pixels):
        raise ConfigError(
            f"{path}: holds no list of {len(pixels)} numbers under {labels!r}; give an official CIFAR batch"
        )
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy()), torch.tensor(classes, dtype=torch.int64)


class _PlainUnpickler(pickle.Unpickler):
    """Builds dicts, lists, numbers, bytes and numpy arrays; anything else a pickle names is refused, not imported."""

    _allowed = {  # noqa: RUF012  never changed
        ("multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes, as Python 3 writes them for Python 2
    }

    def find_class(self, module: str, name: str) -> Any:
        known = module in ("numpy.core.multiarray", "numpy._core.multiarray")
        key = ("multiarray" if known else module, name)
        if key not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._allowed[key]


def _unpack(archive: Path, folder: Path, files: tuple[str, ...]) -> None:
    """Write the batches of the archive; nothing else in it is touched."""
    with tarfile.open(archive) as tar:
        for file in files:
            member = tar.extractfile(f"{folder.name}/{file}")
            assert member is not None, "the md5 of the archive was checked"
            replace_file(folder / file, partial(Path.write_bytes, data=member.read()))
