"""Cycles, energy and fit of many mappings of one layer on one machine, without counting tables in between.

The counts are those of `kernels/loopnest.py` (convention EXACT); where an input window is not one interval, that kernel
does the counting. A mapping is a table of factors: at each level and dimension a temporal and a spatial one, the
temporal loops of a level in a given order, its spatial loops inside them.
"""

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
    K,
    N,
    P,
    R,
    _distinct,
    _fetches,
)


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
    """int64[B]: the most by which a tile exceeds its level; 0 where all fit. Not scored where it is positive."""


class Nest(NamedTuple):
    """One mapping unrolled; allocated once, written for each mapping."""

    extents: np.ndarray
    """int64[L + 1, 8], of the tile of each level."""
    fan: np.ndarray
    """int64[L + 1, 8], spatial factors."""
    loops: np.ndarray
    """int64[8 L, 3]: dimension, factor, index step of each temporal loop of a factor above 1, outermost first."""
    steps: np.ndarray
    """int64[8 L + 1]: product of the loops outside each."""
    first: np.ndarray
    """int64[L + 1]: the first loop of each level."""
    ways: np.ndarray
    """int64[L, 3, 2]: spatial fan-out of a level along dimensions that do not and do index each operand."""
    moved: np.ndarray
    """int64[L, 2]: reads and writes of each level."""


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_mappings(factors, geometry, machine, start, stop, scores):
    """Score mappings start..stop-1; several threads may share the arrays."""
    n_levels = factors.temporal.shape[1]
    nest = Nest(
        np.ones((n_levels + 1, 8), np.int64),
        np.ones((n_levels + 1, 8), np.int64),
        np.ones((8 * n_levels, 3), np.int64),
        np.ones(8 * n_levels + 1, np.int64),
        np.zeros(n_levels + 1, np.int64),
        np.ones((n_levels, 3, 2), np.int64),
        np.zeros((n_levels, 2), np.int64),
    )
    for b in range(start, stop):
        _unroll(factors, b, nest)
        excess = _excess(nest, geometry, machine)
        scores.excess_bits[b] = excess
        if excess == 0:
            scores.cycles[b], scores.energy_pj[b] = _score(factors, b, nest, geometry, machine)


@njit(cache=True, nogil=True, error_model="numpy")
def _unroll(factors, b, nest):
    temporal, spatial, order = factors.temporal, factors.spatial, factors.order
    n_levels = temporal.shape[1]
    for level in range(n_levels - 1, -1, -1):
        fans = False
        for dim in range(8):
            nest.fan[level, dim] = spatial[b, level, dim]
            fans = fans or spatial[b, level, dim] > 1
            nest.extents[level, dim] = nest.extents[level + 1, dim] * spatial[b, level, dim] * temporal[b, level, dim]
        for operand in range(3):
            nest.ways[level, operand, 0] = nest.ways[level, operand, 1] = 1
            if fans:
                for dim in range(8):
                    nest.ways[level, operand, RELEVANT[operand, dim]] *= spatial[b, level, dim]
    n, steps = 0, 1
    for level in range(n_levels):
        nest.first[level] = n
        for i in range(8):
            dim = order[b, level, i]
            factor = temporal[b, level, dim]
            if factor > 1:
                nest.loops[n, 0], nest.loops[n, 1] = dim, factor
                nest.loops[n, 2] = nest.extents[level + 1, dim] * spatial[b, level, dim]
                nest.steps[n] = steps
                steps *= factor
                n += 1
    nest.first[n_levels] = n
    nest.steps[n] = steps


@njit(cache=True, nogil=True, error_model="numpy")
def _excess(nest, geometry, machine):
    worst = 0
    for level in range(machine.levels.shape[0]):
        if machine.capacity_bits[level] >= 0:
            bits = -machine.capacity_bits[level]
            for operand in range(3):
                if machine.levels[level, operand]:
                    bits += _words(nest, geometry, operand, level) * machine.word_bits[level, operand]
            worst = max(worst, bits)
    return worst


@njit(cache=True, nogil=True, error_model="numpy")
def _words(nest, geometry, operand, level):
    """Words of an operand in the tile of one instance."""
    e = nest.extents
    if operand == WEIGHT:
        return e[level, G] * e[level, K] * e[level, C] * e[level, R] * e[level, R + 1]
    if operand == OUTPUT:
        return e[level, N] * e[level, G] * e[level, K] * e[level, P] * e[level, P + 1]
    words = e[level, N] * e[level, G] * e[level, C]
    for axis in range(2):
        words *= _positions(e[level, P + axis], e[level, R + axis], geometry[axis], geometry[2 + axis])
    return words


@njit(cache=True, nogil=True, error_model="numpy")
def _positions(outputs, taps, stride, dilation):
    """`_distinct`, without divisions where one step is 1."""
    if stride == 1 or dilation == 1:
        return outputs * taps - max(0, outputs - dilation) * max(0, taps - stride)
    return _distinct(outputs, taps, stride, dilation)


@njit(cache=True, nogil=True, error_model="numpy")
def _score(factors, b, nest, geometry, machine):
    n_levels = machine.levels.shape[0]
    for level in range(n_levels):
        nest.moved[level, 0] = nest.moved[level, 1] = 0
    steps = nest.steps[nest.first[n_levels]]
    units = 1
    for level in range(n_levels):
        units *= nest.ways[level, 0, 0] * nest.ways[level, 0, 1]
    energy = steps * units * machine.mac_pj
    for operand in range(3):
        parent, outer = np.int64(0), 1
        blank = _words(nest, geometry, operand, parent) if operand == OUTPUT else 0
        while parent < n_levels:
            child = parent + 1
            while child < n_levels and machine.levels[child, operand] == 0:
                child += 1
            inner, copies = 1, 1
            for level in range(parent, child):
                copies *= nest.ways[level, operand, 0]
                inner *= nest.ways[level, operand, 1]
            if operand == INPUT:
                words, sends = _inputs(factors, b, nest, geometry, parent, child)
            else:
                words = _visits(nest, operand, child)
                if child < n_levels:
                    words *= _words(nest, geometry, operand, child)
                sends = words * inner
            sends *= outer
            copied = words * outer * inner * copies
            reads, writes = sends, 0
            fills, drains = copied, 0
            if operand == OUTPUT:
                fills, drains = sends - blank, copied
                reads, writes = fills, sends
                blank = copied - fills
                if not machine.levels[parent, REDUCTION]:
                    reads, writes = reads + copied - sends, copied
            elif not machine.levels[parent, MULTICAST]:
                reads = copied
            energy += _charge(nest, machine, parent, operand, reads, writes)
            if child < n_levels:
                energy += _charge(nest, machine, child, operand, drains, fills)
            outer *= inner * copies
            parent = child
    return _slowest(nest, machine, steps), energy


@njit(cache=True, nogil=True, error_model="numpy")
def _charge(nest, machine, level, operand, reads, writes):
    nest.moved[level, 0] += reads
    nest.moved[level, 1] += writes
    return reads * machine.read_pj[level, operand] + writes * machine.write_pj[level, operand]


@njit(cache=True, nogil=True, error_model="numpy")
def _slowest(nest, machine, steps):
    """The largest over computing and all levels of words / bandwidth."""
    cycles, instances = steps, 1
    for level in range(machine.levels.shape[0]):
        needed = np.ceil((nest.moved[level, 0] + nest.moved[level, 1]) / (machine.bandwidth[level] * instances))
        cycles = max(cycles, np.int64(needed))
        instances *= nest.ways[level, 0, 0] * nest.ways[level, 0, 1]
    return cycles


@njit(cache=True, nogil=True, error_model="numpy")
def _visits(nest, operand, child):
    """Tiles that one instance works through."""
    last = nest.first[child]
    if child < nest.first.shape[0] - 1:
        while last > 0 and not RELEVANT[operand, nest.loops[last - 1, 0]]:
            last -= 1
    return nest.steps[last]


@njit(cache=True, nogil=True, error_model="numpy")
def _inputs(factors, b, nest, geometry, parent, child):
    """Words that one instance fetches and distinct ones that all instances behind one parent do."""
    e, n_levels = nest.extents, nest.extents.shape[0] - 1
    kept, ways = e[child, N] * e[child, G] * e[child, C], 1
    for level in range(parent, child):
        ways *= nest.fan[level, N] * nest.fan[level, G] * nest.fan[level, C]
    rows, all_rows, row_jump, row_ways = _axis(nest, geometry, parent, child, np.int64(0))
    columns, all_columns, column_jump, column_ways = _axis(nest, geometry, parent, child, np.int64(1))
    if all_rows < 0 or all_columns < 0:
        return _slow_inputs(factors, b, nest, geometry, parent, child)
    whole, all_whole = rows * columns, all_rows * all_columns
    j = nest.first[child]
    if child == n_levels:
        return nest.steps[j], nest.steps[j] * all_whole * ways
    words, sends, back_h, back_w = 0, 0, 0, 0
    while j > 0:
        j -= 1
        dim, factor, step = nest.loops[j, 0], nest.loops[j, 1], nest.loops[j, 2]
        if dim == K:
            h, w = -back_h, -back_w
        elif dim < P:  # a channel or an image that moves shares nothing, nor does any loop outside it
            words += nest.steps[j + 1] * whole
            sends += nest.steps[j + 1] * all_whole
            return words * kept, sends * kept * ways
        elif (dim - P) & 1:
            w = step * geometry[dim - P]
            back_w += w * (factor - 1)
            h, w = -back_h, w - back_w + w * (factor - 1)
        else:
            h = step * geometry[dim - P]
            back_h += h * (factor - 1)
            h, w = h - back_h + h * (factor - 1), -back_w
        if h == 0 and w == 0:
            continue
        new_h, new_w = min(abs(h), rows), min(abs(w), columns)
        count = (factor - 1) * nest.steps[j]
        words += count * (whole - (rows - new_h) * (columns - new_w))
        new_h += (row_ways - 1) * min(new_h, row_jump)
        new_w += (column_ways - 1) * min(new_w, column_jump)
        sends += count * (all_whole - (all_rows - new_h) * (all_columns - new_w))
    return (words + whole) * kept, (sends + all_whole) * kept * ways


@njit(cache=True, nogil=True, error_model="numpy")
def _axis(nest, geometry, parent, child, axis):
    """One axis: positions of one tile, of all tiles behind a parent, and how far apart and how many those tiles are.

    Minus one positions of all: not one interval after another, to be counted position by position.
    """
    outputs, taps = nest.extents[child, P + axis], nest.extents[child, R + axis]
    stride, dilation = geometry[axis], geometry[2 + axis]
    total = _positions(outputs, taps, stride, dilation)
    span = (outputs - 1) * stride + (taps - 1) * dilation + 1
    out_ways, tap_ways, at = 1, 1, -1
    for level in range(parent, child):
        if nest.fan[level, P + axis] > 1 or nest.fan[level, R + axis] > 1:
            if at >= 0:
                return total, np.int64(-1), 0, 1
            at = level
            out_ways, tap_ways = nest.fan[level, P + axis], nest.fan[level, R + axis]
    if child == nest.extents.shape[0] - 1:  # MAC units: tiles are points and never kept
        if at < 0:
            return total, total, 0, 1
        out_jump, tap_jump = nest.extents[at + 1, P + axis] * stride, nest.extents[at + 1, R + axis] * dilation
        return total, _positions_of_points(out_ways, tap_ways, out_jump, tap_jump), 0, 1
    if total != span or (out_ways > 1 and tap_ways > 1):
        return total, np.int64(-1), 0, 1
    if at < 0:
        return total, total, 0, 1
    jump = nest.extents[at + 1, P + axis] * stride if out_ways > 1 else nest.extents[at + 1, R + axis] * dilation
    ways = out_ways * tap_ways
    return total, span + (ways - 1) * min(span, jump), jump, ways


@njit(cache=True, nogil=True, error_model="numpy")
def _positions_of_points(out_ways, tap_ways, out_jump, tap_jump):
    if out_ways == 1 or tap_ways == 1:
        return out_ways * tap_ways
    return _distinct(out_ways, tap_ways, out_jump, tap_jump)


@njit(cache=True, nogil=True, error_model="numpy")
def _slow_inputs(factors, b, nest, geometry, parent, child):
    """`_inputs` by the general kernel, for windows with gaps and neighbours spread two ways."""
    n_levels = nest.extents.shape[0] - 1
    table = np.zeros((16 * n_levels, 4), np.int64)
    strides = np.ones(16 * n_levels, np.int64)
    n = np.int64(0)
    for level in range(n_levels):
        for i in range(8):
            dim = factors.order[b, level, i]
            table[n, DIM], table[n, FACTOR] = dim, factors.temporal[b, level, dim]
            table[n, LEVEL], strides[n] = level, nest.extents[level + 1, dim] * factors.spatial[b, level, dim]
            table[n + 8, DIM], table[n + 8, FACTOR] = dim, factors.spatial[b, level, dim]
            table[n + 8, LEVEL], table[n + 8, SPATIAL], strides[n + 8] = level, 1, nest.extents[level + 1, dim]
            n += 1
        n += 8
    words = _fetches(table, strides, nest.extents, nest.fan, geometry, child, child, n_levels)
    return words, _fetches(table, strides, nest.extents, nest.fan, geometry, parent, child, n_levels)
