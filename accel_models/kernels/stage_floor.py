"""Floors of one stage of a loop nest: what it moves at least, whatever the other stages choose. Numbers only.

A nest is a chain of extents, each dividing the one before: D = E(0), F(0), E(1), F(1), ..., E(L) = 1, where E(c) is the
tile of one instance of level c (level L: one MAC), F(c - 1) what all instances behind one parent work on together,
F / E the spatial factors of level c - 1 and E(c - 1) / F(c - 1) its temporal ones. Stage c chooses (F(c - 1), E(c)).

Of an operand, child c fetches MACs / (E without the operand's dimensions x R) words, where R is how often its tile
rests: the product of the innermost loops that do not index it. The innermost loop lets one operand rest, no other; so
there is one floor for each class of innermost loop. `floor_inside` limits R by the tile around.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from accel_models.kernels.loopnest import INPUT, MULTICAST, OUTPUT, WEIGHT, C, G, Int, Ints, K, N, P, Q, R, S
from accel_models.kernels.mapping_inputs import OUTPUT_DIMS, WEIGHT_DIMS, positions
from accel_models.kernels.nest_terms import Float, Floats, output_price

NO_LOOP = 8
WEIGHT_RESTS, OUTPUT_RESTS, INPUT_RESTS, NONE_RESTS, SECOND, RUN_W, RUN_O, OTHERS, SURE = range(9)
FLOORS = 9


class Hardware(NamedTuple):
    """L levels, M price sets (energy; with more than one set also words moved, by level)."""

    levels: np.ndarray
    """int64[L, 5]: as in `count_nests`"""
    parents: np.ndarray
    """int64[3, L + 1]: of each child that holds the operand, MAC units included; -1 of others"""
    read: np.ndarray
    """float64[M, L + 1, 3], row L zero"""
    write: np.ndarray
    """float64[M, L + 1, 3], row L zero"""
    tail: np.ndarray
    """float64[M, L + 1]: as in `output_price`"""
    bandwidth: np.ndarray
    """float64[L]"""
    fixed: np.ndarray
    """float64[M]: what no mapping changes"""


class Space(NamedTuple):
    """All vectors of divisors of a layer's extents, n of them, and where they may stand."""

    vectors: np.ndarray
    """int64[n, 8]"""
    divisors: np.ndarray
    """int64[8, most], ascending, padded with 0"""
    digit: np.ndarray
    """int64[8, largest extent + 1]: divisor -> its rank"""
    radix: np.ndarray
    """int64[8]: vector = sum of rank x radix"""
    fits: np.ndarray
    """bool[L + 1, n]: tile of a level; row L: the tile of a MAC"""
    spreads: np.ndarray
    """bool[L, n]: spatial factors of a level"""
    ways: np.ndarray
    """int64[L, 4]: most instances inside a level; most of them along dimensions that do not index weight, input,
    output"""
    loops: np.ndarray
    """bool[L, 8]: which dimensions may have a temporal loop at a level"""
    across: np.ndarray
    """bool[L, 8]: which dimensions an axis of a level allows"""
    merges: np.ndarray
    """bool[L + 1, 8]: a tile that is not as large as it may be along this dimension is never better."""
    prime: np.ndarray
    """int64[largest extent + 1]: smallest prime factor"""
    geometry: np.ndarray
    """int64[4]"""


@njit(cache=True, nogil=True, error_model="numpy")
def holds_group(tile: Ints, group: Ints, loops: Ints) -> bool:
    """Whether loops of one level can walk a tile group by group; loops : bool[8], which may."""
    walks = True
    for dim in range(8):
        walks = walks and (tile[dim] == group[dim] or (loops[dim] and tile[dim] % group[dim] == 0))
    return walks


@njit(cache=True, nogil=True, error_model="numpy")
def window(outputs: Int, taps: Int, stride: Int, dilation: Int) -> tuple[Int, Int]:
    """Positions of one axis of a tile, and their spacing (0: uneven)."""
    run = positions(outputs, taps, stride, dilation)
    if run == (outputs - 1) * stride + (taps - 1) * dilation + 1:
        return run, np.int64(1)
    return run, (stride if taps == 1 else (dilation if outputs == 1 else np.int64(0)))


@njit(cache=True, nogil=True, error_model="numpy")
def slide(run: Int, spacing: Int, shift: Int, sure: Int) -> Int:
    """New positions after a move by `shift`, or, unless `sure`, by any multiple of it: at least so many."""
    if spacing == 0:
        return np.int64(0)
    if sure and shift % spacing:
        return run
    return min(run, shift // spacing)


@njit(cache=True, nogil=True, error_model="numpy")
def least_positions(whole_o: Int, whole_t: Int, o: Int, t: Int, stride: Int, dilation: Int) -> Float:
    """Positions of one axis that tiles of o x t fetch at least until they have covered whole_o x whole_t.

    Outputs alone (or taps alone) move a window without gaps by o x stride: each time so many are new. Windows with
    gaps have one position of its own for every output.
    """
    run, spacing = window(o, t, stride, dilation)
    along = whole_o // o * (run if o == whole_o else (min(run, o * stride) if spacing == 1 else o))
    across = whole_t // t * (run if t == whole_t else (min(run, t * dilation) if spacing == 1 else t))
    return float(max(along, across))


@njit(cache=True, nogil=True, error_model="numpy")
def first_moves(tile: Ints, step: Ints, macs: Float, shape: Ints, space: Space, sure: Int, moves: Floats) -> None:
    """Fill `moves` [9] with the input words that all instances with this tile fetch at least, by the innermost loop.

    All steps of the innermost loop move by its step; the share of such steps is 1 - 1 / factor, the factor at least
    the smallest prime of what is left to split. Of no loop outside at all: whole tiles.
    """
    geometry = space.geometry
    rows, row_gap = window(tile[P], tile[R], geometry[0], geometry[2])
    columns, column_gap = window(tile[Q], tile[S], geometry[1], geometry[3])
    kept = float(tile[N] * tile[G] * tile[C])
    words = macs * kept / (kept * tile[K] * tile[P] * tile[Q] * tile[R] * tile[S])
    moves[NO_LOOP] = words * rows * columns
    for first in range(8):
        left = shape[first] // step[first]
        if left == 1:
            continue
        new = rows * columns
        if first >= P:
            shift = step[first] * geometry[first - P]
            if (first - P) % 2 == 0:
                new = slide(rows, row_gap, shift, sure) * columns
            else:
                new = slide(columns, column_gap, shift, sure) * rows
        moves[first] = words * new * (1.0 - 1.0 / space.prime[left]) if first != K else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def class_of(dim: Int) -> Int:
    """Which operand a loop over a dimension, standing innermost, lets rest."""
    if dim in (N, P, Q):
        return WEIGHT_RESTS
    return INPUT_RESTS if dim == K else (NONE_RESTS if dim in (G, NO_LOOP) else OUTPUT_RESTS)


@njit(cache=True, nogil=True, error_model="numpy")
def stage_floor(
    c: Int, group: Ints, tile: Ints, whole_group: Int, shape: Ints, space: Space, hardware: Hardware, out: Floats
) -> None:
    """Fill `out` [M, FLOORS] with what child c moves at least, over all ways to fill in the rest of the nest.

    Columns: by class of the innermost loop outside the child; then of the operand that rests in a class, its share:
    weights in WEIGHT_RESTS, outputs in OUTPUT_RESTS, of INPUT_RESTS all but inputs, and inputs that follow the second
    loop. `whole_group`: not 0: the tile is not chosen yet, and given as the group.
    """
    levels, parents, read, write, tail = (
        hardware.levels,
        hardware.parents,
        hardware.read,
        hardware.write,
        hardware.tail,
    )
    geometry, ways, n_levels = space.geometry, space.ways, levels.shape[0]
    macs = 1.0
    for dim in range(8):
        macs *= shape[dim]
    beyond_w, beyond_i, beyond_o = 1.0, 1.0, 1.0  # most copies, and for inputs instances, from parent to c - 2
    for level in range(c - 1):
        beyond_w *= ways[level, 1] if 0 <= parents[WEIGHT, c] <= level else 1
        beyond_i *= ways[level, 0] if 0 <= parents[INPUT, c] <= level else 1
        beyond_o *= ways[level, 3] if 0 <= parents[OUTPUT, c] <= level else 1
    sure = np.int64(1)
    for level in range(c - 1):
        sure &= ways[level, 0] == 1
    pixels, taps = tile[N] * tile[P] * tile[Q], tile[C] * tile[R] * tile[S]
    copies_w = group[N] * group[P] * group[Q] // pixels
    copies_o = group[C] * group[R] * group[S] // taps
    all_pixels, all_taps = shape[N] * shape[P] * shape[Q], shape[C] * shape[R] * shape[S]
    distinct = float(shape[N] * shape[G] * shape[C])
    distinct *= least_positions(shape[P], shape[R], group[P], group[R], geometry[0], geometry[2])
    distinct *= least_positions(shape[Q], shape[S], group[Q], group[S], geometry[1], geometry[3])
    k_run = shape[K] // group[K]
    out[:, :] = np.inf
    sets = out.shape[0]
    straight, filled = np.empty(9), np.empty(9)
    first_moves(group, group, macs, shape, space, sure, straight)
    first_moves(tile, group, macs, shape, space, sure, filled)
    p = parents[INPUT, c]
    multicast = p >= 0 and levels[p, MULTICAST] == 1
    moving = False
    for first in range(NO_LOOP + 1):  # inputs
        if first == NO_LOOP:
            if moving and c < n_levels:
                continue
        elif c == n_levels or shape[first] == group[first]:
            continue
        moving = True
        kind = class_of(first)
        if p < 0:
            for m in range(sets):
                out[m, kind] = 0.0
                out[m, SECOND] = 0.0
            continue
        if c == n_levels:
            sends, fills = straight[NO_LOOP], macs
        elif first == K:
            sends, fills = distinct, distinct * (group[K] // tile[K])
        else:
            sends = max(distinct, straight[first])
            fills = max(filled[first], sends * (group[K] // tile[K]))
            for m in range(sets):
                sent = read[m, p, INPUT] * (straight[first] / beyond_i if multicast else filled[first])
                out[m, SECOND] = min(out[m, SECOND], (filled[first] * write[m, c, INPUT] + sent) / k_run)
        for m in range(sets):
            sent = read[m, p, INPUT] * (sends / beyond_i if multicast else fills)
            out[m, kind] = min(out[m, kind], fills * write[m, c, INPUT] + sent)
    for m in range(sets):
        out[m, OTHERS] = 0.0
        if out[m, SECOND] == np.inf:
            out[m, SECOND] = 0.0
        p = parents[WEIGHT, c]
        if p >= 0:
            shared = copies_w * beyond_w if levels[p, MULTICAST] else 1.0
            price = write[m, c, WEIGHT] + read[m, p, WEIGHT] / shared
            out[m, RUN_W] = macs / all_pixels * copies_w * price
            add_part(out[m], np.int64(WEIGHT_RESTS), out[m, RUN_W], macs / pixels * price)
        else:
            out[m, RUN_W] = 0.0
        p = parents[OUTPUT, c]
        out[m, RUN_O] = 0.0
        if p >= 0:
            words, most = macs / all_taps * copies_o, macs / taps
            price = output_price(m, p, c, copies_o * beyond_o, levels, read, write, tail)
            rest, run = most * price, (words if price >= 0.0 else most) * price
            if whole_group:
                spread = float(ways[c - 1, 3])
                price = spread * output_price(m, p, c, spread * beyond_o, levels, read, write, tail)
                rest = min(rest, most * price)
                run = min(run, (words if price >= 0.0 else most) * price)
            out[m, RUN_O] = max(0.0, run)
            add_part(out[m], np.int64(OUTPUT_RESTS), run, rest)
        if c == n_levels:  # the order does not matter
            out[m, :NONE_RESTS] = out[m, NONE_RESTS]
            out[m, SECOND:SURE] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def add_part(floors: Floats, kind: Int, run: Float, other: Float) -> None:
    """Add an operand's part to the classes: `run` where it rests."""
    for i in range(SECOND):
        floors[i] += run if i == kind else other
    floors[OTHERS] += other


@njit(cache=True, nogil=True, error_model="numpy")
def least_of(floors: Floats) -> Float:
    """Over the classes of the innermost loop."""
    return min(min(floors[0], floors[1]), min(floors[2], floors[3]))


@njit(cache=True, nogil=True, error_model="numpy")
def floor_inside(floors: Floats, outside: Ints, group: Ints, shape: Ints, sums: Floats) -> None:
    """Add to `sums` [M] the floor of a stage, where the tile outside the group is known.

    An operand rests at most while the loops of one level pass that it does not depend on, unless there are no others
    at the level. floors : float64[M, FLOORS]
    """
    active = 0
    pixels, taps, columns = 1.0, 1.0, 1.0  # loops outside the level over which an operand may not rest any more
    for dim in range(8):
        if outside[dim] != group[dim]:
            active |= 1 << dim
        if dim in (N, P, Q):
            pixels *= shape[dim] // outside[dim]
        elif dim == K:
            columns *= shape[dim] // outside[dim]
        elif dim != G:
            taps *= shape[dim] // outside[dim]
    for m in range(sums.shape[0]):
        least = least_of(floors[m])
        if active:
            least = np.inf
            if active & ~WEIGHT_DIMS:
                more = (pixels - 1.0) * floors[m, RUN_W] if active & WEIGHT_DIMS else 0.0
                least = min(least, floors[m, WEIGHT_RESTS] + more)
            if active & ~OUTPUT_DIMS:
                more = (taps - 1.0) * floors[m, RUN_O] if active & OUTPUT_DIMS else 0.0
                least = min(least, floors[m, OUTPUT_RESTS] + more)
            if active & (1 << K):
                inputs = floors[m, OTHERS] + (columns if active & ~(1 << K) else 1.0) * floors[m, SECOND]
                least = min(least, max(floors[m, INPUT_RESTS], inputs))
            if active & (1 << G):
                least = min(least, floors[m, NONE_RESTS])
        sums[m] += max(least, floors[m, SURE])
