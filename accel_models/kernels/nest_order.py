"""The cheapest order of temporal loops when all tiles are given: branch and bound from the innermost loop outward.

Everything moved is a sum over children c of `loopnest` pairs (parent, child), in two kinds of terms:

- weights and outputs: a price times the visits V(c) = product of the loops outside c without the innermost ones that
  do not index the operand. Once a loop that does is placed, V(c) is known ("closed"); before, V(c) is at least the
  product of the indexing loops. Outputs are linear in all V: with B(p) = |O| + sum over holders j up to p of
  V(j) (1 - 1 / copies(j)) the blank words, refills(c) = V(c) / copies(c) - B(p).
- inputs: every loop j costs (factor - 1) x (product of the loops outside j) x what a step of it fetches, which
  depends on it and the loops inside it alone; once a loop over channels or images is placed, every step fetches all.

So the cost of what is placed is exact, and what is open has a bound: the sum is admissible. Prices come in sets
(energy; then, of each level, words moved), one sum each. Orders that cannot differ are tried once: where only inputs
are open, channel loops go outermost; where inputs are closed, loops that the open operand does not index go innermost.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel_models.kernels.loopnest import (
    INPUT,
    MULTICAST,
    OUTPUT,
    REDUCTION,
    RELEVANT,
    WEIGHT,
    Int,
    Ints,
    P,
)
from accel_models.kernels.mapping_cost import CHANNEL_DIMS, OUTPUT_DIMS, WEIGHT_DIMS, _axis, _new, _slow_inputs, _spread

Floats = NDArray[np.float64]
Float = Any

ENERGY, LATENCY, EDP = range(3)
ROUNDING = 1e-12
"""Relative; what float64 sums of exact counts may be off."""
W_OPEN, I_OPEN, O_OPEN = 1, 2, 4


class Room(NamedTuple):
    """Where the search keeps its tables: D = 8 (L - 1) + 1 states, M price sets."""

    lines: np.ndarray
    """int64[L + 1, 2, 6]"""
    visit: np.ndarray
    """float64[L + 1, 3, M]"""
    fetch: np.ndarray
    """float64[L + 1, 2, M]"""
    least: np.ndarray
    """float64[L + 1, 5]"""
    floor: np.ndarray
    """float64[L + 1, M]: inputs at least"""
    flags: np.ndarray
    """int64[D, L + 1]: operands open"""
    back: np.ndarray
    """int64[D, L + 1, 2]: rows and columns that the loops placed go back when they start again"""
    inside: np.ndarray
    """float64[D, L + 1]: product of the loops placed"""
    sums: np.ndarray
    """float64[D, M]: of weights and outputs that are closed"""
    inputs: np.ndarray
    """float64[D, L + 1, M]"""
    base: np.ndarray
    """float64[M]"""
    total: np.ndarray
    """float64[M]"""
    sure: np.ndarray
    """bool[D]: no bound in the sums"""
    path: np.ndarray
    """int64[D, 2]: level and dimension of the loops placed, innermost first"""
    masks: np.ndarray
    """int64[D, 4]"""
    trial: np.ndarray
    """int64[L, 8]"""


@njit(cache=True, nogil=True, error_model="numpy")
def value_of(moved: Floats, steps: Float, rates: Floats, objective: Int, cap: Float) -> Float:
    """Objective from sums per price set; `rates`: words a cycle that all instances of a level move together.

    With a `cap`, infinite where the cycles exceed it.
    """
    if moved.shape[0] == 1:
        return moved[0]
    cycles = steps
    for level in range(rates.shape[0]):
        cycles = max(cycles, np.ceil(moved[1 + level] / rates[level] * (1.0 - ROUNDING)))
    if cycles > cap:
        return np.inf
    return moved[0] if objective == ENERGY else (cycles if objective == LATENCY else cycles * moved[0])


@njit(cache=True, nogil=True, error_model="numpy")
def output_price(
    m: Int, p: Int, c: Int, copies: Float, levels: Ints, read: Floats, write: Floats, tail: Floats
) -> Float:
    """What one visit of one output word at child c costs, refills included, less what it leaves blank further in.

    read, write : float64[M, L + 1, 3], row L (the MAC units) zero
    tail : float64[M, L + 1], of each child: sum of (read of parent + write of child) over the children further in
    """
    reads, writes = read[m, p, OUTPUT], write[m, p, OUTPUT]
    price = read[m, c, OUTPUT] + (reads + write[m, c, OUTPUT]) / copies - (1.0 - 1.0 / copies) * tail[m, c]
    if levels[p, REDUCTION]:
        return price + writes / copies
    return price + writes + reads * (1.0 - 1.0 / copies)


@njit(cache=True, nogil=True, error_model="numpy")
def prepare_terms(
    last: Int,
    extents: Ints,
    spatial: Ints,
    temporal: Ints,
    geometry: Ints,
    levels: Ints,
    parents: Ints,
    read: Floats,
    write: Floats,
    tail: Floats,
    lines: Ints,
    visit: Floats,
    fetch: Floats,
    least: Floats,
    base: Floats,
) -> bool:
    """Prices of all terms of the children up to `last`; returns whether they are exact, or bounds somewhere.

    extents : int64[L + 1, 8], spatial, temporal : int64[L, 8], given for the levels outside `last`
    parents : int64[3, L + 1], of each child that holds the operand, MAC units included; -1: does not hold it
    lines : int64[L + 1, 2, 6], filled: `_axis` of rows and columns
    visit : float64[L + 1, 3, M], filled: of a visit of one tile, all instances
    fetch : float64[L + 1, 2, M], filled: of a position of the window of one instance; of all behind one parent
    least : float64[L + 1, 5], filled: visits at least by operand, all temporal loops, distinct input tiles
    base : float64[M], filled: what no order changes, but for inputs
    """
    n_levels, sets = spatial.shape[0], base.shape[0]
    exact = True
    for m in range(sets):
        base[m] = 0.0
    outside, around = 1.0, 1.0  # instances of the child; temporal loops outside it
    weights, outputs, tiles = 1.0, 1.0, 1.0
    for c in range(1, last + 1):
        for dim in range(8):
            factor = temporal[c - 1, dim]
            outside *= spatial[c - 1, dim]
            around *= factor
            weights *= factor if RELEVANT[WEIGHT, dim] else 1
            outputs *= factor if RELEVANT[OUTPUT, dim] else 1
            tiles *= factor if (CHANNEL_DIMS >> dim) & 1 else 1
        least[c, WEIGHT], least[c, OUTPUT], least[c, 3], least[c, 4] = weights, outputs, around, tiles
        for operand in range(3):
            p = parents[operand, c]
            if p < 0:
                continue
            copies, ways, parents_at, words = 1.0, 1.0, outside, 1.0
            for level in range(p, c):
                for dim in range(8):
                    parents_at /= spatial[level, dim]
                    if not RELEVANT[operand, dim]:
                        copies *= spatial[level, dim]
                    if (CHANNEL_DIMS >> dim) & 1:
                        ways *= spatial[level, dim]
            for dim in range(8):
                if RELEVANT[operand, dim] and (operand != INPUT or dim < P):
                    words *= extents[c, dim]
            if operand == INPUT:
                for axis in range(2):
                    line = _axis(spatial, extents, spatial, geometry, p, c, np.int64(axis))
                    for i in range(6):
                        lines[c, axis, i] = line[i]
                    exact = exact and line[1] != 0
            for m in range(sets):
                sent = read[m, p, operand]
                if operand == INPUT:
                    multicast = levels[p, MULTICAST] == 1
                    fetch[c, 0, m] = outside * words * (write[m, c, INPUT] + (0.0 if multicast else sent))
                    fetch[c, 1, m] = parents_at * ways * words * sent if multicast else 0.0
                elif operand == WEIGHT:
                    shared = copies if levels[p, MULTICAST] else 1.0
                    visit[c, WEIGHT, m] = outside * words * (write[m, c, WEIGHT] + sent / shared)
                else:
                    visit[c, OUTPUT, m] = outside * words * output_price(m, p, c, copies, levels, read, write, tail)
                if c == n_levels and operand != INPUT:
                    base[m] += visit[c, operand, m] * around
    return exact


@njit(cache=True, nogil=True, error_model="numpy")
def tile_positions(lines: Ints, c: Int) -> tuple[Int, Int]:
    """Rows and columns of the windows of all instances together; negative: at least so many."""
    row, column = line_of(lines, c, 0), line_of(lines, c, 1)
    rows, columns = _spread(row, row[0]), _spread(column, column[0])
    return (rows if rows >= 0 else -row[0]), (columns if columns >= 0 else -column[0])


@njit(cache=True, nogil=True, error_model="numpy")
def line_of(lines: Ints, c: Int, axis: Int) -> tuple[Int, Int, Int, Int, Int, Int]:
    line = lines[c, axis]
    return line[0], line[1], line[2], line[3], line[4], line[5]


@njit(cache=True, nogil=True, error_model="numpy")
def step_cost(lines: Ints, fetch: Floats, c: Int, h: Int, w: Int, count: Float, sums: Floats) -> bool:
    """Add what `count` moves of the input tiles by h rows and w columns fetch; returns whether it is exact."""
    row, column = line_of(lines, c, 0), line_of(lines, c, 1)
    new_h, new_w = _new(row, abs(h)), _new(column, abs(w))
    exact = row[1] != 0 and column[1] != 0
    if not exact:
        new_h, new_w = (new_h if row[1] else 0), (new_w if column[1] else 0)
    one = row[0] * column[0] - (row[0] - new_h) * (column[0] - new_w)
    rows, columns = _spread(row, row[0]), _spread(column, column[0])
    some_h, some_w = _spread(row, new_h), _spread(column, new_w)
    every = one
    if rows >= 0 and columns >= 0 and some_h >= 0 and some_w >= 0:
        every = rows * columns - (rows - some_h) * (columns - some_w)
    else:
        exact = False
    for m in range(sums.shape[0]):
        sums[m] += count * (one * fetch[c, 0, m] + every * fetch[c, 1, m])
    return exact


@njit(cache=True, nogil=True, error_model="numpy")
def start_state(
    last: Int,
    lines: Ints,
    parents: Ints,
    fetch: Floats,
    least: Floats,
    flags: Ints,
    back: Ints,
    inside: Floats,
    inputs: Floats,
    floor: Floats,
) -> bool:
    """State before the first loop: first tiles fetched, every operand open; and the floor of inputs of each child."""
    exact, units = True, parents.shape[1] - 1
    for c in range(1, last + 1):
        flags[0, c], inside[0, c] = 0, 1.0
        back[0, c, 0] = back[0, c, 1] = 0
        for m in range(inputs.shape[2]):
            inputs[0, c, m] = floor[c, m] = 0.0
        for operand in range(3):
            if parents[operand, c] >= 0 and c < units:
                flags[0, c] |= 1 << operand
        if parents[INPUT, c] < 0:
            continue
        rows, columns = tile_positions(lines, c)
        exact = exact and rows > 0 and columns > 0
        one = lines[c, 0, 0] * lines[c, 1, 0]
        tiles = least[c, 3] if c == units else least[c, 4]
        for m in range(inputs.shape[2]):
            inputs[0, c, m] = one * fetch[c, 0, m] + max(one, abs(rows * columns)) * fetch[c, 1, m]
            floor[c, m] = inputs[0, c, m] * tiles
    return exact


@njit(cache=True, nogil=True, error_model="numpy")
def choices(last: Int, q: Int, mask: Int, flags: Ints, visit: Floats) -> Int:
    """Dimensions of level q worth placing next, as bits; 0: all operands are closed, no order differs."""
    open_now, rises = 0, True
    for c in range(q + 1, last + 1):
        open_now |= flags[c]
        if flags[c] & O_OPEN:
            for m in range(visit.shape[2]):
                rises = rises and visit[c, OUTPUT, m] >= 0.0
    if open_now == 0:
        return np.int64(0)
    if open_now == I_OPEN:
        inner = mask & ~CHANNEL_DIMS
        return inner if inner else mask & -mask
    if (open_now == W_OPEN) or (open_now == O_OPEN and rises):
        free = mask & ~(WEIGHT_DIMS if open_now == W_OPEN else OUTPUT_DIMS)
        return free & -free if free else mask & -mask
    return mask


@njit(cache=True, nogil=True, error_model="numpy")
def place_loop(
    k: Int,
    last: Int,
    q: Int,
    dim: Int,
    factor: Int,
    step: Int,
    geometry: Ints,
    parents: Ints,
    lines: Ints,
    visit: Floats,
    fetch: Floats,
    least: Floats,
    flags: Ints,
    back: Ints,
    inside: Floats,
    sums: Floats,
    inputs: Floats,
) -> bool:
    """State k + 1: state k and one more loop outside it, at level q; returns whether its cost is exact."""
    sets, exact = sums.shape[1], True
    for m in range(sets):
        sums[k + 1, m] = sums[k, m]
    for c in range(1, last + 1):
        flags[k + 1, c], inside[k + 1, c] = flags[k, c], inside[k, c]
        back[k + 1, c, 0], back[k + 1, c, 1] = back[k, c, 0], back[k, c, 1]
        for m in range(sets):
            inputs[k + 1, c, m] = inputs[k, c, m]
        if c <= q or flags[k, c] == 0:
            continue
        within = inside[k, c]
        inside[k + 1, c] = within * factor
        for operand in range(0, 3, 2):
            if (flags[k, c] >> operand) & 1 and RELEVANT[operand, dim]:
                flags[k + 1, c] &= ~(1 << operand)
                for m in range(sets):
                    sums[k + 1, m] += visit[c, operand, m] * least[c, 3] / within
        if flags[k, c] & I_OPEN == 0:
            continue
        row, column = lines[c, 0, 0], lines[c, 1, 0]
        if (CHANNEL_DIMS >> dim) & 1:
            flags[k + 1, c] &= ~I_OPEN
            rows, columns = tile_positions(lines, c)
            every = max(row * column, abs(rows * columns))
            for m in range(sets):
                cost = row * column * fetch[c, 0, m] + every * fetch[c, 1, m]
                inputs[k + 1, c, m] += (least[c, 3] / within - 1.0) * cost
            continue
        h, w = np.int64(0), np.int64(0)
        if dim >= P and (dim - P) % 2 == 0:
            h = step * geometry[dim - P]
        elif dim >= P:
            w = step * geometry[dim - P]
        count = (factor - 1) * least[c, 3] / (within * factor)
        moved = step_cost(lines, fetch, c, h - back[k, c, 0], w - back[k, c, 1], count, inputs[k + 1, c])
        exact = exact and moved
        back[k + 1, c, 0] += h * (factor - 1)
        back[k + 1, c, 1] += w * (factor - 1)
    return exact


@njit(cache=True, nogil=True, error_model="numpy")
def bound_of(
    k: Int,
    last: Int,
    visit: Floats,
    least: Floats,
    floor: Floats,
    flags: Ints,
    inside: Floats,
    sums: Floats,
    inputs: Floats,
    base: Floats,
    rest: Floats,
    total: Floats,
) -> None:
    """Fill `total` with what state k costs at least; what it costs where nothing is open any more."""
    for m in range(total.shape[0]):
        total[m] = sums[k, m] + base[m] + rest[m]
        for c in range(1, last + 1):
            if flags[k, c] & W_OPEN:
                total[m] += visit[c, WEIGHT, m] * least[c, WEIGHT]
            if flags[k, c] & O_OPEN:
                price = visit[c, OUTPUT, m]
                total[m] += price * (least[c, OUTPUT] if price >= 0.0 else least[c, 3] / inside[k, c])
            total[m] += max(inputs[k, c, m], floor[c, m])


@njit(cache=True, nogil=True, error_model="numpy")
def exact_sums(
    last: Int,
    extents: Ints,
    spatial: Ints,
    temporal: Ints,
    geometry: Ints,
    parents: Ints,
    lines: Ints,
    fetch: Floats,
    order: Ints,
    total: Floats,
) -> None:
    """Add to `total` what inputs cost where they have to be counted position by position."""
    outside, n_levels = 1.0, spatial.shape[0]
    for c in range(1, last + 1):
        for dim in range(8):
            outside *= spatial[c - 1, dim]
        if parents[INPUT, c] < 0:
            continue
        words, sends = _slow_inputs(
            temporal[:n_levels], spatial, order, extents, geometry, parents[INPUT, c], np.int64(c)
        )
        kept, ways = 1.0, 1.0
        for dim in range(P):
            if (CHANNEL_DIMS >> dim) & 1:
                kept *= extents[c, dim]
                for level in range(parents[INPUT, c], c):
                    ways *= spatial[level, dim]
        for m in range(total.shape[0]):
            total[m] += (words * fetch[c, 0, m] + sends / ways * fetch[c, 1, m]) / kept


@njit(cache=True, nogil=True, error_model="numpy")
def best_order(
    last: Int,
    any_order: bool,
    limit: Float,
    steps: Float,
    rates: Floats,
    objective: Int,
    cap: Float,
    rest: Floats,
    extents: Ints,
    spatial: Ints,
    temporal: Ints,
    geometry: Ints,
    levels: Ints,
    parents: Ints,
    read: Floats,
    write: Floats,
    tail: Floats,
    room: Room,
    order: Ints,
    counts: Ints,
) -> Float:
    """The least value below `limit` of the children up to `last`, over all orders; `limit` where there is none.

    any_order : stop at the first order below `limit`; its value may then be a bound
    rest : float64[M], added to the sums
    order : int8-like int64[L, 8], filled with the best order, outermost first
    counts : int64[1], complete orders priced, added to
    """
    lines, visit, fetch, least, floor = room.lines, room.visit, room.fetch, room.least, room.floor
    flags, back, inside, sums, inputs = room.flags, room.back, room.inside, room.sums, room.inputs
    base, total, sure, path, masks = room.base, room.total, room.sure, room.path, room.masks
    n_levels = spatial.shape[0]
    exact = prepare_terms(
        last, extents, spatial, temporal, geometry, levels, parents, read, write, tail, lines, visit, fetch, least, base
    )
    exact = start_state(last, lines, parents, fetch, least, flags, back, inside, inputs, floor) and exact
    for m in range(sums.shape[1]):
        sums[0, m] = 0.0
    k, q = 0, np.int64(min(last, n_levels - 1) - 1)
    masks[0, 0], masks[0, 1], masks[0, 2], masks[0, 3], sure[0] = q, -1, -1, 0, exact
    for dim in range(8):
        if q >= 0 and temporal[q, dim] > 1:
            masks[0, 3] |= 1 << dim
    # masks: level, bits to choose from or -1 where this state is new, dimension chosen, bits not placed
    while k >= 0:
        q = masks[k, 0]
        if masks[k, 1] < 0:
            bound_of(k, last, visit, least, floor, flags, inside, sums, inputs, base, rest, total)
            if value_of(total, steps, rates, objective, cap) >= limit:
                k -= 1
                continue
            while q >= 0:  # the next level with a loop whose place matters
                masks[k, 1] = choices(last, q, masks[k, 3], flags[k], visit) if masks[k, 3] else 0
                if masks[k, 1]:
                    break
                q -= 1
                masks[k, 3] = 0
                for dim in range(8):
                    if q >= 0 and temporal[q, dim] > 1:
                        masks[k, 3] |= 1 << dim
            masks[k, 0] = q
            if q < 0:
                counts[0] += 1
                if not (sure[k] or any_order):
                    fill_order(k, masks, path, room.trial)
                    for m in range(total.shape[0]):
                        total[m] = sums[k, m] + base[m] + rest[m]
                        for c in range(1, last + 1):
                            if flags[k, c] & W_OPEN:
                                total[m] += visit[c, WEIGHT, m] * least[c, WEIGHT]
                            if flags[k, c] & O_OPEN:
                                total[m] += visit[c, OUTPUT, m] * least[c, OUTPUT]
                    exact_sums(last, extents, spatial, temporal, geometry, parents, lines, fetch, room.trial, total)
                value = value_of(total, steps, rates, objective, cap)
                if value < limit:
                    limit = value
                    fill_order(k, masks, path, order)
                    if any_order:
                        return limit
                k -= 1
                continue
        if masks[k, 1] == 0:
            k -= 1
            continue
        dim = np.int64(0)
        while not (masks[k, 1] >> dim) & 1:
            dim += 1
        masks[k, 1] &= ~(np.int64(1) << dim)
        path[k, 0], path[k, 1] = q, dim
        factor, step = temporal[q, dim], extents[q + 1, dim] * spatial[q, dim]
        moved = place_loop(
            k,
            last,
            q,
            dim,
            factor,
            step,
            geometry,
            parents,
            lines,
            visit,
            fetch,
            least,
            flags,
            back,
            inside,
            sums,
            inputs,
        )
        sure[k + 1] = sure[k] and moved
        masks[k + 1, 0], masks[k + 1, 1], masks[k + 1, 3] = q, -1, masks[k, 3] & ~(np.int64(1) << dim)
        k += 1
    return limit


@njit(cache=True, nogil=True, error_model="numpy")
def fill_order(k: Int, masks: Ints, path: Ints, order: Ints) -> None:
    """Orders of all levels, outermost first: the loops placed, innermost first in `path`, any others outside them."""
    for level in range(order.shape[0]):
        at, placed = 7, 0
        for i in range(k):
            if path[i, 0] == level:
                order[level, at] = path[i, 1]
                placed |= 1 << path[i, 1]
                at -= 1
        for dim in range(8):
            if not (placed >> dim) & 1:
                order[level, at] = dim
                at -= 1
