"""Filters and channels with large prime factors on a row-stationary array."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from accel_models import Conv2d, Gemm, Workload, load_accelerator, simulate
from accel_models.cost import NetworkCost
from accel_models.goal import Goal
from accel_models.row_stationary_activity import padded
from accel_models.smooth import is_smooth, next_smooth

CONV = Conv2d(name="conv", k=32, c=32, p=16, q=16, r=3, s=3, padding=(1, 1))


def _cost(layer: Conv2d | Gemm, objective: Literal["energy", "latency", "edp"]) -> NetworkCost:
    workload = Workload(name="one", layers=(layer,))
    return simulate(load_accelerator("eyeriss_v1"), workload, goal=Goal(objective=objective))


@pytest.mark.parametrize(("filters", "channels"), [(31, 32), (32, 29), (23, 19)])
def test_a_prime_extent_costs_no_more_than_the_next_that_divides(filters: int, channels: int) -> None:
    layer = replace(CONV, k=filters, c=channels)
    larger = replace(CONV, k=next_smooth(filters), c=next_smooth(channels))
    assert _cost(layer, "energy").energy_pj <= _cost(larger, "energy").energy_pj
    assert _cost(layer, "latency").latency_cycles <= _cost(larger, "latency").latency_cycles


def test_padded_work_is_counted_and_named() -> None:
    cost = _cost(replace(CONV, k=31), "latency").layers[0].activity
    assert cost.mapping.endswith("; padded to 32 filters and 32 channels")
    assert cost.macs.done == CONV.macs // 32 * 31
    assert cost.accesses["dram"]["weight"].reads >= CONV.weight_elements


def test_layers_that_divide_are_left_alone_and_groups_stay_whole() -> None:
    assert padded(CONV) == [CONV]
    grouped = replace(CONV, k=44, c=52, groups=4)
    assert [(layer.k, layer.c) for layer in padded(grouped) if isinstance(layer, Conv2d)] == [
        (44, 52), (44, 56), (48, 52), (48, 56),
    ]  # fmt: skip
    gemm = Gemm(name="gemm", m=5, n=11, k=64)
    assert padded(gemm) == [gemm, replace(gemm, n=12)]


def test_the_next_smooth_number_is_the_least() -> None:
    for n in range(1, 400):
        found = next_smooth(n)
        assert found >= n
        assert is_smooth(found)
        assert not any(is_smooth(between) for between in range(n, found))
