"""Counting what a loop nest moves, in numbers only. Semantics and equations: `accel_models/loopnest.py`.

Loops are rows (dimension, factor, level, spatial), outermost first; dimensions are numbered N G K C P Q R S, operands
weight input output, levels from the outermost. Loops of factor 1 count for nothing and may pad a table. The number of
levels stands, as a level, for the MAC units. Plain loops instead of array expressions: they compile in a fraction of
the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Int = Any  # an int64 when compiled, a Python int or numpy's where it is not
Ints = NDArray[np.int64]

N, G, K, C, P, Q, R, S = range(8)
WEIGHT, INPUT, OUTPUT = range(3)
DIM, FACTOR, LEVEL, SPATIAL = range(4)
MULTICAST, REDUCTION = 3, 4
TILE, SENDS, DRAINS, FILLS, UPDATES, MERGES = range(6)
EXACT, TIMELOOP = range(2)
WHOLE = -1

RELEVANT = np.array(
    [[0, 1, 1, 1, 0, 0, 1, 1], [1, 1, 0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1, 0, 0]],
    dtype=np.int64,
)


@njit(cache=True, nogil=True)
def count_nests(loops: Ints, geometry: Ints, levels: Ints, convention: Int, out: Ints) -> None:
    """Count many nests on one hierarchy.

    Parameters
    ----------
    loops : int64[B, M, 4]
    geometry : int64[B, 4]
        Stride height, stride width, dilation height, dilation width.
    levels : int64[L, 5]
        Holds weight, holds input, holds output, multicast, spatial reduction.
    convention : int
        EXACT or TIMELOOP.
    out : int64[B, L, 3, 6], zeros
        Filled: tile words of one instance; sends, drains, fills, updates, merges of all instances.
    """
    n_levels = levels.shape[0]
    extents = np.empty((n_levels + 1, 8), np.int64)
    fan = np.empty((n_levels + 1, 8), np.int64)
    strides = np.empty(loops.shape[1], np.int64)
    for b in range(loops.shape[0]):
        _prepare(loops[b], extents, fan, strides)
        for operand in range(3):
            _count_operand(loops[b], strides, extents, fan, geometry[b], levels, operand, convention, out[b])


@njit(cache=True, nogil=True)
def _prepare(loops: Ints, extents: Ints, fan: Ints, strides: Ints) -> None:
    """Extents of the tile of each level, spatial factors under each level, index step of each loop."""
    for level in range(extents.shape[0]):
        for dim in range(8):
            extents[level, dim] = fan[level, dim] = 1
    for j in range(loops.shape[0] - 1, -1, -1):
        dim, factor, at = loops[j, DIM], loops[j, FACTOR], loops[j, LEVEL]
        strides[j] = extents[0, dim]
        for level in range(at + 1):
            extents[level, dim] *= factor
        if loops[j, SPATIAL]:
            fan[at, dim] *= factor


@njit(cache=True, nogil=True)
def _count_operand(
    loops: Ints,
    strides: Ints,
    extents: Ints,
    fan: Ints,
    geometry: Ints,
    levels: Ints,
    operand: Int,
    convention: Int,
    out: Ints,
) -> None:
    """All holders of one operand, each with the next one inside."""
    n_levels = levels.shape[0]
    parent = np.int64(0)  # a plain 0 would be compiled as a case of its own
    blank = _tile(extents, geometry, operand, parent, convention)
    out[parent, operand, TILE] = blank
    while parent < n_levels:
        child = parent + 1
        while child < n_levels and levels[child, operand] == 0:
            child += 1
        tile = _tile(extents, geometry, operand, child, convention)
        outer, inner, copies = 1, 1, 1
        for level in range(child):
            for dim in range(8):
                if level < parent:
                    outer *= fan[level, dim]
                elif RELEVANT[operand, dim]:
                    inner *= fan[level, dim]
                else:
                    copies *= fan[level, dim]
        words = tile * _visits(loops, operand, child, n_levels)
        sends = words * inner
        if operand == OUTPUT:
            refills = sends * outer - blank
            visits = sends * outer * copies
            out[parent, operand, UPDATES] = sends * outer
            if not levels[parent, REDUCTION]:
                out[parent, operand, UPDATES] = visits
                out[parent, operand, MERGES] = visits - sends * outer
            out[parent, operand, SENDS] = refills
            blank = visits - refills
            if child < n_levels:
                out[child, operand, FILLS] = refills if convention == EXACT else visits
                out[child, operand, DRAINS] = visits if convention == EXACT else 0
        else:
            if operand == INPUT and convention == EXACT:
                words = _fetches(loops, strides, extents, fan, geometry, child, child, n_levels)
                sends = _fetches(loops, strides, extents, fan, geometry, parent, child, n_levels)
            elif operand == INPUT and child < n_levels:
                words = _sampled_walk(loops, strides, extents, geometry, child)
                sends = words * inner
            if not levels[parent, MULTICAST]:
                sends = words * inner * copies
            out[parent, operand, SENDS] = sends * outer
            if child < n_levels:
                out[child, operand, FILLS] = words * outer * inner * copies
        if child < n_levels:
            out[child, operand, TILE] = tile
        parent = child


@njit(cache=True, nogil=True)
def _tile(extents: Ints, geometry: Ints, operand: Int, level: Int, convention: Int) -> Int:
    """Words of an operand in the tile of one instance of a level."""
    words = 1
    for dim in range(8):
        if RELEVANT[operand, dim] and (operand != INPUT or (dim < P and dim != K)):
            words *= extents[level, dim]
    if operand == INPUT:
        for axis in range(2):
            outputs, taps = extents[level, P + axis], extents[level, R + axis]
            if convention == EXACT:
                words *= _distinct(outputs, taps, geometry[axis], geometry[2 + axis])
            else:
                words *= (outputs - 1) * geometry[axis] + (taps - 1) * geometry[2 + axis] + 1
    return words


@njit(cache=True, nogil=True)
def _distinct(outputs: Int, taps: Int, stride: Int, dilation: Int) -> Int:
    """Distinct values of stride * o + dilation * t."""
    g, rest = stride, dilation
    while rest:
        g, rest = rest, g % rest
    return outputs * taps - max(0, outputs - dilation // g) * max(0, taps - stride // g)


@njit(cache=True, nogil=True)
def _advances(loops: Ints, j: Int, child: Int) -> bool:
    return loops[j, SPATIAL] == 0 and loops[j, LEVEL] < child and loops[j, FACTOR] > 1


@njit(cache=True, nogil=True)
def _visits(loops: Ints, operand: Int, child: Int, n_levels: Int) -> Int:
    """Tiles that one instance works through: a change of the innermost relevant loop, or outside it, brings one."""
    steps, visits = 1, 1
    for j in range(loops.shape[0]):
        if _advances(loops, j, child):
            steps *= loops[j, FACTOR]
            if RELEVANT[operand, loops[j, DIM]]:
                visits = steps
    return visits if child < n_levels else steps


@njit(cache=True, nogil=True)
def _fetches(
    loops: Ints, strides: Ints, extents: Ints, fan: Ints, geometry: Ints, parent: Int, child: Int, n_levels: Int
) -> Int:
    """Distinct input words that all instances behind one parent fetch; parent = child: that one instance fetches.

    An advance of loop j moves every tile by the same vector, however often it happens: one step of j forward, all
    loops inside back to their start. What is fetched then depends on that vector alone.
    """
    kept = extents[child, N] * extents[child, G] * extents[child, C]
    for level in range(parent, child):
        kept *= fan[level, N] * fan[level, G] * fan[level, C]
    whole = _window(loops, strides, extents, geometry, parent, child, np.int64(WHOLE), np.int64(WHOLE))
    words, advances = whole, 1
    for j in range(loops.shape[0]):
        if not _advances(loops, j, child):
            continue
        count = (loops[j, FACTOR] - 1) * advances
        advances *= loops[j, FACTOR]
        channel, h, w = _move(loops, strides, geometry, j, child)
        if channel:
            words += count * whole
        elif h != 0 or w != 0:
            words += count * _window(loops, strides, extents, geometry, parent, child, abs(h), abs(w))
    if child == n_levels:
        words = whole * advances
    return words * kept


@njit(cache=True, nogil=True)
def _window(loops: Ints, strides: Ints, extents: Ints, geometry: Ints, parent: Int, child: Int, h: Int, w: Int) -> Int:
    """Positions of the image that are new to any instance after its tile moved by h rows and w columns.

    A position is new where its row or its column is; by symmetry only distances matter.
    """
    whole, kept = 1, 1
    for axis in range(2):
        total = _axis(loops, strides, extents, geometry, parent, child, axis, np.int64(WHOLE))
        new = _axis(loops, strides, extents, geometry, parent, child, axis, w if axis else h)
        whole *= total
        kept *= total - new
    return whole - kept


@njit(cache=True, nogil=True)
def _move(loops: Ints, strides: Ints, geometry: Ints, j: Int, child: Int) -> tuple[bool, Int, Int]:
    """How an input tile moves when loop j advances and those inside start again: other channel or image, rows, columns.

    In one dimension an advance outweighs all restarts inside, so a channel that moved shares nothing.
    """
    channel, h, w = False, 0, 0
    for i in range(j, loops.shape[0]):
        if _advances(loops, i, child):
            dim = loops[i, DIM]
            steps = strides[i] if i == j else (1 - loops[i, FACTOR]) * strides[i]
            if dim in (P, R):
                h += steps * geometry[dim - P]
            elif dim in (Q, S):
                w += steps * geometry[dim - P]
            elif dim != K:
                channel = True
    return channel, h, w


@njit(cache=True, nogil=True)
def _axis(
    loops: Ints, strides: Ints, extents: Ints, geometry: Ints, parent: Int, child: Int, axis: Int, shift: Int
) -> Int:
    """Positions of one axis that are new to any instance behind a parent after their tiles moved by `shift`.

    `shift` is a distance, or WHOLE for a first tile.
    """
    outputs, taps = extents[child, P + axis], extents[child, R + axis]
    stride, dilation = geometry[axis], geometry[2 + axis]
    ways, reach = 1, 0
    for j in range(loops.shape[0]):
        if _fans_out(loops, j, parent, child, axis):
            ways *= loops[j, FACTOR]
            reach += (loops[j, FACTOR] - 1) * strides[j] * geometry[loops[j, DIM] - P]
    span = (outputs - 1) * stride + (taps - 1) * dilation + 1
    total = _distinct(outputs, taps, stride, dilation)
    if ways == 1 and shift == WHOLE:
        return total
    if ways == 1 and total == span:
        return min(shift, total)
    tile = np.zeros(span, np.uint8)
    for o in range(outputs):
        for t in range(taps):
            tile[o * stride + t * dilation] = 1
    seen = np.zeros(reach + span, np.uint8)
    count = 0
    for way in range(ways):
        start, digits = 0, way
        for j in range(loops.shape[0]):
            if _fans_out(loops, j, parent, child, axis):
                start += (digits % loops[j, FACTOR]) * strides[j] * geometry[loops[j, DIM] - P]
                digits //= loops[j, FACTOR]
        for x in range(span):
            stays = shift != WHOLE and x + shift < span and tile[x + shift] == 1
            if tile[x] and not stays and not seen[start + x]:
                seen[start + x] = 1
                count += 1
    return count


@njit(cache=True, nogil=True)
def _fans_out(loops: Ints, j: Int, parent: Int, child: Int, axis: Int) -> bool:
    """Whether loop j spreads instances behind a parent along an axis."""
    dim = loops[j, DIM]
    along = dim in (P + axis, R + axis)
    return along and loops[j, SPATIAL] == 1 and loops[j, LEVEL] >= parent and loops[j, LEVEL] < child


@njit(cache=True, nogil=True)
def _sampled_walk(loops: Ints, strides: Ints, extents: Ints, geometry: Ints, child: Int) -> Int:
    """Input words that one instance fetches as Timeloop counts them.

    Of every loop outside only iterations 0 and 1 are walked, the second stands for all later ones. A step fetches
    only what is new if it moves the box along one axis and by the same vector as the step before, or if the step
    before was a reset; any other step fetches the whole box and is a reset.
    """
    box = np.ones(8, np.int64)  # indexed by dimension: N, G, C, and rows and columns at P and Q
    whole = 1
    for dim in range(Q + 1):
        if dim >= P:
            box[dim] = (extents[child, dim] - 1) * geometry[dim - P]
            box[dim] += (extents[child, dim + 2] - 1) * geometry[dim + 2 - P] + 1
        elif dim != K:
            box[dim] = extents[child, dim]
        whole *= box[dim]
    active = 0
    for j in range(loops.shape[0]):
        active += _advances(loops, j, child)
    here, before, last = np.zeros(8, np.int64), np.zeros(8, np.int64), np.zeros(8, np.int64)
    words, reset = whole, True
    for code in range(1, 1 << active):
        weight = _sample(loops, strides, geometry, child, code, here)
        same, moved, axis = True, 0, 0
        for dim in range(Q + 1):
            step = here[dim] - before[dim]
            same = same and step == last[dim]
            before[dim], last[dim] = here[dim], step
            if step != 0:
                moved, axis = moved + 1, dim
        if not (reset or same):
            words, reset = words + weight * whole, True
            continue
        reset = False
        if moved == 1:
            words += weight * (whole // box[axis]) * min(box[axis], abs(last[axis]))
        elif moved > 1:
            words += weight * whole
    return words


@njit(cache=True, nogil=True)
def _sample(loops: Ints, strides: Ints, geometry: Ints, child: Int, code: Int, here: Ints) -> Int:
    """Corner of the box at one sampled iteration, one bit of `code` a loop; returns how many it stands for."""
    for dim in range(8):
        here[dim] = 0
    weight = 1
    for j in range(loops.shape[0] - 1, -1, -1):
        if not _advances(loops, j, child):
            continue
        if code & 1:
            dim = loops[j, DIM]
            weight *= loops[j, FACTOR] - 1
            if dim >= R:
                here[dim - 2] += strides[j] * geometry[dim - P]
            elif dim >= P:
                here[dim] += strides[j] * geometry[dim - P]
            elif dim != K:
                here[dim] += strides[j]
        code >>= 1
    return weight
