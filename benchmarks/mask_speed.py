"""A mask-exact pass over ResNet-50 (25.5 M weights, bit-packed): its seconds, and how many reads of the masks it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.masks import Mask, column_counts, row_counts, tile_counts, weight_mask, weight_shape
from accel_models.sparse_array import SparseArray, SparseShape
from accel_models.sparse_engine import run_masks
from accel_models.sparse_layers import matrix_shape
from accel_models.sparse_machines import library_array
from accel_models.sparse_network import PackedNetwork, network_cycles, pack_network
from benchmarks.design_speed import resnet50
from benchmarks.registry import Row, benchmark

DENSITY, TILE, REPEATS = 0.3, 16, 100
ACCELERATORS = ("nm_systolic", "sparse_tensor_core_2_4", "sparten", "eyeriss_v2", "dstc", "row_gather")


@njit(cache=True)
def read_words(words: NDArray[np.uint64]) -> np.uint64:
    """All words once, in vector code: exclusive or of everything."""
    mixed = np.uint64(0)
    for i in range(words.size):
        mixed ^= words[i]
    return mixed


@benchmark("mask_exact_over_read", "mask_exact_banks_over_read")
def mask_pass_over_read() -> list[Row]:
    """Cycles, imbalance and metadata of every layer on the library's arrays that skip weights, a network at a time,
    against one read of the same words; the slowest array. Bank conflicts of the row-gather array have a row of their
    own. Inputs are dense: SCNN's products need both operands."""
    network = pack_network(random_masks())
    arrays = {name: library_array(name) for name in ACCELERATORS}
    banks = arrays["row_gather"]
    arrays["row_gather"] = replace(banks, gather_banks=0)
    ratios = {name: _over_read(array, network) for name, array in arrays.items()}
    peer = f"one read of {network.words.nbytes / 1e6:.1f} MB in vector code"
    note = "1 thread; " + ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items())
    figures = (
        ("mask_exact_over_read", max(ratios.values()), note),
        (
            "mask_exact_banks_over_read",
            _over_read(banks, network),
            "1 thread; row_gather, windows of picks on 64 banks",
        ),
    )
    return [
        Row(name=name, value=ratio, unit="x", peer=peer, peer_value=1.0, ratio=ratio, note=text)
        for name, ratio, text in figures
    ]


def _over_read(array: SparseArray, network: PackedNetwork) -> float:
    """Both measured side by side, as the machine's speed varies."""
    read = fastest(lambda: read_words(network.words))
    return fastest(lambda: network_cycles(array, network)) / read


@benchmark("mask_exact_resnet50_s")
def mask_pass() -> list[Row]:
    """All counts of `run_masks` (reads and products, too) layer by layer, on the slowest of these arrays."""
    masks, layers = random_masks(), weight_layers()
    arrays = {name: library_array(name) for name in ACCELERATORS}
    shapes = [matrix_shape(layer) for layer in layers]
    seconds = {name: fastest(partial(_run, array, shapes, masks), 5) for name, array in arrays.items()}
    note = ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in seconds.items())
    return [Row(name="mask_exact_resnet50_s", value=max(seconds.values()), unit="s", note=f"1 thread; {note}")]


@benchmark("mask_counts_resnet50_s")
def mask_counts() -> list[Row]:
    """Set bits of every row, column and 16 x 16 tile."""
    masks = random_masks()
    counters = (row_counts, column_counts, lambda mask: tile_counts(mask, TILE, TILE))
    seconds = [fastest(partial(lambda count: [count(mask) for mask in masks], count)) for count in counters]
    note = ", ".join(f"{name} {s * 1e3:.2f} ms" for name, s in zip(("rows", "columns", "tiles"), seconds, strict=True))
    return [Row(name="mask_counts_resnet50_s", value=sum(seconds), unit="s", note=note)]


def weight_layers() -> list[Conv2d | Gemm]:
    """Layers with weights, classifier included."""
    return [layer for layer in resnet50().layers if not isinstance(layer, VectorOp)]


def random_masks() -> list[Mask]:
    rng = np.random.default_rng(0)
    return [weight_mask(rng.random(weight_shape(layer)) < DENSITY, layer) for layer in weight_layers()]


def fastest(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the best of some warm runs."""
    function()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def _run(array: SparseArray, shapes: Sequence[SparseShape], masks: Sequence[Mask]) -> None:
    for shape, mask in zip(shapes, masks, strict=True):
        run_masks(array, shape, mask)
