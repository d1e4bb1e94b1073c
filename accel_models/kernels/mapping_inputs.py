"""Input words that a mapping fetches: windows that slide, and instances that share them. Numbers only.

Used by `kernels/mapping_cost.py`, which names the columns of the tables, and by the mapper's kernels.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from accel_models.kernels.loopnest import (
    DIM,
    FACTOR,
    INPUT,
    LEVEL,
    OUTPUT,
    RELEVANT,
    SPATIAL,
    WEIGHT,
    C,
    G,
    Int,
    Ints,
    N,
    P,
    R,
    _distinct,
    _fetches,
)

STEP, OUTSIDE = 2, 3
WEIGHT_DIMS, OUTPUT_DIMS = (sum(1 << dim for dim in range(8) if RELEVANT[o, dim]) for o in (WEIGHT, OUTPUT))
CHANNEL_DIMS = 1 << N | 1 << G | 1 << C
FIRST, VISITS, WORDS, WAYS, COLUMNS = 0, 1, 4, 7, 13


Line = tuple[Int, Int, Int, Int, Int, Int]
"""One axis of the tiles behind a parent; see `axis_line`."""


@njit(cache=True, nogil=True, error_model="numpy")
def positions(outputs: Int, taps: Int, stride: Int, dilation: Int) -> Int:
    """`_distinct`, without divisions where one step is 1."""
    if stride == 1 or dilation == 1:
        return outputs * taps - max(0, outputs - dilation) * max(0, taps - stride)
    return _distinct(outputs, taps, stride, dilation)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def fetched_inputs(
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
    row = axis_line(spatial, extents, table, geometry, parent, child, np.int64(0))
    column = axis_line(spatial, extents, table, geometry, parent, child, np.int64(1))
    all_rows, all_columns = spread_positions(row, row[0]), spread_positions(column, column[0])
    if all_rows < 0 or all_columns < 0:
        return slow_inputs(temporal, spatial, order, extents, geometry, parent, child)
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
        new_h, new_w = new_positions(row, abs(h - back_h)), new_positions(column, abs(w - back_w))
        back_h, back_w = back_h + h * behind, back_w + w * behind
        count = behind * loops[j, OUTSIDE]
        words += count * (whole - (row[0] - new_h) * (column[0] - new_w))
        if fans > 1:
            new_h, new_w = spread_positions(row, new_h), spread_positions(column, new_w)
            if new_h < 0 or new_w < 0:
                return slow_inputs(temporal, spatial, order, extents, geometry, parent, child)
            sends += count * (all_whole - (all_rows - new_h) * (all_columns - new_w))
    return words * kept, (words if fans == 1 else sends * ways) * kept


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def axis_line(spatial: Ints, extents: Ints, table: Ints, geometry: Ints, parent: Int, child: Int, axis: Int) -> Line:
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
    run = positions(outputs, taps, stride, dilation)
    spacing: Int = np.int64(1)
    if run != (outputs - 1) * stride + (taps - 1) * dilation + 1:
        spacing = stride if taps == 1 else (dilation if outputs == 1 else np.int64(0))
    if levels > 1:
        spacing = np.int64(0)
    return run, spacing, out_ways, out_jump, tap_ways, tap_jump


@njit(cache=True, nogil=True, error_model="numpy")
def new_positions(line: Line, shift: Int) -> Int:
    """Positions of a run that are new after a shift; without spacing the answer is not used."""
    run, spacing = line[0], line[1]
    if spacing > 1:
        return run if shift % spacing else min(run, shift // spacing)
    return min(run, shift)


@njit(cache=True, nogil=True, error_model="numpy")
def spread_positions(line: Line, run: Int) -> Int:
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
    """`spread_positions` of runs without gaps."""
    if (out_ways == 1) | (tap_ways == 1) | (run >= tap_jump):
        run += (tap_ways - 1) * min(run, tap_jump)
        return run + (out_ways - 1) * min(run, out_jump)
    if run >= out_jump:
        run += (out_ways - 1) * out_jump
        return run + (tap_ways - 1) * min(run, tap_jump)
    return _distinct(out_ways, tap_ways, out_jump, tap_jump) if run == 1 else np.int64(-1)


@njit(cache=True, nogil=True, error_model="numpy")
def _spread_apart(spacing: Int, run: Int, out_ways: Int, out_jump: Int, tap_ways: Int, tap_jump: Int) -> Int:
    """`spread_positions` of runs with gaps: the sums of two progressions, or groups of such sums that do not meet."""
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
def slow_inputs(
    temporal: Ints, spatial: Ints, order: Ints, extents: Ints, geometry: Ints, parent: Int, child: Int
) -> tuple[Int, Int]:
    """`fetched_inputs` by the general kernel, for windows with gaps and neighbours spread two ways."""
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
