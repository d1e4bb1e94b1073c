"""Optimal tiles of a loop nest: branch and bound over stages, outermost first. Numbers only; see `accel_models/mapper.py`.

A nest is a chain of extents, each dividing the one before: D = E(0), F(0), E(1), F(1), ..., E(L) = 1, where E(c) is the
tile of one instance of level c (level L: one MAC), F(c - 1) what all instances behind one parent work on together,
F / E the spatial factors of level c - 1 and E(c - 1) / F(c - 1) its temporal ones. Stage c chooses (F(c - 1), E(c)).
Whatever is moved between a child c and its parents has a floor that this stage alone decides (`stage_floor`), so the
sum of the floors of all stages is a bound for what is not chosen yet; what is chosen is priced by `best_order`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from accel_models.kernels.loopnest import INPUT, MULTICAST, OUTPUT, WEIGHT, C, G, Int, Ints, K, N, P, Q, R, S
from accel_models.kernels.mapping_cost import CHANNEL_DIMS, OUTPUT_DIMS, WEIGHT_DIMS, _positions
from accel_models.kernels.nest_order import Float, Floats, Room, best_order, output_price, value_of

NO_LOOP, OF_WEIGHT, OF_OUTPUT = 8, 0, 1
DEPTH, NODES, LEAVES = 0, 1, 2


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
    geometry: np.ndarray
    """int64[4]"""


@njit(cache=True, nogil=True, error_model="numpy")
def window(outputs: Int, taps: Int, stride: Int, dilation: Int) -> tuple[Int, Int]:
    """Positions of one axis of a tile, and their spacing (0: uneven)."""
    run = _positions(outputs, taps, stride, dilation)
    if run == (outputs - 1) * stride + (taps - 1) * dilation + 1:
        return run, np.int64(1)
    return run, (stride if taps == 1 else (dilation if outputs == 1 else np.int64(0)))


@njit(cache=True, nogil=True, error_model="numpy")
def slide(run: Int, spacing: Int, shift: Int, sure: bool) -> Int:
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
def moved_inputs(first: Int, tile: Ints, step: Ints, shape: Ints, geometry: Ints, sure: bool) -> Float:
    """Input words that all instances with this tile fetch at least if the innermost loop outside is over `first`.

    All steps of the innermost loop move by its step; the share of such steps is 1 - 1 / factor, the factor at least
    the smallest prime of what is left to split.
    """
    rows, row_gap = window(tile[P], tile[R], geometry[0], geometry[2])
    columns, column_gap = window(tile[Q], tile[S], geometry[1], geometry[3])
    steps, kept = 1.0, tile[N] * tile[G] * tile[C]
    for dim in range(8):
        steps *= shape[dim] // tile[dim]
    if first == NO_LOOP:
        return steps * kept * rows * columns
    if first == K:
        return 0.0
    new = rows * columns
    if first >= P:
        shift = step[first] * geometry[first - P]
        if (first - P) % 2 == 0:
            new = slide(rows, row_gap, shift, sure) * columns
        else:
            new = slide(columns, column_gap, shift, sure) * rows
    left, prime = shape[first] // step[first], 2
    while left % prime:
        prime += 1 if prime * prime <= left or prime == left else left - prime
    return steps * (1.0 - 1.0 / prime) * kept * new


@njit(cache=True, nogil=True, error_model="numpy")
def stage_floor(
    c: Int, group: Ints, tile: Ints, whole_group: bool, shape: Ints, space: Space, hardware: Hardware, out: Floats
) -> None:
    """Fill `out` [M] with what child c moves at least, over all ways to fill in the rest of the nest.

    `whole_group`: the tile is not chosen yet, and given as the group.
    """
    levels, parents, read, write, tail = (
        hardware.levels, hardware.parents, hardware.read, hardware.write, hardware.tail
    )
    geometry, ways, n_levels = space.geometry, space.ways, levels.shape[0]
    macs, steps = 1.0, 1.0
    for dim in range(8):
        macs *= shape[dim]
        steps *= shape[dim] // group[dim]
    beyond = np.ones(3)  # most copies, and for inputs instances, of the levels between parent and c - 1
    for operand in range(3):
        for level in range(max(0, parents[operand, c]), c - 1):
            beyond[operand] *= ways[level, 0 if operand == INPUT else 1 + operand]
    sure = True
    for level in range(c - 1):
        sure = sure and ways[level, 0] == 1
    pixels, taps = tile[N] * tile[P] * tile[Q], tile[C] * tile[R] * tile[S]
    copies_w = group[N] * group[P] * group[Q] // pixels
    copies_o = group[C] * group[R] * group[S] // taps
    all_pixels, all_taps = shape[N] * shape[P] * shape[Q], shape[C] * shape[R] * shape[S]
    distinct = float(shape[N] * shape[G] * shape[C])
    distinct *= least_positions(shape[P], shape[R], group[P], group[R], geometry[0], geometry[2])
    distinct *= least_positions(shape[Q], shape[S], group[Q], group[S], geometry[1], geometry[3])
    for m in range(out.shape[0]):
        out[m] = np.inf
    moving = False
    for first in range(NO_LOOP + 1):
        if first == NO_LOOP:
            if moving and c < n_levels:
                continue
        elif c == n_levels or shape[first] == group[first]:
            continue
        moving = True
        sends, fills = 0.0, 0.0
        if parents[INPUT, c] >= 0:
            if c == n_levels:
                sends, fills = moved_inputs(np.int64(NO_LOOP), group, group, shape, geometry, sure), macs
            else:
                sends = max(distinct, moved_inputs(np.int64(first), group, group, shape, geometry, sure))
                fills = moved_inputs(np.int64(first), tile, group, shape, geometry, sure)
                fills = max(fills, sends * (group[K] // tile[K]))
        for m in range(out.shape[0]):
            cost = 0.0
            p = parents[WEIGHT, c]
            if p >= 0:
                runs = first != NO_LOOP and not (WEIGHT_DIMS >> first) & 1
                words = macs / all_pixels * copies_w if runs else macs / pixels
                shared = copies_w * beyond[WEIGHT] if levels[p, MULTICAST] else 1.0
                cost += words * (write[m, c, WEIGHT] + read[m, p, WEIGHT] / shared)
            p = parents[INPUT, c]
            if p >= 0:
                cost += fills * write[m, c, INPUT]
                cost += read[m, p, INPUT] * (sends / beyond[INPUT] if levels[p, MULTICAST] else fills)
            p = parents[OUTPUT, c]
            if p >= 0:
                runs = first != NO_LOOP and not (OUTPUT_DIMS >> first) & 1
                words = macs / all_taps * copies_o if runs else macs / taps
                price = output_price(m, p, c, copies_o * beyond[OUTPUT], levels, read, write, tail)
                part = words * price if price >= 0.0 else macs / taps * price
                if whole_group:
                    most = float(ways[c - 1, 1 + OUTPUT])
                    price = output_price(m, p, c, most * beyond[OUTPUT], levels, read, write, tail)
                    part = min(part, most * (words * price if price >= 0.0 else macs / taps * price))
                cost += part
            out[m] = min(out[m], cost)


@njit(cache=True, nogil=True, error_model="numpy")
def list_stage(
    c: Int, theta: Float, rest: Floats, steps: Float, rates: Floats, objective: Int, cap: Float, shape: Ints,
    space: Space, hardware: Hardware,
) -> tuple[Ints, Floats]:
    """All (group, tile) of stage c with which the bound stays below theta, by ascending bound.

    rest : float64[M], the floors of all other stages; steps : computing steps with all the others' instances

    Returns
    -------
    int64[X, 2], vectors of group and tile
    float64[X, M + 1], floor and bound
    """
    sets, n = rest.shape[0], space.vectors.shape[0]
    floor, total = np.empty(sets), np.empty(sets)
    room, found = 256, 0
    pairs, floors = np.empty((room, 2), np.int64), np.empty((room, sets + 1))
    rank, tile = np.zeros(8, np.int64), np.empty(8, np.int64)
    most = space.ways[c - 1, 0]
    for group_at in range(n):
        group = space.vectors[group_at]
        if most == 1 and not space.fits[c, group_at]:
            continue
        if most > 1 and not may_spread(c, group, most, space):
            continue
        stage_floor(c, group, group, True, shape, space, hardware, floor)
        for m in range(sets):
            total[m] = floor[m] + rest[m]
        if value_of(total, steps / most, rates, objective, cap) >= theta:
            continue
        rank[:] = 0
        while True:
            instances, spatial_at, tile_at = 1, 0, 0
            for dim in range(8):
                factor = space.divisors[dim, rank[dim]]
                instances *= factor
                tile[dim] = group[dim] // factor
                spatial_at += rank[dim] * space.radix[dim]
                tile_at += space.digit[dim, tile[dim]] * space.radix[dim]
            if space.spreads[c - 1, spatial_at] and space.fits[c, tile_at]:
                stage_floor(c, group, tile, False, shape, space, hardware, floor)
                for m in range(sets):
                    total[m] = floor[m] + rest[m]
                bound = value_of(total, steps / instances, rates, objective, cap)
                if bound < theta:
                    if found == room:
                        pairs, floors = np.concatenate((pairs, pairs)), np.concatenate((floors, floors))
                        room *= 2
                    pairs[found, 0], pairs[found, 1] = group_at, tile_at
                    floors[found, :sets], floors[found, sets] = floor, bound
                    found += 1
            dim = 0
            while dim < 8:  # the next spatial factors that divide the group and are not too many
                rank[dim] += 1
                while rank[dim] < space.divisors.shape[1] and (
                    space.divisors[dim, rank[dim]] > 0 and group[dim] % space.divisors[dim, rank[dim]]
                ):
                    rank[dim] += 1
                if rank[dim] < space.divisors.shape[1] and space.divisors[dim, rank[dim]] > 0:
                    instances = 1
                    for d in range(8):
                        instances *= space.divisors[d, rank[d]]
                    if instances <= most:
                        break
                rank[dim] = 0
                dim += 1
            if dim == 8:
                break
    ascending = np.argsort(floors[:found, sets], kind="mergesort")
    return pairs[:found][ascending], floors[:found][ascending]


@njit(cache=True, nogil=True, error_model="numpy")
def may_spread(c: Int, group: Ints, most: Int, space: Space) -> bool:
    """Whether a group can be spread at all: its tile of the last stage is one MAC."""
    if c < space.spreads.shape[0]:
        return True
    product, at = 1, 0
    for dim in range(8):
        product *= group[dim]
        at += space.digit[dim, group[dim]] * space.radix[dim]
    return product <= most and space.spreads[c - 1, at]


@njit(cache=True, nogil=True, error_model="numpy")
def search_tiles(
    pairs: Ints, floors: Floats, starts: Ints, rests: Floats, most: Floats, theta: Float, objective: Int, cap: Float,
    budget: Int, shape: Ints, space: Space, hardware: Hardware, room: Room, pointer: Ints, state: Ints, best: Floats,
    chosen: Ints, order: Ints, trial: Ints,
) -> bool:
    """Go on with the search for at most `budget` nodes; returns whether it is at its end.

    pairs, floors, starts : the lists of all stages, one after the other; stage c begins at starts[c]
    rests : float64[L + 2, M], fixed sums and floors of the stages from c on
    most : float64[L + 2], most instances that stages from c on add
    pointer : int64[L + 2], where each stage stands; state : int64[3], depth, nodes, leaves
    best : float64[1]; chosen : int64[L + 1, 2], its vectors; order : int64[L, 8]
    """
    levels, n_levels = hardware.levels, hardware.levels.shape[0]
    sets = floors.shape[1] - 1
    extents, spatial = np.ones((n_levels + 1, 8), np.int64), np.ones((n_levels, 8), np.int64)
    temporal, rates = np.ones((n_levels, 8), np.int64), np.empty(n_levels)
    sums, total, counts = np.zeros((n_levels + 2, sets)), np.empty(sets), np.zeros(1, np.int64)
    macs, instances = 1.0, np.ones(n_levels + 2)
    for dim in range(8):
        macs *= shape[dim]
        extents[0, dim] = shape[dim]
    first, fresh = state[DEPTH], False
    for c in range(1, first + 1):  # where the last call stopped
        fresh = c == first
        if not fresh:
            enter(c, pairs[pointer[c]], space, extents, spatial, temporal, instances)
            for m in range(sets):
                sums[c, m] = sums[c - 1, m] + floors[pointer[c], m]
    c, nodes = first, 0
    while c >= 1 and nodes < budget:
        limit = min(theta, best[0])
        pointer[c] += 1
        at = pointer[c]
        ended = at >= starts[c + 1] or floors[at, sets] >= limit
        if not ended and sets == 1:
            ended = sums[c - 1, 0] + floors[at, 0] + rests[c + 1, 0] >= limit
        if ended:
            c -= 1
            continue
        nodes += 1
        group = space.vectors[pairs[at, 0]]
        divides = True
        for dim in range(8):
            divides = divides and extents[c - 1, dim] % group[dim] == 0
        if not divides:
            continue
        enter(c, pairs[at], space, extents, spatial, temporal, instances)
        for m in range(sets):
            sums[c, m] = sums[c - 1, m] + floors[at, m]
            total[m] = sums[c, m] + rests[c + 1, m]
        for level in range(n_levels):
            known = instances[min(level, c)]
            rates[level] = hardware.bandwidth[level] * known * (most[c + 1] / most[level + 1] if level > c else 1.0)
        steps = macs / (instances[c] * most[c + 1])
        if value_of(total, steps, rates, objective, cap) >= limit:
            continue
        if c < n_levels and starts[n_levels + 1] - starts[n_levels] == 1 and c == n_levels - 1:
            pointer[c + 1] = starts[c + 1] - 1
            c += 1
            continue
        leaf = c == n_levels
        if leaf and state[LEAVES] < 64:
            limit = best[0]
        before = counts[0]
        value = best_order(
            c, not leaf, limit, steps, rates, objective, cap, rests[c + 1], extents, spatial, temporal,
            space.geometry, levels, hardware.parents, hardware.read, hardware.write, hardware.tail, room, trial, counts,
        )
        nodes += 16 * (1 + counts[0] - before)
        if leaf:
            state[LEAVES] += 1
        if value >= limit:
            continue
        if leaf:
            best[0] = value
            for level in range(n_levels):
                for i in range(8):
                    order[level, i] = trial[level, i]
                chosen[level + 1, 0], chosen[level + 1, 1] = pairs[pointer[level + 1], 0], pairs[pointer[level + 1], 1]
        else:
            pointer[c + 1] = starts[c + 1] - 1
            c += 1
    state[DEPTH] = c
    state[NODES] += nodes
    return c < 1


@njit(cache=True, nogil=True, error_model="numpy")
def enter(
    c: Int, pair: Ints, space: Space, extents: Ints, spatial: Ints, temporal: Ints, instances: Floats
) -> None:
    """Fill in stage c."""
    group, tile = space.vectors[pair[0]], space.vectors[pair[1]]
    instances[c] = instances[c - 1]
    for dim in range(8):
        extents[c, dim] = tile[dim]
        spatial[c - 1, dim] = group[dim] // tile[dim]
        temporal[c - 1, dim] = extents[c - 1, dim] // group[dim]
        instances[c] *= spatial[c - 1, dim]
