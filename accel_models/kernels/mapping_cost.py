"""Cycles, energy and fit of many mappings of one layer on one machine, without counting tables in between.

The counts are those of `kernels/loopnest.py` (convention EXACT); where an input window is not one interval, that kernel
does the counting. A mapping is a table of factors: at each level and dimension a temporal and a spatial one, the
temporal loops of a level in a given order, its spatial loops inside them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from accel_models.kernels.loopnest import (
    DIM,
    FACTOR,
    INPUT,
    LEVEL,
    MULTICAST,
    OUTPUT,
    REDUCTION,
    RELEVANT,
    SPATIAL,
    WEIGHT,
    C,
    G,
    Int,
    Ints,
    K,
    N,
    P,
    R,
    S,
    _distinct,
    _fetches,
)

STEP, OUTSIDE = 2, 3
WEIGHT_DIMS, OUTPUT_DIMS = (sum(1 << dim for dim in range(8) if RELEVANT[o, dim]) for o in (WEIGHT, OUTPUT))
CHANNEL_DIMS = 1 << N | 1 << G | 1 << C
FIRST, VISITS, WORDS, WAYS, MOVED = 0, 1, 4, 7, 13


Line = tuple[Int, Int, Int, Int, Int, Int]
"""One axis of the tiles behind a parent; see `_axis`."""


class Factors(NamedTuple):
    """B mappings on L levels."""

    temporal: np.ndarray
    """int32[B, L, 8], >= 1"""
    spatial: np.ndarray
    """int32[B, L, 8], >= 1"""
    order: np.ndarray
    """int8[B, L, 8]: dimensions of the temporal loops of a level, outermost first."""


class Machine(NamedTuple):
    """What a mapping is priced with; L levels, three operands."""

    levels: np.ndarray
    """int64[L, 5]: as in `count_nests`."""
    word_bits: np.ndarray
    """int64[L, 3]"""
    capacity_bits: np.ndarray
    """int64[L], of one instance; negative: unbounded."""
    bandwidth: np.ndarray
    """float64[L], words a cycle of one instance, reads and writes together; infinite: never limits."""
    read_pj: np.ndarray
    """float64[L, 3], of a word."""
    write_pj: np.ndarray
    """float64[L, 3], of a word."""
    mac_pj: float


class Scores(NamedTuple):
    """What is filled in, one row a mapping."""

    cycles: np.ndarray
    """int64[B], of one that fits."""
    energy_pj: np.ndarray
    """float64[B], of one that fits."""
    excess_bits: np.ndarray
    """int64[B]: the most by which a tile exceeds its level; 0 where all fit, -1 where the row is no mapping.

    Only rows of 0 are scored.
    """


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_mappings(
    factors: Factors, shape: Ints, geometry: Ints, machine: Machine, start: Int, stop: Int, scores: Scores
) -> None:
    """Score mappings start..stop-1; several threads may share the arrays.

    Tables hold one mapping at a time, allocated once; no tuple is passed on: its copy would cost more than the work.

    shape : int64[8], geometry : int64[4], of the layer
    extents : int64[L + 1, 8], of the tile of each level
    loops : int64[8 L + 1, 4], DIM, FACTOR, index STEP, product OUTSIDE of temporal loops above 1, outermost first
    slope : int64[8, 2], rows and columns of the input that one step along a dimension moves
    table : int64[L + 1, 14], of each level the FIRST loop, and by operand VISITS and WORDS of a tile and, in pairs,
        spatial WAYS inside it along dimensions that do not and do index the operand; words MOVED
    """
    levels, capacity, word_bits = machine.levels, machine.capacity_bits, machine.word_bits
    read_pj, write_pj, bandwidth = machine.read_pj, machine.write_pj, machine.bandwidth
    n_levels = levels.shape[0]
    extents = np.ones((n_levels + 1, 8), np.int64)
    loops = np.ones((8 * n_levels + 1, 4), np.int64)
    table = np.ones((n_levels + 1, MOVED + 1), np.int64)
    slope = np.zeros((8, 2), np.int64)
    for i in range(4):
        slope[P + i, i & 1] = geometry[i]
    for b in range(start, stop):
        temporal, spatial, order = factors.temporal[b], factors.spatial[b], factors.order[b]
        steps = _unroll(temporal, spatial, order, extents, loops, table)
        for dim in range(8):
            steps = steps if extents[0, dim] == shape[dim] else np.int64(0)
        excess = _fit(extents, table, geometry, levels, capacity, word_bits) if steps else np.int64(-1)
        scores.excess_bits[b] = excess
        if excess != 0:
            continue
        units = 1
        for level in range(n_levels):
            units *= table[level, WAYS] * table[level, WAYS + 1]
        energy = steps * units * machine.mac_pj
        for operand in range(3):
            parent, outer = np.int64(0), 1
            blank = table[0, WORDS + operand]
            while parent < n_levels:
                child = parent + 1
                while child < n_levels and levels[child, operand] == 0:
                    child += 1
                inner, copies = 1, 1
                for level in range(parent, child):
                    copies *= table[level, WAYS + 2 * operand]
                    inner *= table[level, WAYS + 2 * operand + 1]
                if operand == INPUT:
                    words, sends = _inputs(
                        temporal, spatial, order, extents, loops, table, geometry, slope, parent, child
                    )
                else:
                    words = (
                        steps if child == n_levels else table[child, VISITS + operand] * table[child, WORDS + operand]
                    )
                    sends = words * inner
                sends *= outer
                outer *= inner * copies
                copied = words * outer
                reads, writes, drains, fills = sends, 0, 0, copied
                if operand == OUTPUT:
                    reads, writes, drains, fills = sends - blank, sends, copied, sends - blank
                    blank = copied - fills
                    if levels[parent, REDUCTION] == 0:
                        reads, writes = reads + copied - sends, copied
                elif levels[parent, MULTICAST] == 0:
                    reads = copied
                table[parent, MOVED] += reads + writes
                energy += reads * read_pj[parent, operand] + writes * write_pj[parent, operand]
                if child < n_levels:
                    table[child, MOVED] += drains + fills
                    energy += drains * read_pj[child, operand] + fills * write_pj[child, operand]
                parent = child
        cycles, instances = steps, 1
        for level in range(n_levels):
            cycles = max(cycles, np.int64(np.ceil(table[level, MOVED] / (bandwidth[level] * instances))))
            instances *= table[level, WAYS] * table[level, WAYS + 1]
        scores.cycles[b], scores.energy_pj[b] = cycles, energy


@njit(cache=True, nogil=True, error_model="numpy")
def _unroll(temporal: Ints, spatial: Ints, order: Ints, extents: Ints, loops: Ints, table: Ints) -> Int:
    """Fill the tables but for the words; returns the steps of computing, 0 of a row that is no mapping."""
    n_levels = temporal.shape[0]
    legal = True  # a factor of 0 shows in the extents
    for level in range(n_levels - 1, -1, -1):
        signs = 0
        for dim in range(8):
            extents[level, dim] = extents[level + 1, dim] * spatial[level, dim] * temporal[level, dim]
            signs |= spatial[level, dim] | temporal[level, dim]
        legal = legal and signs >= 0
        image, group = np.int64(spatial[level, N]), np.int64(spatial[level, G])
        k, c = np.int64(spatial[level, K]), np.int64(spatial[level, C])
        pixels = np.int64(spatial[level, P]) * spatial[level, P + 1]
        taps = np.int64(spatial[level, R]) * spatial[level, S]
        table[level, WAYS + 2 * WEIGHT] = image * pixels
        table[level, WAYS + 2 * WEIGHT + 1] = group * k * c * taps
        table[level, WAYS + 2 * INPUT] = k
        table[level, WAYS + 2 * INPUT + 1] = image * group * c * pixels * taps
        table[level, WAYS + 2 * OUTPUT] = c * taps
        table[level, WAYS + 2 * OUTPUT + 1] = image * group * k * pixels
    n: Int = 0
    steps: Int = 1
    weights: Int = 1
    outputs: Int = 1
    for level in range(n_levels):
        table[level, FIRST], table[level, MOVED] = n, 0
        table[level, VISITS + WEIGHT], table[level, VISITS + OUTPUT] = weights, outputs
        seen: Int = np.int64(0)
        for i in range(8):
            along = np.int64(order[level, i] & 7)
            seen |= np.int64(1) << np.int64(order[level, i] & 63)
            factor = np.int64(temporal[level, along])
            loops[n, DIM], loops[n, FACTOR], loops[n, OUTSIDE] = along, factor, steps
            loops[n, STEP] = extents[level + 1, along] * spatial[level, along]
            steps *= factor
            active = factor > 1  # a factor of 1 is written over by the next loop: no branch to mispredict
            n += active
            weights = steps if active & (WEIGHT_DIMS >> along) else weights
            outputs = steps if active & (OUTPUT_DIMS >> along) else outputs
        legal = legal and seen == 255
    table[n_levels, FIRST] = n
    loops[n, OUTSIDE] = steps
    return steps if legal else np.int64(0)


@njit(cache=True, nogil=True, error_model="numpy")
def _fit(extents: Ints, table: Ints, geometry: Ints, levels: Ints, capacity: Ints, word_bits: Ints) -> Int:
    """Fill in the words of the tiles; the most bits by which a level is exceeded, 0 if none is."""
    worst = 0
    for level in range(levels.shape[0]):
        kcrs = extents[level, K] * extents[level, C] * extents[level, R] * extents[level, S]
        rows = _positions(extents[level, P], extents[level, R], geometry[0], geometry[2])
        columns = _positions(extents[level, P + 1], extents[level, S], geometry[1], geometry[3])
        table[level, WORDS + WEIGHT] = extents[level, G] * kcrs
        ng = extents[level, N] * extents[level, G]
        table[level, WORDS + INPUT] = ng * extents[level, C] * rows * columns
        table[level, WORDS + OUTPUT] = ng * extents[level, K] * extents[level, P] * extents[level, P + 1]
        if capacity[level] >= 0:
            bits = -capacity[level]
            for operand in range(3):
                bits += levels[level, operand] * table[level, WORDS + operand] * word_bits[level, operand]
            worst = max(worst, bits)
    return worst


@njit(cache=True, nogil=True, error_model="numpy")
def _positions(outputs: Int, taps: Int, stride: Int, dilation: Int) -> Int:
    """`_distinct`, without divisions where one step is 1."""
    if stride == 1 or dilation == 1:
        return outputs * taps - max(0, outputs - dilation) * max(0, taps - stride)
    return _distinct(outputs, taps, stride, dilation)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _inputs(
    temporal: Ints,
    spatial: Ints,
    order: Ints,
    extents: Ints,
    loops: Ints,
    table: Ints,
    geometry: Ints,
    slope: Ints,
    parent: Int,
    child: Int,
) -> tuple[Int, Int]:
    """Words that one instance fetches and distinct ones that all instances behind one parent do."""
    n_levels = extents.shape[0] - 1
    ways, fans = 1, 1
    for level in range(parent, child):
        fans *= table[level, WAYS + 2 * INPUT + 1]
        ways *= np.int64(spatial[level, N]) * spatial[level, G] * spatial[level, C]
    j = table[child, FIRST]
    if child == n_levels and fans == ways:
        return loops[j, OUTSIDE], loops[j, OUTSIDE] * ways
    row = _axis(spatial, extents, table, geometry, parent, child, np.int64(0))
    column = _axis(spatial, extents, table, geometry, parent, child, np.int64(1))
    all_rows, all_columns = _spread(row, row[0]), _spread(column, column[0])
    if all_rows < 0 or all_columns < 0:
        return _slow_inputs(temporal, spatial, order, extents, geometry, parent, child)
    whole, all_whole = row[0] * column[0], all_rows * all_columns
    if child == n_levels:
        return loops[j, OUTSIDE], loops[j, OUTSIDE] * all_whole * ways
    kept = extents[child, N] * extents[child, G] * extents[child, C]
    words, sends, back_h, back_w = whole, all_whole, 0, 0
    while j > 0:
        j -= 1
        dim, behind = loops[j, DIM], loops[j, FACTOR] - 1
        if (CHANNEL_DIMS >> dim) & 1:  # a channel or image that moves shares nothing, nor does any loop outside it
            words += (loops[j + 1, OUTSIDE] - 1) * whole
            sends += (loops[j + 1, OUTSIDE] - 1) * all_whole
            break
        h, w = loops[j, STEP] * slope[dim, 0], loops[j, STEP] * slope[dim, 1]
        new_h, new_w = _new(row, abs(h - back_h)), _new(column, abs(w - back_w))
        back_h, back_w = back_h + h * behind, back_w + w * behind
        count = behind * loops[j, OUTSIDE]
        words += count * (whole - (row[0] - new_h) * (column[0] - new_w))
        if fans > 1:
            new_h, new_w = _spread(row, new_h), _spread(column, new_w)
            if new_h < 0 or new_w < 0:
                return _slow_inputs(temporal, spatial, order, extents, geometry, parent, child)
            sends += count * (all_whole - (all_rows - new_h) * (all_columns - new_w))
    return words * kept, (words if fans == 1 else sends * ways) * kept


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _axis(spatial: Ints, extents: Ints, table: Ints, geometry: Ints, parent: Int, child: Int, axis: Int) -> Line:
    """One axis of the tiles behind a parent, each a run of evenly spaced positions.

    Returns
    -------
    positions of one tile (the run), their spacing, and of the instances spread along outputs and along taps: how many
    and how many positions apart. No run, or instances spread at two levels: a spacing of 0.
    """
    outputs, taps = extents[child, P + axis], extents[child, R + axis]
    stride, dilation = geometry[axis], geometry[2 + axis]
    out_ways, tap_ways, at = np.int64(1), np.int64(1), child - 1
    levels: Int = 0
    for level in range(parent, child):
        o, t = np.int64(spatial[level, P + axis]), np.int64(spatial[level, R + axis])
        spreads = o * t > 1
        at = level if spreads else at
        levels += spreads
        out_ways *= o
        tap_ways *= t
    out_jump, tap_jump = extents[at + 1, P + axis] * stride, extents[at + 1, R + axis] * dilation
    run = _positions(outputs, taps, stride, dilation)
    spacing: Int = np.int64(1)
    if run != (outputs - 1) * stride + (taps - 1) * dilation + 1:
        spacing = stride if taps == 1 else (dilation if outputs == 1 else np.int64(0))
    if levels > 1:
        spacing = np.int64(0)
    return run, spacing, out_ways, out_jump, tap_ways, tap_jump


@njit(cache=True, nogil=True, error_model="numpy")
def _new(line: Line, shift: Int) -> Int:
    """Positions of a run that are new after a shift; without spacing the answer is not used."""
    run, spacing = line[0], line[1]
    if spacing > 1:
        return run if shift % spacing else min(run, shift // spacing)
    return min(run, shift)


@njit(cache=True, nogil=True, error_model="numpy")
def _spread(line: Line, run: Int) -> Int:
    """Positions that all instances together cover with a run each; -1: to be counted position by position."""
    _, spacing, out_ways, out_jump, tap_ways, tap_jump = line
    if spacing == 0:
        return np.int64(-1)
    if ((out_ways == 1) & (tap_ways == 1)) | (run == 0):
        return run
    if spacing > 1:
        return _spread_apart(spacing, run, out_ways, out_jump, tap_ways, tap_jump)
    return _spread_runs(run, out_ways, out_jump, tap_ways, tap_jump)


@njit(cache=True, nogil=True, error_model="numpy")
def _spread_runs(run: Int, out_ways: Int, out_jump: Int, tap_ways: Int, tap_jump: Int) -> Int:
    """`_spread` of runs without gaps."""
    if (out_ways == 1) | (tap_ways == 1) | (run >= tap_jump):
        run += (tap_ways - 1) * min(run, tap_jump)
        return run + (out_ways - 1) * min(run, out_jump)
    if run >= out_jump:
        run += (out_ways - 1) * out_jump
        return run + (tap_ways - 1) * min(run, tap_jump)
    return _distinct(out_ways, tap_ways, out_jump, tap_jump) if run == 1 else np.int64(-1)


@njit(cache=True, nogil=True, error_model="numpy")
def _spread_apart(spacing: Int, run: Int, out_ways: Int, out_jump: Int, tap_ways: Int, tap_jump: Int) -> Int:
    """`_spread` of runs with gaps: the sums of two progressions, or groups of such sums that do not meet."""
    if tap_ways == 1:
        return _distinct(run, out_ways, spacing, out_jump)
    if out_ways == 1:
        return _distinct(run, tap_ways, spacing, tap_jump)
    if out_jump % spacing == 0 and tap_jump % spacing == 0:
        return _spread_runs(run, out_ways, out_jump // spacing, tap_ways, tap_jump // spacing)
    if run * spacing == out_jump:
        return _distinct(run * out_ways, tap_ways, spacing, tap_jump)
    if run * spacing == tap_jump:
        return _distinct(run * tap_ways, out_ways, spacing, out_jump)
    if (run - 1) * spacing + (tap_ways - 1) * tap_jump < out_jump:
        return out_ways * _distinct(run, tap_ways, spacing, tap_jump)
    if (run - 1) * spacing + (out_ways - 1) * out_jump < tap_jump:
        return tap_ways * _distinct(run, out_ways, spacing, out_jump)
    return np.int64(-1)


@njit(cache=True, nogil=True, error_model="numpy")
def _slow_inputs(
    temporal: Ints, spatial: Ints, order: Ints, extents: Ints, geometry: Ints, parent: Int, child: Int
) -> tuple[Int, Int]:
    """`_inputs` by the general kernel, for windows with gaps and neighbours spread two ways."""
    n_levels = extents.shape[0] - 1
    nest = np.zeros((16 * n_levels, 4), np.int64)
    strides = np.ones(16 * n_levels, np.int64)
    fan = np.ones((n_levels, 8), np.int64)
    n = np.int64(0)
    for level in range(n_levels):
        for i in range(8):
            dim = order[level, i]
            fan[level, dim] = spatial[level, dim]
            nest[n, DIM], nest[n, FACTOR], nest[n, LEVEL] = dim, temporal[level, dim], level
            strides[n] = extents[level + 1, dim] * fan[level, dim]
            nest[n + 8, DIM], nest[n + 8, FACTOR], nest[n + 8, LEVEL] = dim, fan[level, dim], level
            nest[n + 8, SPATIAL], strides[n + 8] = 1, extents[level + 1, dim]
            n += 1
        n += 8
    words = _fetches(nest, strides, extents, fan, geometry, child, child, n_levels)
    return words, _fetches(nest, strides, extents, fan, geometry, parent, child, n_levels)
