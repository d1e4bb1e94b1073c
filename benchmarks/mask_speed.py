"""A mask-exact pass over ResNet-50 (25.5 M weights, bit-packed): its seconds, and how many reads of the masks it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel_models.kernels.sparse_lanes import network_passes
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.masks import Mask, column_counts, row_counts, tile_counts, weight_mask, weight_shape
from accel_models.sparse_array import SparseArray, SparseShape
from accel_models.sparse_engine import run_masks
from accel_models.sparse_machines import nm_systolic, row_gather, sparten
from benchmarks.design_speed import resnet50
from benchmarks.registry import Row, benchmark

DENSITY, LANES, REPEATS = 0.3, 16, 20
SEGMENTS = (128, 64, 16, 4)
"""Weights between two waits of the lanes, beside the whole row."""


@njit(cache=True)
def read_words(words: NDArray[np.uint64]) -> np.uint64:
    """All words once, in vector code: exclusive or of everything."""
    mixed = np.uint64(0)
    for i in range(words.size):
        mixed ^= words[i]
    return mixed


@benchmark("mask_exact_resnet50_s")
def mask_pass() -> list[Row]:
    """Cycles, imbalance and reads of all layers from their masks, on the slowest of four arrays that skip weights."""
    layers, masks = weight_layers(), random_masks()
    shapes = [_shape(layer) for layer in layers]
    arrays = (nm_systolic(4), nm_systolic(16), sparten(), row_gather())
    seconds = {array.name: fastest(lambda array=array: _run(array, shapes, masks), 5) for array in arrays}
    note = ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in seconds.items())
    return [Row(name="mask_exact_resnet50_s", value=max(seconds.values()), unit="s", note=f"1 thread; {note}")]


@benchmark("mask_exact_over_read")
def mask_pass_over_read() -> list[Row]:
    """16 lanes of neighbouring rows that wait at a row's end, against one read of the same words."""
    masks = random_masks()
    flat = np.concatenate([mask.words.ravel() for mask in masks])
    sizes = np.array([(mask.words.size, mask.rows, mask.words.shape[1], mask.row_bits) for mask in masks], np.int64)
    table = np.column_stack((np.cumsum(sizes[:, 0]) - sizes[:, 0], sizes[:, 1:]))
    out = np.empty((len(masks), 4), np.int64)
    read = fastest(lambda: read_words(flat))
    passes = {
        segment: fastest(lambda segment=segment: network_passes(flat, table, LANES, segment, 1, 0, out))
        for segment in (0, *SEGMENTS)
    }
    note = ", ".join(f"{passes[segment] / read:.0f} with waits every {segment}" for segment in SEGMENTS)
    ratio = passes[0] / read
    return [
        Row(
            name="mask_exact_over_read",
            value=ratio,
            unit="x",
            peer=f"one read of {flat.nbytes / 1e6:.1f} MB, {read * 1e6:.0f} us",
            peer_value=1.0,
            ratio=ratio,
            note=f"whole rows; {note}",
        )
    ]


@benchmark("mask_counts_resnet50_s")
def mask_counts() -> list[Row]:
    """Set bits of every row, column and 16 x 16 tile."""
    masks = random_masks()
    counters = (row_counts, column_counts, lambda mask: tile_counts(mask, LANES, LANES))
    seconds = [fastest(lambda count=count: [count(mask) for mask in masks]) for count in counters]
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


def _shape(layer: Conv2d | Gemm) -> SparseShape:
    product = layer.as_gemm()
    return SparseShape(outputs=product.n, pixels=product.m, reduction=product.k, groups=product.groups)


def _run(array: SparseArray, shapes: Sequence[SparseShape], masks: Sequence[Mask]) -> None:
    for shape, mask in zip(shapes, masks, strict=True):
        run_masks(array, shape, mask)
