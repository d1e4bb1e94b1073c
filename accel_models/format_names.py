"""Storage formats by name, as accelerator files write them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from accel_models.errors import InvalidInputError, UnknownNameError
from accel_models.formats import CSC, CSR, Bitmask, BlockedNM, CoordinateList, Dense, Format, KofNIndex, RunLength
from accel_models.hierarchical import Hierarchical

FORMATS: Mapping[str, Callable[..., Format]] = {
    "dense": Dense,
    "bitmask": Bitmask,
    "run_length": RunLength,
    "coordinate_list": CoordinateList,
    "csr": CSR,
    "csc": CSC,
    "blocked_nm": BlockedNM,
    "k_of_n": KofNIndex,
    "hierarchical": Hierarchical.of,
}
"""Name -> what makes the format from its options; `hierarchical` takes `text`, such as "UOP CP"."""


def make_format(name: str, **options: Any) -> Format:
    """The format of a name, such as `make_format("run_length", run_bits=5)`.

    Raises
    ------
    UnknownNameError
        No such format; names the nearest.
    InvalidInputError
        An option that the format does not have, is missing, or is out of range.
    """
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1, cutoff=0.0)[0]
        raise UnknownNameError(f"storage format {name!r}; nearest: {near!r}; known: {', '.join(FORMATS)}")
    try:
        return FORMATS[name](**options)
    except TypeError as error:
        raise InvalidInputError(f"storage format {name!r}: {str(error).split('() ')[-1]}") from error
