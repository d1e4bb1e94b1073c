"""ImageFolder: a folder of images for each class, below `train` and `val`; needs Pillow."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosim.data.dataset import Dataset, Split
from cosim.data.sources import IMAGENET, assemble, default_root
from cosim.errors import ConfigError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
_RESIZE = 256 / 224
"""The shorter side before the centre is cut out, against the size that stays (as torchvision's reference does)."""
_MEMORY_SHARE = 0.5
"""Of the machine's memory: the whole set is held as bytes."""


def load_image_folder(
    seed: int = 0, root: Path | None = None, *, size: int = 224, per_class: int | None = None
) -> Dataset:
    """Read `root/train/CLASS/*.jpg` and `root/val/CLASS/*.jpg`, e.g. ImageNet or a part of it, into memory.

    Each image is scaled so that its shorter side is 8/7 of `size` (bilinear), and its centre is cut out. `test` holds
    the test images where it is there, else `val`; a tenth of `train` is for validation.

    Parameters
    ----------
    seed
        Decides which training images are for validation.
    root
        Default `$COSIM_DATA` or `data`.
    size : pixels, >= 1
        Height and width of the images.
    per_class : >= 1, optional
        Read only so many images of each class, the first by name.

    Raises
    ------
    ConfigError
        A folder is missing or empty, a class of the test images is unknown, an image is damaged, the set would take
        more than half of the memory, or Pillow is not installed.
    """
    root = default_root() if root is None else Path(root)
    train = _list_images(root / "train", per_class)
    test_folder = next((root / name for name in ("test", "val") if (root / name).is_dir()), root / "val")
    test = _list_images(test_folder, per_class)
    classes = sorted(train)
    unknown = sorted(set(test) - set(classes))
    if unknown:
        raise ConfigError(f"{test_folder}: class {unknown[0]!r} has no training images in {root / 'train'}; add some")
    _check_memory(root, sum(map(len, (*train.values(), *test.values()))), size)
    splits = (_read_split(train, classes, size), _read_split(test, classes, size))
    return assemble("imagefolder", splits, len(classes), seed=seed)


def _list_images(folder: Path, per_class: int | None) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise ConfigError(
            f"data set 'imagefolder': {folder} is missing; make it, with a folder of images for each class"
        )
    found = {
        each.name: sorted(path for path in each.iterdir() if path.suffix.lower() in _SUFFIXES)[:per_class]
        for each in folder.iterdir()
        if each.is_dir()
    }
    empty = [name for name, paths in found.items() if not paths]
    if empty or not found:
        where = folder / empty[0] if empty else folder
        raise ConfigError(f"data set 'imagefolder': {where} holds no image ({', '.join(sorted(_SUFFIXES))}); add some")
    return found


def _check_memory(root: Path, images: int, size: int) -> None:
    need = images * 3 * size * size
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    if have is not None and need > _MEMORY_SHARE * have:
        raise ConfigError(
            f"{root}: {images:,} images of {size}x{size} pixels take {need / 2**30:.1f} GiB of {have / 2**30:.1f} GiB "
            "of memory; give fewer images (per_class) or a smaller size"
        )


def _read_split(paths: dict[str, list[Path]], classes: list[str], size: int) -> Split:
    listed = [(path, number) for number, name in enumerate(classes) for path in paths.get(name, ())]
    decode = _decoder(size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the interpreter's lock
        images = list(pool.map(decode, (path for path, _ in listed)))
    return Split(torch.stack(images), torch.tensor([number for _, number in listed]), IMAGENET)


def _decoder(size: int) -> Callable[[Path], Tensor]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError("data set 'imagefolder' needs Pillow: pip install 'cosim[images]'") from error

    def decode(path: Path) -> Tensor:
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's kinds for damaged files
            raise ConfigError(f"{path}: is truncated or no image ({error}); replace or delete it") from error
        scale = _RESIZE * size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    return decode
