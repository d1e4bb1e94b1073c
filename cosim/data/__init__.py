"""Data sets as tensors: `load_dataset(name, seed)` returns a Dataset of three splits."""

from cosim.data.dataset import Dataset, Split
from cosim.data.digits import load_digits
from cosim.data.registry import dataset_names, load_dataset

__all__ = ["Dataset", "Split", "dataset_names", "load_dataset", "load_digits"]
