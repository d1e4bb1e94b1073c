"""Data sets as tensors: `load_dataset(name, seed)` returns a Dataset of three splits, `Loader` its batches."""

from cosim.data.batches import Augmentation, Batch, Loader
from cosim.data.dataset import Dataset, Normalization, Split
from cosim.data.digits import load_digits
from cosim.data.folder import load_image_folder
from cosim.data.registry import dataset_names, load_dataset
from cosim.data.synthetic import load_synthetic

__all__ = [
    "Augmentation",
    "Batch",
    "Dataset",
    "Loader",
    "Normalization",
    "Split",
    "dataset_names",
    "load_dataset",
    "load_digits",
    "load_image_folder",
    "load_synthetic",
]
