"""The cheapest order of temporal loops when all tiles are given: branch and bound from the innermost loop outward.

Terms: `kernels/nest_terms.py`. A loop that is placed has its exact cost, as that depends on the loops inside it alone;
what is open has a bound: V(c) is at least the product of the loops that index the operand, and inputs are fetched at
least once for every channel and image. Orders that cannot differ are tried once: where only inputs are open, channel
loops go outermost; where inputs are closed, loops that the open operand does not index go innermost.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from accel_models.kernels.loopnest import INPUT, OUTPUT, RELEVANT, WEIGHT, Int, Ints, P
from accel_models.kernels.mapping_inputs import CHANNEL_DIMS, OUTPUT_DIMS, WEIGHT_DIMS, slow_inputs
from accel_models.kernels.nest_terms import Float, Floats, Room, prepare_terms, step_cost, tile_positions, value_of

W_OPEN, I_OPEN, O_OPEN = 1, 2, 4


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
        words, sends = slow_inputs(
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
    any_order: Int,
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

    any_order : not 0: stop at the first order below `limit`; its value may then be a bound
    rest : float64[M], added to the sums
    order : int64[L, 8], filled with the best order, outermost first
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
    k, q = np.int64(0), np.int64(min(last, n_levels - 1) - 1)  # a plain 0 would be compiled as a case of its own
    masks[0, 0], masks[0, 1], masks[0, 2], sure[0] = q, -1, 0, exact
    for dim in range(8):
        if q >= 0 and temporal[q, dim] > 1:
            masks[0, 2] |= 1 << dim
    # masks: level; dimensions to choose from, as bits, or -1 where the state is new; dimensions not placed
    while k >= 0:
        q = masks[k, 0]
        if masks[k, 1] < 0:
            bound_of(k, last, visit, least, floor, flags, inside, sums, inputs, base, rest, total)
            if value_of(total, steps, rates, objective, cap) >= limit:
                k -= 1
                continue
            while q >= 0:  # the next level with a loop whose place matters
                masks[k, 1] = choices(last, q, masks[k, 2], flags[k], visit) if masks[k, 2] else 0
                if masks[k, 1]:
                    break
                q -= 1
                masks[k, 2] = 0
                for dim in range(8):
                    if q >= 0 and temporal[q, dim] > 1:
                        masks[k, 2] |= 1 << dim
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
        along = np.int64(0)
        while not (masks[k, 1] >> along) & 1:
            along += 1
        masks[k, 1] &= ~(np.int64(1) << along)
        path[k, 0], path[k, 1] = q, along
        factor, step = temporal[q, along], extents[q + 1, along] * spatial[q, along]
        moved = place_loop(
            k,
            last,
            q,
            along,
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
        masks[k + 1, 0], masks[k + 1, 1], masks[k + 1, 2] = q, -1, masks[k, 2] & ~(np.int64(1) << along)
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
