"""Sparse arrays in `simulate`: a sweep of n:m over accelerators, and a network from its actual masks."""

from __future__ import annotations

from accel_models.accelerator import Accelerator, load_accelerator
from accel_models.evaluate import simulate
from accel_models.sparsity import KofN
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
    """ResNet-50 at 12 ratios on 6 accelerators, energy and latency of every layer; results of a repeat are not reused
    but where layers or densities are equal."""
    machines = [load_accelerator(name) for name in ACCELERATORS]
    seconds = fastest(lambda: [_sweep(machine) for machine in machines], 3)
    first = sum(_first(machine) for machine in machines)
    note = f"warm; {first:.2f} s without remembered expectations; one thread; SCALE-Sim takes minutes per point"
    return [Row(name="nm_sweep_resnet50_s", value=seconds, unit="s", note=note)]


def _sweep(machine: Accelerator) -> None:
    layers = [layer for layer in weight_layers() if layer.as_gemm().k >= max(n for _, n in RATIOS)]
    for k, n in RATIOS:
        simulate(machine, resnet50(), {layer.name: KofN(granularity="weight", k=k, n=n) for layer in layers})


def _first(machine: Accelerator) -> float:
    """Seconds of a sweep after all that is remembered of sparse layers was forgotten."""
    from accel_models import sparse_expectation, sparse_lanes, sparse_storage, sparse_traffic

    for remembered in (
        sparse_expectation.expected_counts,
        sparse_lanes._expected,
        sparse_storage._store_weights,
        sparse_storage.store_activations,
        sparse_traffic._fetched_rows,
    ):
        remembered.cache_clear()
    return _once(machine)


def _once(machine: Accelerator) -> float:
    import time

    start = time.perf_counter()
    _sweep(machine)
    return time.perf_counter() - start


@benchmark("mask_exact_simulate_s")
def mask_exact_simulate() -> list[Row]:
    """`simulate` of ResNet-50 from masks of all its layers: exact and expected cycles, traffic, energy."""
    layers = weight_layers()
    masks = dict(zip((layer.name for layer in layers), random_masks(), strict=True))

    seconds = {
        name: fastest(lambda name=name: simulate(load_accelerator(name), resnet50(), masks=masks), 3)
        for name in ("nm_systolic", "row_gather", "scnn")
    }
    note = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    return [Row(name="mask_exact_simulate_s", value=max(seconds.values()), unit="s", note=f"density {DENSITY}; {note}")]
