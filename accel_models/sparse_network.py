"""All layers of a network in one pass: masks packed one after the other, cycles of arrays whose lanes skip weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError
from accel_models.kernels.sparse_lanes import network_passes
from accel_models.masks import Mask
from accel_models.sparse_array import SparseArray
from accel_models.sparse_engine import fast_segment


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
    imbalance_cycles: NDArray[np.int64]
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
    """Cycles of every layer for one group of pixels, without bank conflicts, metadata and fill.

    Raises
    ------
    InvalidInputError
        The array does more than skip weights row by row with a wait after every segment; use `run_masks`.
    """
    segments = {fast_segment(array, int(bits)) for bits in network.layers[:, 3]}
    rows = array.tile_outputs == array.tile_pixels == array.vector_outputs == 1 and array.balance == "none"
    if array.skip not in ("weight", "both") or not rows or None in segments:
        raise InvalidInputError(
            f"{array.name}: only arrays that skip weights row by row, in segments of 4, 8, 16, 32, a multiple of 64 or "
            "a whole row, run a network in one pass; use run_masks layer by layer"
        )
    free = array.look_ahead == 0 and array.vector_reduction == 1 and array.least_cycles == 0
    out = np.empty((len(network.layers), 4), np.int64)
    network_passes(
        network.words,
        network.layers,
        array.lane_outputs,
        0 if free else array.segment,
        array.vector_reduction,
        array.least_cycles,
        out,
    )
    return NetworkPasses(out[:, 0], out[:, 0] - out[:, 1], out[:, 3])
