"""Fast passes: arrays that skip one operand's zeros only, counted near the speed of reading its mask.

Which kernel of `kernels/weight_passes.py` gives an array's cycles, and its arguments. `sparse_engine.py` takes them for
single layers, `sparse_network.py` for all layers of a network at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accel_models.kernels import weight_passes as kernel
from accel_models.kernels.bit_vectors import MOST_ROWS
from accel_models.sparse_array import SparseArray

Ints = NDArray[np.int64]
Kind = Literal["fields", "rows", "ahead", "tiles"]
_FIELDS: dict[int, Any] = {4: np.int8, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


@dataclass(frozen=True)
class Met:
    """What the lanes along the other, dense operand take in one pass."""

    most: int = 1
    """Vectors of the lane with the most."""
    vectors: int = 1
    """Of all lanes."""
    lanes: int = 1


@dataclass(frozen=True)
class PassPlan:
    """How an array's passes are counted."""

    kind: Kind
    lanes: int
    """Along the skipped operand."""
    tile: int = 1
    vector: int = 1


def plan_passes(array: SparseArray, tile: int, vector: int, lanes: int, reduction: int, met: Met) -> PassPlan | None:
    """The kernel for tiles of `tile` rows with one element an index; None: `sparse_pass.run_passes` has to count.

    Parameters
    ----------
    reduction
        The longest row, in elements.
    """
    if array.balance != "none":
        return None
    whole = array.segment == 0 or array.segment >= reduction
    free = array.look_ahead == 0 and array.vector_reduction == 1 and array.least_cycles == 0
    if tile == 1 and met.most == 1 and not array.latch_cycles:
        if whole or free:
            return PassPlan("rows", lanes)
        if array.look_ahead == 1 and _has_fields(array):
            return PassPlan("fields", lanes)
        return PassPlan("ahead", lanes) if array.segment % 64 == 0 else None
    plain = array.vector_reduction == 1 and array.least_cycles == 0
    if plain and (whole or free) and tile <= MOST_ROWS and _power_of_two(vector):
        return PassPlan("tiles", lanes, tile, vector)
    return None


def _has_fields(array: SparseArray) -> bool:
    return array.segment in _FIELDS and array.least_cycles <= array.segment and _power_of_two(array.vector_reduction)


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def count_passes(
    array: SparseArray, plan: PassPlan, flat: NDArray[np.uint64], layers: Ints, met: Met, held_first: bool = True
) -> Ints:
    """int64 [layers, `kernel.COLUMNS`]: cycles of one group of the other operand's tiles, and sums of the mask.

    Parameters
    ----------
    flat, layers
        Words of all masks, and where they lie (`kernels/weight_passes.py`).
    held_first
        Whether latched vectors are those of the skipped operand.
    """
    out = np.empty((len(layers), kernel.COLUMNS), np.int64)
    width, least, metadata = array.vector_reduction, array.least_cycles, array.segment_cycles
    if plan.kind == "fields":
        fields = (_FIELDS[array.segment](0),) * width.bit_length()
        kernel.field_passes(flat, layers, plan.lanes, array.segment, fields, least, metadata, out)
    elif plan.kind == "ahead":
        step, ahead = array.segment // 64, array.look_ahead
        kernel.ahead_passes(flat, layers, plan.lanes, step, ahead, width, least, metadata, out)
    elif plan.kind == "rows":
        kernel.row_passes(flat, layers, plan.lanes, width, least, metadata * _segments(array, layers), out)
    else:
        _count_tiles(array, plan, flat, layers, met, held_first, out)
        return out
    out[:, kernel.BUSY] *= met.lanes
    return out


def _segments(array: SparseArray, layers: Ints) -> Ints:
    """Of a row, int64 [layers]."""
    rows = layers[:, 3]
    return np.ones_like(rows) if array.segment == 0 else -(-rows // array.segment)


def _count_tiles(
    array: SparseArray,
    plan: PassPlan,
    flat: NDArray[np.uint64],
    layers: Ints,
    met: Met,
    held_first: bool,
    out: Ints,
) -> None:
    sums = np.empty((int((-(-layers[:, 1] // plan.tile)).sum()), 3), np.int64)
    kernel.tile_sums(flat, layers, plan.tile, plan.vector.bit_length() - 1, sums)
    latch = array.latch_cycles if array.held != "none" else 0
    metadata = np.empty((len(layers), 3), np.int64)
    metadata[:, 0] = array.segment_cycles * _segments(array, layers)
    metadata[:, 1], metadata[:, 2] = (latch, 0) if held_first else (0, latch * met.most)
    kernel.tile_passes(layers, sums, plan.tile, plan.lanes, (met.most, met.vectors, met.lanes), metadata, out)
