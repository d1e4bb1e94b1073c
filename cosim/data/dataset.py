"""Split and Dataset: labelled images held as tensors, so that a batch is an index."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images.

    Parameters
    ----------
    images : Tensor [N, C, H, W], float32
        Scaled images.
    labels : Tensor [N], int64
        Class of each image, from 0.

    Raises
    ------
    ValueError
        The two do not have the same length.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels; give one label per image")

    def __len__(self) -> int:
        return len(self.labels)


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
