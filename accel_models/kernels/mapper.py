"""Optimal tiles of a loop nest: branch and bound over stages, outermost first. Numbers only.

Vocabulary: `kernels/stage_floor.py`. The sum of the floors of all stages is a bound for what is not chosen yet, the
floor inside the tile around for what is; a nest that is complete is priced exactly by `best_order`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from accel_models.kernels.loopnest import Int, Ints
from accel_models.kernels.nest_order import best_order
from accel_models.kernels.nest_terms import Float, Floats, Room, value_of
from accel_models.kernels.stage_floor import SURE, Hardware, Space, floor_inside, holds_group, least_of

DEPTH, NODES, LEAVES = 0, 1, 2
TIE = 1e-10
"""Relative: no search for what is better by less."""
GREEDY_LEAVES = 64
"""So many first mappings are priced even above the threshold, to have something in hand."""


@njit(cache=True, nogil=True, error_model="numpy")
def search_tiles(
    pairs: Ints,
    bounds: Floats,
    floors: Floats,
    group_bounds: Floats,
    group_least: Floats,
    starts: Ints,
    rests: Floats,
    most: Floats,
    theta: Float,
    objective: Int,
    cap: Float,
    budget: Int,
    shape: Ints,
    space: Space,
    hardware: Hardware,
    room: Room,
    pointer: Ints,
    state: Ints,
    best: Floats,
    chosen: Ints,
    order: Ints,
    trial: Ints,
) -> bool:
    """Go on with the search for at most `budget` nodes; returns whether it is at its end.

    pairs, bounds, floors, group_bounds, group_least, starts : the sorted lists of all stages, one after the other;
        stage c begins at starts[c]
    rests : float64[L + 2, M], fixed sums and floors of the stages from c on
    most : float64[L + 2], most instances that stages from c on add
    pointer : int64[L + 2], where each stage stands; state : int64[3], depth, nodes, leaves
    best : float64[1]; chosen : int64[L + 1, 2], its vectors; order : int64[L, 8]
    """
    levels, n_levels = hardware.levels, hardware.levels.shape[0]
    sets = rests.shape[1]
    extents, spatial = np.ones((n_levels + 1, 8), np.int64), np.ones((n_levels, 8), np.int64)
    temporal, rates = np.ones((n_levels, 8), np.int64), np.empty(n_levels)
    sums, total, counts = np.zeros((n_levels + 2, sets)), np.empty(sets), np.zeros(1, np.int64)
    macs, instances = 1.0, np.ones(n_levels + 2)
    for dim in range(8):
        macs *= shape[dim]
        extents[0, dim] = shape[dim]
    for c in range(1, state[DEPTH]):  # where the last call stopped
        at = pointer[c]
        for m in range(sets):
            sums[c, m] = sums[c - 1, m]
        floor_inside(floors[at], extents[c - 1], space.vectors[pairs[at, 0]], shape, sums[c])
        enter(c, pairs[at], space, extents, spatial, temporal, instances)
    c, nodes = state[DEPTH], 0
    while c >= 1 and nodes < budget:
        limit = min(theta, best[0])
        limit -= TIE * abs(limit) if limit < np.inf else 0.0
        pointer[c] += 1
        at = pointer[c]
        if at >= starts[c + 1] or group_bounds[pairs[at, 3]] >= limit:
            c -= 1
            continue
        nodes += 1
        group = space.vectors[pairs[at, 0]]
        head = at == starts[c] or pairs[at - 1, 0] != pairs[at, 0]
        if head:
            known = holds_group(extents[c - 1], group, space.loops[c - 1])
            if known:
                for m in range(sets):
                    total[m] = sums[c - 1, m] + rests[c + 1, m]
                floor_inside(group_least[pairs[at, 3]], extents[c - 1], group, shape, total)
                set_rates(c, True, most, instances, hardware.bandwidth, rates)
                known = value_of(total, macs / (instances[c - 1] * most[c]), rates, objective, cap) < limit
            if not known:
                pointer[c] = pairs[at, 2] - 1
                continue
        if bounds[at] >= limit:
            pointer[c] = pairs[at, 2] - 1
            continue
        for m in range(sets):
            sums[c, m] = sums[c - 1, m]
        floor_inside(floors[at], extents[c - 1], group, shape, sums[c])
        enter(c, pairs[at], space, extents, spatial, temporal, instances)
        for m in range(sets):
            total[m] = sums[c, m] + rests[c + 1, m]
        set_rates(c, False, most, instances, hardware.bandwidth, rates)
        steps = macs / (instances[c] * most[c + 1])
        if value_of(total, steps, rates, objective, cap) >= limit:
            continue
        if c == n_levels - 1 and starts[c + 2] - starts[c + 1] == 1:
            pointer[c + 1] = starts[c + 1] - 1
            c += 1
            continue
        leaf = c == n_levels
        if leaf and state[LEAVES] < GREEDY_LEAVES:
            limit = best[0] - (TIE * abs(best[0]) if best[0] < np.inf else 0.0)
        before = counts[0]
        value = best_order(
            c,
            np.int64(not leaf and sets > 1),
            limit,
            steps,
            rates,
            objective,
            cap,
            rests[c + 1],
            extents,
            spatial,
            temporal,
            space.geometry,
            levels,
            hardware.parents,
            hardware.read,
            hardware.write,
            hardware.tail,
            room,
            trial,
            counts,
        )
        nodes += 16 * (1 + counts[0] - before)
        state[LEAVES] += leaf
        if value >= limit:
            continue
        if leaf:
            best[0] = value
            for level in range(n_levels):
                for i in range(8):
                    order[level, i] = trial[level, i]
                chosen[level + 1, 0], chosen[level + 1, 1] = pairs[pointer[level + 1], 0], pairs[pointer[level + 1], 1]
        else:
            if sets == 1:  # the orders of all stages so far, in one nest
                sums[c, 0] = max(sums[c, 0], value - rests[c + 1, 0])
            pointer[c + 1] = starts[c + 1] - 1
            c += 1
    state[DEPTH] = c
    state[NODES] += nodes
    return c < 1


@njit(cache=True, nogil=True, error_model="numpy")
def set_rates(c: Int, before: bool, most: Floats, instances: Floats, bandwidth: Floats, rates: Floats) -> None:
    """Fill in the words a cycle of all instances of each level, most instances where stages are open.

    `before`: stage c itself is open.
    """
    last = c - 1 if before else c
    for level in range(rates.shape[0]):
        rates[level] = bandwidth[level] * instances[min(level, last)]
        if level > last:
            rates[level] *= most[last + 1] / most[level + 1]


@njit(cache=True, nogil=True, error_model="numpy")
def enter(c: Int, pair: Ints, space: Space, extents: Ints, spatial: Ints, temporal: Ints, instances: Floats) -> None:
    """Fill in stage c."""
    group, tile = space.vectors[pair[0]], space.vectors[pair[1]]
    instances[c] = instances[c - 1]
    for dim in range(8):
        extents[c, dim] = tile[dim]
        spatial[c - 1, dim] = group[dim] // tile[dim]
        temporal[c - 1, dim] = extents[c - 1, dim] // group[dim]
        instances[c] *= spatial[c - 1, dim]


@njit(cache=True, nogil=True, error_model="numpy")
def price_first(
    pairs: Ints, costs: Floats, shape: Ints, space: Space, hardware: Hardware, room: Room, trial: Ints, only_least: bool
) -> Float:
    """Fill float64[X] with the exact costs of the first stage, in the best order of its loops; returns the least.

    hardware : with one price set
    only_least : pairs come by ascending `costs`, which are floors; stop where they reach the least cost
    """
    n_levels = hardware.levels.shape[0]
    extents, spatial = np.ones((n_levels + 1, 8), np.int64), np.ones((n_levels, 8), np.int64)
    temporal, counts, none = np.ones((n_levels, 8), np.int64), np.zeros(1, np.int64), np.zeros(1)
    instances, best = np.ones(n_levels + 2), np.inf
    for dim in range(8):
        extents[0, dim] = shape[dim]
    for x in range(pairs.shape[0]):
        if only_least and costs[x] >= best:
            break
        enter(np.int64(1), pairs[x], space, extents, spatial, temporal, instances)
        costs[x] = best_order(
            np.int64(1),
            np.int64(0),
            np.inf,
            1.0,
            hardware.bandwidth,
            np.int64(0),
            np.inf,
            none,
            extents,
            spatial,
            temporal,
            space.geometry,
            hardware.levels,
            hardware.parents,
            hardware.read,
            hardware.write,
            hardware.tail,
            room,
            trial,
            counts,
        )
        best = min(best, costs[x])
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def set_bounds(
    floors: Floats,
    pairs: Ints,
    rest: Floats,
    steps: Float,
    rates: Floats,
    objective: Int,
    cap: Float,
    space: Space,
    bounds: Floats,
) -> None:
    """Raise the bounds where a floor is SURE to be higher; arguments as of `list_stage`."""
    total = np.empty(rest.shape[0])
    for x in range(bounds.shape[0]):
        instances = 1
        for dim in range(8):
            instances *= space.vectors[pairs[x, 0], dim] // space.vectors[pairs[x, 1], dim]
        for m in range(rest.shape[0]):
            total[m] = max(least_of(floors[x, m]), floors[x, m, SURE]) + rest[m]
        bounds[x] = max(bounds[x], value_of(total, steps / instances, rates, objective, cap))
