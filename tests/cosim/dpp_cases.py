"""What the tests of learned masks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cosim.pruning.plan import MaskPlan


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors of a few hundred values only wait for a second thread. A test module that imports it has it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(k: int, n: int) -> MaskPlan:
    return MaskPlan(granularity="weight", k=k, n=n)


def kernels(k: int, n: int) -> MaskPlan:
    return MaskPlan(granularity="kernel", k=k, n=n)
