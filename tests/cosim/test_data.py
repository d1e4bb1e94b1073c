import subprocess
import sys

import pytest
import torch

from cosim.data import Split, dataset_names, load_dataset, load_digits
from cosim.errors import ConfigError


@pytest.fixture(scope="module")
def digits():
    return load_digits(seed=0)


def _keys(split):
    return {image.numpy().tobytes() for image in split.images}


def test_digits_are_split_in_half_and_two_quarters(digits):
    assert [len(part) for part in (digits.train, digits.validation, digits.test)] == [899, 449, 449]
    assert digits.train.images.shape == (899, *digits.input_shape)
    assert digits.train.images.dtype == torch.float32
    assert digits.train.labels.dtype == torch.int64


def test_no_image_is_in_two_splits(digits):
    train, validation, test = map(_keys, (digits.train, digits.validation, digits.test))
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert len(train | validation | test) > 1700  # the embedded set repeats few images, if any


def test_every_class_has_its_share_of_every_split(digits):
    whole = sum(part.labels.bincount() for part in (digits.train, digits.validation, digits.test))
    for part, share in ((digits.train, 0.5), (digits.validation, 0.25), (digits.test, 0.25)):
        assert (part.labels.bincount(minlength=digits.classes) - share * whole).abs().max() <= 1


def test_train_statistics_scale_all_splits(digits):
    assert digits.train.images.mean() == pytest.approx(0.0, abs=1e-5)
    assert digits.train.images.std(unbiased=False) == pytest.approx(1.0, abs=1e-5)
    assert digits.test.images.mean() != pytest.approx(0.0, abs=1e-5)


def test_images_of_a_split_are_in_random_order_of_classes(digits):
    assert len(digits.train.labels[:50].unique()) == 10


def test_same_seed_same_split_and_other_seed_other_split(digits):
    again, other = load_digits(seed=0), load_digits(seed=1)
    assert torch.equal(again.train.images, digits.train.images)
    assert torch.equal(again.test.labels, digits.test.labels)
    assert _keys(other.train) != _keys(digits.train)


def test_labels_belong_to_their_images(digits):
    """Images of a class are closer to the mean image of their class than to the mean of all."""
    images, labels = digits.validation.images, digits.validation.labels
    means = torch.stack([digits.train.images[digits.train.labels == c].mean(0) for c in range(10)])
    nearest = torch.cdist(images.flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == labels).float().mean() > 0.8


def test_registry_loads_by_name():
    assert "digits" in dataset_names()
    assert load_dataset("digits", seed=3).name == "digits"


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'digitz' is unknown; did you mean 'digits'"):
        load_dataset("digitz")


def test_images_without_labels_are_refused():
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        Split(torch.zeros(3, 1, 8, 8), torch.zeros(2, dtype=torch.int64))


def test_importing_the_package_does_not_import_scikit_learn():
    code = "import sys, cosim.data; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
