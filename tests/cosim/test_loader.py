"""Batches: every image once, crops and flips as a slow plain loop makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cosim.data import Augmentation, Batch, Loader, Normalization, Split

CONSTANTS = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (21, 3, 7, 5), dtype=torch.uint8, generator=generator)  # no black: that is padding
    return Split(pixels, torch.arange(21) % 4, CONSTANTS)


def _epoch(split: Split, number: int = 0, batch_size: int = 4, seed: int = 0, **augmentation: object) -> list[Batch]:
    chosen = Augmentation(**augmentation) if augmentation else None  # type: ignore[arg-type]
    return list(Loader(split, batch_size, seed=seed, augmentation=chosen).epoch(number))


def test_every_image_comes_once_with_its_label(split):
    batches = _epoch(split, padding=2, flip=True)
    positions = torch.cat([batch.positions for batch in batches])
    assert sorted(positions.tolist()) == list(range(21))
    assert positions.tolist() != list(range(21))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), split.labels[positions])


def test_a_last_batch_of_one_image_joins_its_neighbour(split):
    assert [len(batch.labels) for batch in _epoch(split)] == [4, 4, 4, 4, 5]
    assert [len(batch.labels) for batch in _epoch(split, batch_size=9)] == [9, 9, 3]


def test_without_augmentation_images_are_those_of_the_split(split):
    for batch in _epoch(split):
        assert torch.equal(batch.images, split.batch(batch.positions))


def _candidates(image: Tensor, padding: int, flip: bool) -> np.ndarray:
    """Every crop and its mirror image, one after the other: [crops, C, H, W]; the slow plain way."""
    channels, height, width = image.shape
    canvas = np.zeros((channels, height + 2 * padding, width + 2 * padding), np.uint8)
    canvas[:, padding : padding + height, padding : padding + width] = image.numpy()
    found = []
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = canvas[:, top : top + height, left : left + width]
            found += [crop, crop[:, :, ::-1]] if flip else [crop]
    return np.stack(found)


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (3, False), (0, True)])
def test_augmented_images_are_crops_of_the_padded_image_or_mirrored_ones(split, padding, flip):
    mean, std = (torch.tensor(values)[:, None, None] for values in (CONSTANTS.mean, CONSTANTS.std))
    kinds = set()
    for number in range(20):
        for batch in _epoch(split, number, padding=padding, flip=flip):
            pixels = ((batch.images * std + mean) * 255).round().to(torch.uint8)
            for image, position in zip(pixels, batch.positions.tolist(), strict=True):
                same = (_candidates(split.images[position], padding, flip) == image.numpy()).all((1, 2, 3))
                assert same.any()
                kinds.add(int(same.argmax()))
    assert len(kinds) == (2 * padding + 1) ** 2 * (1 + flip)  # 420 draws of at most 50 kinds


def test_float_images_are_augmented_too(split):
    scaled = Split(split.batch(slice(None)), split.labels)
    pixels, floats = (_epoch(each, padding=0, flip=True) for each in (split, scaled))
    for ours, other in zip(pixels, floats, strict=True):
        torch.testing.assert_close(ours.images, other.images)


def test_batches_hang_on_seed_and_epoch_only(split):
    loader = Loader(split, 4, seed=0, augmentation=Augmentation(2))
    first = [torch.cat([batch.images for batch in loader.epoch(number)]) for number in (3, 0, 3)]
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    other = torch.cat([batch.images for batch in _epoch(split, 3, seed=1, padding=2)])
    assert not torch.equal(first[0], other)
    before = torch.get_rng_state()
    list(loader.epoch(1))
    assert torch.equal(before, torch.get_rng_state())


def test_images_are_ready_for_convolutions(split):
    for batch in (*_epoch(split), *_epoch(split, padding=2)):
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_a_negative_padding_is_refused():
    with pytest.raises(ValueError, match="padding is -1"):
        Augmentation(padding=-1)
