"""The UCI handwritten digits that scikit-learn carries: 1,797 grey images of 8x8 pixels, ten classes."""

from __future__ import annotations

import numpy as np
import torch

from cosim.data.dataset import Dataset, Split


def load_digits(seed: int = 0) -> Dataset:
    """Split the digits 50/25/25 %, the same way for the same seed, each class in the same proportions.

    Pixels are shifted and scaled to zero mean and unit variance with the statistics of the train split only.

    Parameters
    ----------
    seed : int, >= 0
        Decides which image goes to which split.

    Returns
    -------
    Dataset
        899 train, 449 validation and 449 test images of shape [1, 8, 8].

    Notes
    -----
    Source: UCI Machine Learning Repository, "Optical Recognition of Handwritten Digits" (test part), as embedded in
    scikit-learn.
    """
    from sklearn.datasets import load_digits as sklearn_digits  # scikit-learn takes a second to import

    raw = sklearn_digits()
    images, labels = raw.images.astype(np.float32)[:, None], raw.target.astype(np.int64)
    train, validation, test = _deal(labels, seed)
    mean, std = images[train].mean(), images[train].std()
    scaled = torch.from_numpy((images - mean) / std)
    targets = torch.from_numpy(labels)

    def split(part: np.ndarray) -> Split:
        return Split(scaled[part], targets[part])

    return Dataset("digits", split(train), split(validation), split(test), classes=10, input_shape=(1, 8, 8))


def _deal(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deal the images like cards, class by class in random order: train, validation, train, test, and again."""
    rng = np.random.default_rng(seed)
    by_class = np.lexsort((rng.random(len(labels)), labels))
    train, validation, test = by_class[0::2], by_class[1::4], by_class[3::4]
    return rng.permutation(train), rng.permutation(validation), rng.permutation(test)
