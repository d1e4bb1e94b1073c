"""Seconds to map ResNet-18 optimally: its twelve distinct layers on `edge_npu` of the library, warm.

Beside ZigZag (`peer_speed.py`) stands an accelerator of as many PEs as its own: any loop but those over batch and group
may be spread over the 12 x 14 PEs of Eyeriss (JSSC'17), 108 kB of buffer, 512 bytes a PE at 16 bits, relative energies
of ISCA'16, Table IV.
"""

from __future__ import annotations

import time

from accel_models.accelerator import load_accelerator
from accel_models.energy import energy_table
from accel_models.layers import Conv2d
from accel_models.mapper import Hierarchy, Objective, SpatialAxis, find_mappings
from accel_models.mapping import OPERANDS, LoopShape, StorageLevel
from accel_models.mapping_cost import LevelPrices
from accel_models.nest_activity import hierarchy_of
from benchmarks.registry import Row, benchmark

ALL = frozenset(OPERANDS)
WORD_BITS = (16, 16, 16)
THREADS, REPEATS = 2, 3


def _layer(k: int, c: int, size: int, taps: int, stride: int = 1) -> LoopShape:
    return LoopShape(K=k, C=c, P=size, Q=size, R=taps, S=taps, stride=(stride, stride))


RESNET18 = (
    _layer(64, 3, 112, 7, 2),
    _layer(64, 64, 56, 3),
    _layer(128, 64, 28, 3, 2),
    _layer(128, 64, 28, 1, 2),
    _layer(128, 128, 28, 3),
    _layer(256, 128, 14, 3, 2),
    _layer(256, 128, 14, 1, 2),
    _layer(256, 256, 14, 3),
    _layer(512, 256, 7, 3, 2),
    _layer(512, 256, 7, 1, 2),
    _layer(512, 512, 7, 3),
    _layer(1000, 512, 1, 1),
)
"""He et al. 2016, Table 1: the distinct layers, batch 1."""

EYERISS_SIZED = Hierarchy(
    levels=(
        StorageLevel(name="dram", holds=ALL),
        StorageLevel(name="glb", holds=ALL, capacity_bytes=108 * 1024, word_bits=WORD_BITS),
        StorageLevel(name="rf", holds=ALL, capacity_bytes=512, word_bits=WORD_BITS),
    ),
    prices=tuple(
        LevelPrices(read_pj=dict.fromkeys(OPERANDS, pj), write_pj=dict.fromkeys(OPERANDS, pj), bandwidth=words)
        for pj, words in ((200.0, 8.0), (6.0, 64.0), (1.0, 8.0))
    ),
    axes=tuple(SpatialAxis(level="glb", size=size, dims=frozenset("KCPQRS")) for size in (12, 14)),
    mac_pj=1.0,
)


def library_hierarchy() -> Hierarchy:
    """`edge_npu` as the mapper sees it for 8-bit layers."""
    machine = load_accelerator("edge_npu")
    layer = Conv2d(name="any", k=1, c=1, p=1, q=1, r=1, s=1)
    return hierarchy_of(layer, machine, energy_table(machine))


def seconds(objective: Objective, hierarchy: Hierarchy, threads: int = THREADS) -> float:
    """The best of some runs, after one that compiles or loads the kernels."""
    best = float("inf")
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        results = find_mappings(RESNET18, hierarchy, objective, threads=threads)
        best = min(best, time.perf_counter() - start)
        assert all(result.complete for result in results)
    return best


@benchmark("mapping_resnet18_s", "mapping_resnet18_latency_s", "mapping_resnet18_edp_s")
def mapping_resnet18() -> list[Row]:
    """Optimal for energy; for latency and then energy; for their product."""
    names: dict[str, Objective] = {"": "energy", "latency_": "latency", "edp_": "edp"}
    note = f"12 layers proven optimal on edge_npu (3 levels, 16 x 16 PEs), {THREADS} threads"
    machine = library_hierarchy()
    return [
        Row(name=f"mapping_resnet18_{part}s", value=seconds(objective, machine), unit="s", note=f"{objective}: {note}")
        for part, objective in names.items()
    ]
