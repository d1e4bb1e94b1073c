"""Data sets that lie in files: read, incomplete, damaged, made up; pixels as bytes."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cosim.data import Dataset, Normalization, Split, load_dataset, load_image_folder, load_synthetic
from cosim.data.cifar import read_cifar_batch
from cosim.errors import ConfigError


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 12)):
        _write_idx(folder / f"{part}-images-idx3-ubyte.gz", _pixels(count, 28, 28))
        _write_idx(folder / f"{part}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


def _write_batch(path: Path, count: int, labels: str = "labels") -> None:
    """As the official files: pickled by Python 2, which knew only bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {labels.encode(): [i % 10 for i in range(count)], b"data": _pixels(count, 3072), b"batch_label": b"x"}
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    for name in ("data_batch_1", "data_batch_3", "test_batch"):
        _write_batch(tmp_path / "cifar-10-batches-py" / name, 50)
    return tmp_path


def _rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def test_mnist_is_read_from_its_official_files(mnist):
    data = load_dataset("mnist", root=mnist)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [36, 4, 12]
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(_pixels(12, 28, 28)))
    assert data.test.labels.tolist() == [i % 10 for i in range(12)]
    assert (data.input_shape, data.classes, data.note) == ((1, 28, 28), 10, "")
    assert data.train.images.dtype == torch.uint8
    assert not _rows(data.train) & _rows(data.validation)


def test_fashion_mnist_has_a_folder_and_constants_of_its_own(mnist):
    (mnist / "FashionMNIST").mkdir()
    (mnist / "MNIST" / "raw").rename(mnist / "FashionMNIST" / "raw")
    data = load_dataset("fashion_mnist", root=mnist)
    assert data.train.normalization == Normalization((0.2860,), (0.3530,))


def test_the_root_is_an_environment_variable_or_the_folder_data(mnist, monkeypatch):
    monkeypatch.setenv("COSIM_DATA", str(mnist))
    assert len(load_dataset("mnist").test) == 12
    monkeypatch.delenv("COSIM_DATA")
    (mnist / "data").mkdir()
    (mnist / "MNIST").rename(mnist / "data" / "MNIST")
    monkeypatch.chdir(mnist)
    assert len(load_dataset("mnist").test) == 12


def test_another_seed_validates_on_other_images(mnist):
    assert _rows(load_dataset("mnist", 0, root=mnist).validation) != _rows(
        load_dataset("mnist", 1, root=mnist).validation
    )


def test_the_batches_of_cifar_that_are_there_are_read_and_counted(cifar10):
    data = load_dataset("cifar10", root=cifar10)
    assert data.summary == "cifar10: 90 train, 10 validation, 50 test images (2 of 5 training batches)"
    assert torch.equal(data.test.images, torch.from_numpy(_pixels(50, 3072).reshape(50, 3, 32, 32)))
    assert load_dataset("cifar10", root=cifar10 / "cifar-10-batches-py").summary == data.summary


def test_every_class_has_its_share_of_the_validation_images(cifar10):
    assert load_dataset("cifar10", root=cifar10).validation.labels.bincount().tolist() == [1] * 10


def test_cifar100_has_fine_labels(tmp_path):
    for name in ("train", "test"):
        _write_batch(tmp_path / "cifar-100-python" / name, 20, "fine_labels")
    data = load_dataset("cifar100", root=tmp_path)
    assert (data.classes, len(data.test), data.note) == (100, 20, "")


@pytest.mark.parametrize(
    ("name", "file", "address"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz", "http://yann.lecun.com"),
        ("cifar10", "cifar-10-batches-py/data_batch_1", "https://www.cs.toronto.edu"),
        ("cifar100", "cifar-100-python/train", "https://www.cs.toronto.edu"),
    ],
)
def test_missing_files_are_named_with_folder_address_and_remedy(tmp_path, name, file, address):
    with pytest.raises(ConfigError) as refused:
        load_dataset(name, root=tmp_path)
    text = str(refused.value)
    assert str(tmp_path / file) in text
    assert address in text
    assert "--download" in text
    assert "\n" not in text


def _damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "other": b"something else"}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "other"])
def test_damaged_idx_files_are_refused_by_name(mnist, how):
    _damage(mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz", how)
    with pytest.raises(ConfigError, match=r"t10k-images-idx3-ubyte\.gz: (is|holds)"):
        load_dataset("mnist", root=mnist)


def test_an_idx_file_with_too_few_bytes_is_refused(mnist):
    path = mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-3]))
    with pytest.raises(ConfigError, match=r"holds 37 bytes for shape \[40\], it takes 40"):
        load_dataset("mnist", root=mnist)


def test_labels_of_other_images_are_refused(mnist):
    _write_idx(mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz", np.zeros(7, np.uint8))
    with pytest.raises(ConfigError, match="40 train images but 7 labels"):
        load_dataset("mnist", root=mnist)


@pytest.mark.parametrize("how", ["cut", "empty", "other"])
def test_damaged_cifar_batches_are_refused_by_name(cifar10, how):
    _damage(cifar10 / "cifar-10-batches-py" / "data_batch_3", how)
    with pytest.raises(ConfigError, match="data_batch_3: is truncated or no CIFAR batch"):
        load_dataset("cifar10", root=cifar10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no array"),
        ({b"data": np.zeros((2, 5), np.uint8)}, "no array"),
        ({b"data": _pixels(2, 3072)}, "no list"),
    ],
)
def test_pickles_without_images_or_labels_are_refused(tmp_path, content, message):
    (tmp_path / "b").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ConfigError, match=message):
        read_cifar_batch(tmp_path / "b")


def test_a_batch_that_asks_for_code_is_refused_and_does_not_run_it(tmp_path):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.mkdir, (tmp_path / "sprung",)  # type: ignore[return-value]

    (tmp_path / "b").write_bytes(pickle.dumps({b"data": Trap()}))
    with pytest.raises(ConfigError, match="it asks for"):
        read_cifar_batch(tmp_path / "b")
    assert not (tmp_path / "sprung").exists()


def test_pixels_become_what_the_constants_say():
    pixels, constants = torch.from_numpy(_pixels(5, 3, 6, 4)), Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    split = Split(pixels, torch.zeros(5, dtype=torch.int64), constants)
    expected = (pixels.double() / 255 - torch.tensor(constants.mean)[:, None, None]) / torch.tensor(constants.std)[
        :, None, None
    ]
    torch.testing.assert_close(split.batch(torch.tensor([3, 1])).double(), expected[[3, 1]], rtol=0, atol=1e-5)
    plain = Split(pixels, split.labels).batch(slice(0, 2))
    torch.testing.assert_close(plain, pixels[:2] / 255)


@pytest.mark.parametrize(
    ("images", "constants", "message"),
    [
        (torch.zeros(2, 1, 3, 3), ((0.5,), (0.5,)), "scaled already"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), ((0.5, 0.5), (1.0, 1.0)), "2 channels for images of 1"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), ((0.5,), (0.0,)), "std > 0"),
    ],
)
def test_constants_that_do_not_fit_are_refused(images, constants, message):
    with pytest.raises(ValueError, match=message):
        Split(images, torch.zeros(2, dtype=torch.int64), Normalization(*constants))


def test_made_up_images_hang_on_the_seed_and_can_be_learned():
    data, again, other = load_synthetic(0), load_synthetic(0), load_synthetic(1)
    assert torch.equal(data.train.images, again.train.images)
    assert not torch.equal(data.train.images, other.train.images)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1000, 500, 500]
    means = torch.stack([data.train.batch(data.train.labels == c).mean(0) for c in range(10)])
    nearest = torch.cdist(data.test.batch(slice(None)).flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == data.test.labels).float().mean() > 0.9


def test_a_name_says_shape_and_classes_of_made_up_images():
    data = load_dataset("synthetic:1x12x20:7")
    assert (data.input_shape, data.classes) == ((1, 12, 20), 7)
    assert data.train.images.shape[1:] == (1, 12, 20)
    assert load_dataset("synthetic:1x12x20").classes == 10
    with pytest.raises(ConfigError, match="sizes of at least 1"):
        load_dataset("synthetic:0x4x4:3")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    pillow = pytest.importorskip("PIL.Image")
    for part, count in (("train", 10), ("val", 3)):
        for number, name in enumerate(("ant", "bee")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((20, 40, 3), 100 * number + i, np.uint8)
                pillow.fromarray(pixels).save(tmp_path / part / name / f"{i:02}.png")
    return tmp_path


def _classes(split: Split) -> Tensor:
    return (split.images[:, 0, 0, 0] >= 100).long()


def test_a_folder_of_images_is_read_with_its_classes(images):
    data: Dataset = load_image_folder(root=images, size=16)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [18, 2, 6]
    assert data.input_shape == (3, 16, 16)
    for split in (data.train, data.validation, data.test):
        assert torch.equal(_classes(split), split.labels)
    assert load_dataset("imagefolder", root=images).input_shape == (3, 224, 224)
    assert len(load_image_folder(root=images, size=16, per_class=1).test) == 2


def test_the_centre_of_an_image_is_cut_out(images):
    pillow = pytest.importorskip("PIL.Image")
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 40:88] = 200
    pillow.fromarray(pixels).save(images / "val" / "ant" / "00.png")
    image = load_image_folder(root=images, size=28).test.images[0]
    assert image.shape == (3, 28, 28)
    assert int(image[0, 14, 14]) == 200
    assert int(image.float().mean()) > 150  # 24 of the 28 columns that stay


def test_damaged_images_missing_folders_and_unknown_classes_are_refused(images):
    (images / "val" / "ant" / "00.png").write_bytes((images / "val" / "ant" / "00.png").read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"00\.png: is truncated or no image"):
        load_image_folder(root=images)
    (images / "val" / "cow").mkdir()
    with pytest.raises(ConfigError, match="cow holds no image"):
        load_image_folder(root=images)
    (images / "val" / "ant" / "00.png").rename(images / "val" / "cow" / "00.png")
    with pytest.raises(ConfigError, match="class 'cow' has no training images"):
        load_image_folder(root=images)
    with pytest.raises(ConfigError, match="train is missing"):
        load_image_folder(root=images / "val")


def test_a_set_that_does_not_fit_into_memory_is_refused(images):
    with pytest.raises(ConfigError, match=r"GiB of memory; give fewer images"):
        load_image_folder(root=images, size=200_000)
