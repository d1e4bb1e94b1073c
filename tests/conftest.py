"""Shared fixtures: small trainings run on one thread, as the search's workers do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference results and data beside the checkout; tests that need it skip where it is absent."""
    path = Path(os.environ.get("COSIM_SHARED", Path(__file__).parents[2] / "shared"))
    if not path.is_dir():
        pytest.skip(f"{path} is absent: set COSIM_SHARED to the folder with reference/ and data/")
    return path
