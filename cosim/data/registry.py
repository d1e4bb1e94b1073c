"""The data sets that ship, by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from cosim.data.dataset import Dataset
from cosim.data.digits import load_digits
from cosim.errors import ConfigError

_DATASETS: dict[str, Callable[[int], Dataset]] = {"digits": load_digits}


def dataset_names() -> tuple[str, ...]:
    """Names that `load_dataset` knows."""
    return tuple(_DATASETS)


def load_dataset(name: str, seed: int = 0) -> Dataset:
    """Load a data set; the same seed gives the same splits.

    Raises
    ------
    ConfigError
        No data set has this name.
    """
    if name not in _DATASETS:
        near = get_close_matches(name, _DATASETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"data set {name!r} is unknown; did you mean {near!r}? Known: {', '.join(_DATASETS)}")
    return _DATASETS[name](seed)
