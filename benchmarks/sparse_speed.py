"""Sparse arrays in `simulate`: a sweep of n:m over accelerators, and a network from its actual masks."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from accel_models.accelerator import Accelerator, load_accelerator
from accel_models.evaluate import simulate
from accel_models.layers import VectorOp
from accel_models.masks import Mask
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from benchmarks.design_speed import resnet50
from benchmarks.mask_speed import DENSITY, fastest, random_masks, weight_layers
from benchmarks.registry import Row, benchmark

ACCELERATORS = (
    "nm_systolic",
    "row_gather",
    "sparse_tensor_core_2_4",
    "dstc",
    "edge_skip_16x16",
    "edge_os_16x16",
)
RATIOS = ((1, 2), (1, 4), (2, 4), (3, 4), (1, 8), (2, 8), (3, 8), (4, 8), (5, 8), (6, 8), (7, 8), (4, 16))


@benchmark("nm_sweep_resnet50_s")
def nm_sweep() -> list[Row]:
    """ResNet-50 at 12 ratios on 6 accelerators, energy and latency of every layer.

    Warm: expectations, stored bits and plans of traffic are remembered by content, as in a search that meets the same
    layers again; every activity and its energy is computed anew. The note has a sweep with nothing remembered.
    """
    machines, network = [load_accelerator(name) for name in ACCELERATORS], resnet50()
    seconds, first = fastest(lambda: _sweep(machines, network), 3), fastest(lambda: _first_sweep(machines, network), 2)
    note = f"warm; {first:.2f} s with nothing remembered; one thread; SCALE-Sim takes minutes per point"
    return [Row(name="nm_sweep_resnet50_s", value=seconds, unit="s", note=note)]


def _sweep(machines: Sequence[Accelerator], network: Workload) -> None:
    weighted = [layer for layer in network.layers if not isinstance(layer, VectorOp)]
    layers = [layer for layer in weighted if layer.as_gemm().k >= max(n for _, n in RATIOS)]
    for machine, (k, n) in itertools.product(machines, RATIOS):
        simulate(machine, network, {layer.name: KofN(granularity="weight", k=k, n=n) for layer in layers})


def _first_sweep(machines: Sequence[Accelerator], network: Workload) -> None:
    """With every memory of results in the library emptied; kernels stay compiled."""
    for name in [name for name in sys.modules if name.startswith("accel_models.sp")]:
        for value in vars(sys.modules[name]).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
    _sweep(machines, network)


def _whole(accelerator: str, masks: Mapping[str, Mask]) -> None:
    simulate(load_accelerator(accelerator), resnet50(), masks=masks)


@benchmark("mask_exact_simulate_s")
def mask_exact_simulate() -> list[Row]:
    """`simulate` of ResNet-50 from masks of all its layers: exact and expected cycles, traffic, energy."""
    layers = weight_layers()
    masks = dict(zip((layer.name for layer in layers), random_masks(), strict=True))

    seconds = {name: fastest(partial(_whole, name, masks), 3) for name in ("nm_systolic", "row_gather", "scnn")}
    note = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    return [Row(name="mask_exact_simulate_s", value=max(seconds.values()), unit="s", note=f"density {DENSITY}; {note}")]
