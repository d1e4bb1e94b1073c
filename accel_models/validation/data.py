"""Where the reference results lie: a folder beside the project, not part of it."""

from __future__ import annotations

import os
from pathlib import Path

from accel_models.errors import InvalidInputError


def reference_file(name: str, origin: str, given: Path | None = None) -> Path:
    """The file or folder to compare with.

    Parameters
    ----------
    name : str
        Path inside `reference/`.
    origin : str
        Where the data comes from, for the message.
    given : Path, optional
        Taken as it is.

    Raises
    ------
    InvalidInputError
        Where there is none.
    """
    path = given if given is not None else reference_folder() / name
    if not path.exists():
        raise InvalidInputError(f"{path}: no such reference data; it comes from {origin}; name a copy with --data")
    return path


def reference_folder() -> Path:
    """`$COSIM_SHARED/reference`, by default `shared/reference` in the folder that holds the project."""
    shared = os.environ.get("COSIM_SHARED")
    return (Path(shared) if shared else Path(__file__).resolve().parents[3] / "shared") / "reference"
