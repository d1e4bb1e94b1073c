"""Cycles and accesses of a sparse array for actual masks: exact integers.

`run_masks` counts what `tests/reference/sparse_steps.py` finds by stepping the lanes cycle by cycle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError
from accel_models.kernels import sparse_banks, sparse_pass, weight_passes
from accel_models.kernels.masks import count_columns, count_tiles
from accel_models.masks import Mask
from accel_models.sparse_array import Operand, SparseArray, SparseCounts, SparseShape
from accel_models.sparse_passes import Met, count_passes, plan_passes
from accel_models.sparse_tiles import (
    Ints,
    Side,
    Totals,
    count_reads,
    dense_columns,
    masked_columns,
    tile_order,
    tile_vectors,
)

_NO_WORDS = np.zeros((1, 1), np.uint64)
_NO_WORDS.flags.writeable = False  # as the words of a mask: the kernels compile once
_NO_VECTORS = np.zeros((1, 1), np.int64)
_ONES = np.ones((1, 1), np.int64)
_HELD = {"none": sparse_pass.HELD_NONE, "weight": sparse_pass.HELD_FIRST, "input": sparse_pass.HELD_SECOND}
_SWAPPED = {
    sparse_pass.HELD_NONE: sparse_pass.HELD_NONE,
    sparse_pass.HELD_FIRST: sparse_pass.HELD_SECOND,
    sparse_pass.HELD_SECOND: sparse_pass.HELD_FIRST,
}


@dataclass(frozen=True)
class GroupRun:
    """Cycles and reads of one group of a layer."""

    total: int
    waited: int
    balanced: int
    busy: int
    conflicts: int
    passes: int
    first_reads: int
    second_reads: int
    pairs: int


def run_masks(array: SparseArray, shape: SparseShape, weights: Mask | None, inputs: Mask | None = None) -> SparseCounts:
    """What the array does with these masks.

    Parameters
    ----------
    weights : Mask or None
        groups x outputs rows of reduction x weight_unit elements; None: dense.
    inputs : Mask or None
        groups x pixels rows of reduction x input_unit elements; None: dense.

    Raises
    ------
    InvalidInputError
        A mask does not have the shape of the layer.
    """
    _check(weights, shape.groups * shape.outputs, shape.reduction * shape.weight_unit, "weights")
    _check(inputs, shape.groups * shape.pixels, shape.reduction * shape.input_unit, "inputs")
    swapped = _swapped(array, weights, inputs)
    runs = [_run_group(array, shape, *sides, swapped) for sides in _groups(array, shape, weights, inputs)]
    reads = sum(run.first_reads for run in runs), sum(run.second_reads for run in runs)
    done, slots, effectual = count_products(array, shape, weights, inputs)
    ideal = -(-effectual // array.multipliers)
    busy = sum(run.busy for run in runs)
    return SparseCounts(
        ideal_cycles=ideal,
        fragmentation_cycles=sum(run.balanced for run in runs) - ideal,
        imbalance_cycles=sum(run.waited - run.balanced for run in runs),
        bank_conflict_cycles=sum(run.conflicts for run in runs),
        metadata_cycles=sum(run.total - run.waited for run in runs),
        fill_cycles=array.pass_cycles * sum(run.passes for run in runs),
        macs_done=done,
        macs_gated=slots - done,
        macs_skipped=shape.macs - slots,
        weight_reads=reads[1] if swapped else reads[0],
        input_reads=reads[0] if swapped else reads[1],
        output_updates=slots if array.vector_reduction == 1 else busy,
        intersections=shape.reduction * sum(run.pairs for run in runs),
    )


def count_products(
    array: SparseArray, shape: SparseShape, weights: Mask | None, inputs: Mask | None
) -> tuple[int, int, int]:
    """(products done, products done or gated, products without a zero) of a layer."""

    def meet(weight: bool, input_: bool) -> int:
        """Products left when zeros of these operands leave."""
        w, i = (weights if weight else None), (inputs if input_ else None)
        if w is not None and i is not None:
            return int((_per_index(w, shape, "weight") * _per_index(i, shape, "input")).sum())
        if w is not None:
            return w.nonzeros * (shape.macs // (shape.groups * shape.outputs * shape.weight_unit * shape.reduction))
        return shape.macs if i is None else i.nonzeros * shape.outputs * shape.weight_unit

    skipped = array.skips("weight") and weights is not None, array.skips("input") and inputs is not None

    def seen_by(operand: Operand, mask: Mask | None) -> bool:
        return mask is not None and (array.skips(operand) or array.gates(operand))

    seen = seen_by("weight", weights), seen_by("input", inputs)
    known = weights is not None, inputs is not None
    counts = {which: meet(*which) for which in {skipped, seen, known}}
    return counts[seen], counts[skipped], counts[known]


def _per_index(mask: Mask, shape: SparseShape, operand: str) -> Ints:
    """Kept elements per group and reduction index, int64 [groups, reduction]."""
    rows, unit = (shape.outputs, shape.weight_unit) if operand == "weight" else (shape.pixels, shape.input_unit)
    out = np.empty((shape.groups, shape.reduction), np.int64)
    for g in range(shape.groups):
        words = mask.words[g * rows : (g + 1) * rows]
        if unit == 1:
            columns = np.empty(words.shape[1] * 64, np.int64)
            count_columns(words, columns)
            out[g] = columns[: shape.reduction]
        else:
            count_tiles(words, mask.row_bits, rows, unit, out[g : g + 1])
    return out


def _check(mask: Mask | None, rows: int, row_bits: int, what: str) -> None:
    if mask is not None and (mask.rows, mask.row_bits) != (rows, row_bits):
        raise InvalidInputError(
            f"mask of {what}: {mask.rows} rows of {mask.row_bits} elements; the layer has {rows} rows of {row_bits}"
        )


def _swapped(array: SparseArray, weights: Mask | None, inputs: Mask | None) -> bool:
    """Whether inputs alone are skipped, so that they take the first place."""
    return not (array.skips("weight") and weights is not None) and array.skips("input") and inputs is not None


def _groups(
    array: SparseArray, shape: SparseShape, weights: Mask | None, inputs: Mask | None
) -> Iterator[tuple[Side, Side, int]]:
    """(first side, second side, held) of every group; the first one is skipped if any is."""
    held, swapped = _HELD[array.held], _swapped(array, weights, inputs)
    for g in range(shape.groups):
        weight = Side(
            _words(weights if array.skips("weight") else None, g, shape.outputs),
            shape.outputs,
            shape.weight_unit,
            array.tile_outputs,
            array.vector_outputs,
            array.lane_outputs,
        )
        input_ = Side(
            _words(inputs if array.skips("input") else None, g, shape.pixels),
            shape.pixels,
            shape.input_unit,
            array.tile_pixels,
            array.vector_pixels,
            array.lane_pixels,
        )
        yield (input_, weight, _SWAPPED[held]) if swapped else (weight, input_, held)


def _words(mask: Mask | None, group: int, rows: int) -> NDArray[np.uint64] | None:
    return None if mask is None else mask.words[group * rows : (group + 1) * rows]


def _run_group(array: SparseArray, shape: SparseShape, first: Side, second: Side, held: int, swapped: bool) -> GroupRun:
    columns, shares, times = dense_columns(second) if second.words is None else masked_columns(second)
    order, order_times = tile_order(first, array.balance == "greedy" and not swapped)
    fast = _fast_passes(array, shape, first, second, held, (columns, shares, times))
    if fast is not None:
        cycles, known = fast
    else:
        known = None
        mode, vectors, other_vectors = _mode(first, second, shape.reduction)
        words, other_words = (_NO_WORDS if side.words is None else side.words for side in (first, second))
        timing = _timing(array, shape, held)
        cycles = sparse_pass.run_passes(
            mode, words, other_words, vectors, other_vectors, order, order_times, columns, shares, times, timing
        )
    conflicts = 0
    if array.gather_banks and first.words is not None:
        conflicts = int(times.sum()) * sparse_banks.gather_conflicts(
            first.words, order, array.gather_banks, array.gather_window, array.vector_reduction
        )
    elif array.accumulator_banks:
        sides = (second, first) if swapped else (first, second)
        conflicts = _scatter(array, shape, *sides) - cycles.waited
    reads = count_reads(first, second, held, shape.reduction, known)
    pairs = first.tiles * second.tiles if first.words is not None and second.words is not None else 0
    return GroupRun(*cycles, conflicts, int(order_times.sum() * times.sum()), *reads, pairs)


def _timing(array: SparseArray, shape: SparseShape, held: int) -> sparse_pass.Timing:
    return sparse_pass.Timing(
        reduction=shape.reduction,
        segment=array.segment or shape.reduction,
        width=array.vector_reduction,
        look_ahead=array.look_ahead,
        least=array.least_cycles,
        segment_cycles=array.segment_cycles,
        latch_cycles=array.latch_cycles,
        held=held,
    )


def _fast_passes(
    array: SparseArray, shape: SparseShape, first: Side, second: Side, held: int, groups: tuple[Ints, Ints, Ints]
) -> tuple[sparse_pass.PassCycles, Totals] | None:
    """Cycles and what the tiles hold, where one kernel of `sparse_passes` knows them; groups: of `dense_columns`."""
    if first.words is None or second.words is not None or first.unit != 1:
        return None
    flat = first.words.reshape(-1)
    layers = np.array([(0, first.rows, first.words.shape[1], shape.reduction)], np.int64)
    total, sums = np.zeros(4, np.int64), np.zeros(weight_passes.COLUMNS, np.int64)
    for vectors, lanes, times in zip(*groups, strict=True):
        met = Met(int(vectors.max()), int(vectors @ lanes), int(lanes.sum()))
        plan = plan_passes(array, first.tile, first.vector, first.lanes, shape.reduction, met)
        if plan is None:
            return None
        sums = count_passes(array, plan, flat, layers, met, held == sparse_pass.HELD_FIRST)[0]
        total += times * sums[: weight_passes.KEPT]
    return sparse_pass.PassCycles(*total.tolist()), Totals(*sums[weight_passes.KEPT :].tolist())


def _mode(first: Side, second: Side, reduction: int) -> tuple[int, Ints, Ints]:
    """How the kernel counts, and the vectors it needs for it."""
    if second.words is None:
        if first.words is not None and first.single:
            return sparse_pass.WEIGHT_BITS, _NO_VECTORS, _NO_VECTORS
        return sparse_pass.WEIGHT_COUNTS, tile_vectors(first, reduction), _NO_VECTORS
    if first.single and second.single:
        return sparse_pass.BOTH_BITS, _NO_VECTORS, _NO_VECTORS
    return sparse_pass.BOTH_COUNTS, tile_vectors(first, reduction), tile_vectors(second, reduction)


def _scatter(array: SparseArray, shape: SparseShape, weight: Side, input_: Side) -> int:
    """Cycles of all passes with accumulator banks."""
    scatter = sparse_banks.Scatter(
        array.vector_outputs,
        array.vector_pixels,
        array.accumulator_banks,
        array.accumulator_queue,
        *shape.filter,
        *shape.tile,
        array.tile_outputs,
    )
    words = [_ones(side, shape.reduction) if side.words is None else side.words for side in (weight, input_)]
    order = masked_columns(weight)[0][:, :, np.newaxis]
    columns = masked_columns(input_)[0]
    return int(sparse_banks.scatter_passes(words[0], words[1], order, columns, shape.reduction, scatter))


def _ones(side: Side, reduction: int) -> NDArray[np.uint64]:
    return Mask.from_bool(np.ones((side.rows, reduction * side.unit), np.bool_)).words
