"""All layers of a network in one pass: masks packed one after the other, cycles of arrays whose lanes skip weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError
from accel_models.kernels import weight_passes as kernel
from accel_models.kernels.sparse_banks import gather_conflicts
from accel_models.masks import Mask
from accel_models.sparse_array import SparseArray
from accel_models.sparse_passes import Met, count_passes, plan_passes
from accel_models.sparse_tiles import Side, tile_order


@dataclass(frozen=True, eq=False)
class PackedNetwork:
    """Masks of weights, one after the other."""

    words: NDArray[np.uint64]
    """Words of all masks."""
    layers: NDArray[np.int64]
    """[layers, 4]: first word, rows, words of a row, elements of a row."""


@dataclass(frozen=True, eq=False)
class NetworkPasses:
    """int64 [layers] each: what one group of pixels takes in every layer; see `SparseCounts` for the parts."""

    cycles: NDArray[np.int64]
    """With metadata and bank conflicts, without fill and drain."""
    imbalance_cycles: NDArray[np.int64]
    metadata_cycles: NDArray[np.int64]
    bank_conflict_cycles: NDArray[np.int64]
    kept_weights: NDArray[np.int64]


def pack_network(masks: Sequence[Mask]) -> PackedNetwork:
    """Lay masks out for `network_cycles`; the rows of a grouped layer count as one matrix."""
    if not masks:
        raise InvalidInputError("masks: none given; a network has at least one layer")
    sizes = np.cumsum([0] + [mask.words.size for mask in masks])
    layers = [
        (start, mask.rows, mask.words.shape[1], mask.row_bits)
        for start, mask in zip(sizes[:-1].tolist(), masks, strict=True)
    ]
    words = np.concatenate([mask.words.ravel() for mask in masks])
    words.flags.writeable = False
    return PackedNetwork(words, np.array(layers, np.int64))


def network_cycles(array: SparseArray, network: PackedNetwork) -> NetworkPasses:
    """Cycles of every layer for one group of pixels without zeros.

    Raises
    ------
    InvalidInputError
        The array does more with weights than `sparse_passes.plan_passes` knows; use `run_masks`.
    """
    vectors = -(-array.tile_pixels // array.vector_pixels)
    met = Met(vectors, vectors * array.lane_pixels, array.lane_pixels)
    longest = int(network.layers[:, 3].max())
    plan = plan_passes(array, array.tile_outputs, array.vector_outputs, array.lane_outputs, longest, met)
    if plan is None or not array.skips("weight") or array.accumulator_banks:
        raise InvalidInputError(
            f"{array.name}: a network runs in one pass where weights are skipped row by row in segments of 4, 8, 16, "
            "32, a multiple of 64 or a whole row, or tile by tile in vectors of 1, 2, 4, … weights without a wait "
            "inside the row; use run_masks layer by layer"
        )
    found = count_passes(array, plan, network.words, network.layers, met, array.held == "weight")
    waited, conflicts = found[:, kernel.WAITED], np.zeros(len(found), np.int64)
    if array.gather_banks:
        conflicts = np.array([_conflicts(array, network, i) for i in range(len(found))], np.int64)
    return NetworkPasses(
        cycles=found[:, kernel.TOTAL] + conflicts,
        imbalance_cycles=waited - found[:, kernel.BALANCED],
        metadata_cycles=found[:, kernel.TOTAL] - waited,
        bank_conflict_cycles=conflicts,
        kept_weights=found[:, kernel.KEPT],
    )


def _conflicts(array: SparseArray, network: PackedNetwork, layer: int) -> int:
    """Bank conflicts of one layer and group of pixels."""
    start, rows, row_words, _ = (int(x) for x in network.layers[layer])
    words = network.words[start : start + rows * row_words].reshape(rows, row_words)
    order, _ = tile_order(Side(words, rows, 1, 1, 1, array.lane_outputs))
    return int(gather_conflicts(words, order, array.gather_banks, array.gather_window, array.vector_reduction))
