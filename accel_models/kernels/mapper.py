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

NO_LOOP = 8
WEIGHT_RESTS, OUTPUT_RESTS, INPUT_RESTS, NONE_RESTS, SECOND, RUN_W, RUN_O, OTHERS, SURE = range(9)
FLOORS = 9
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
    merges: np.ndarray
    """bool[L + 1, 8]: a tile that is not as large as it may be along this dimension is never better."""
    prime: np.ndarray
    """int64[largest extent + 1]: smallest prime factor"""
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
def moved_inputs(first: Int, tile: Ints, step: Ints, shape: Ints, space: Space, sure: bool) -> Float:
    """Input words that all instances with this tile fetch at least if the innermost loop outside is over `first`.

    All steps of the innermost loop move by its step; the share of such steps is 1 - 1 / factor, the factor at least
    the smallest prime of what is left to split.
    """
    geometry = space.geometry
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
    prime = space.prime[shape[first] // step[first]]
    return steps * (1.0 - 1.0 / prime) * kept * new


@njit(cache=True, nogil=True, error_model="numpy")
def class_of(dim: Int) -> Int:
    """Which operand a loop over a dimension, standing innermost, lets rest."""
    if dim in (N, P, Q):
        return WEIGHT_RESTS
    return INPUT_RESTS if dim == K else (NONE_RESTS if dim == G or dim == NO_LOOP else OUTPUT_RESTS)


@njit(cache=True, nogil=True, error_model="numpy")
def stage_floor(
    c: Int, group: Ints, tile: Ints, whole_group: bool, shape: Ints, space: Space, hardware: Hardware, out: Floats
) -> None:
    """Fill `out` [M, FLOORS] with what child c moves at least, over all ways to fill in the rest of the nest.

    Columns: by class of the innermost loop outside the child; then of the operand that rests in a class, its share:
    weights in WEIGHT_RESTS, outputs in OUTPUT_RESTS, of INPUT_RESTS all but inputs, and inputs that follow the second
    loop. `whole_group`: the tile is not chosen yet, and given as the group.
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
    k_run = shape[K] // group[K]
    out[:, :] = np.inf
    sets = out.shape[0]
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
            sends, fills = moved_inputs(np.int64(NO_LOOP), group, group, shape, space, sure), macs
        elif first == K:
            sends, fills = distinct, distinct * (group[K] // tile[K])
        else:
            straight = moved_inputs(np.int64(first), group, group, shape, space, sure)
            filled = moved_inputs(np.int64(first), tile, group, shape, space, sure)
            sends = max(distinct, straight)
            fills = max(filled, sends * (group[K] // tile[K]))
            for m in range(sets):
                sent = read[m, p, INPUT] * (straight / beyond_i if multicast else filled)
                out[m, SECOND] = min(out[m, SECOND], (filled * write[m, c, INPUT] + sent) / k_run)
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
            add_part(out[m], WEIGHT_RESTS, out[m, RUN_W], macs / pixels * price)
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
            add_part(out[m], OUTPUT_RESTS, run, rest)
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


@njit(cache=True, nogil=True, error_model="numpy")
def group_floors(shape: Ints, space: Space, hardware: Hardware, floors: Floats) -> None:
    """Fill float64[L + 1, n, M]: of every stage and group, the floor over all its tiles; infinite where it has none."""
    columns = np.empty((floors.shape[2], FLOORS))
    for c in range(1, floors.shape[0]):
        most = space.ways[c - 1, 0]
        for at in range(space.vectors.shape[0]):
            group = space.vectors[at]
            floors[c, at] = np.inf
            if space.fits[c, at] if most == 1 else may_spread(np.int64(c), group, most, space):
                stage_floor(np.int64(c), group, group, most > 1, shape, space, hardware, columns)
                for m in range(floors.shape[2]):
                    floors[c, at, m] = least_of(columns[m])


@njit(cache=True, nogil=True, error_model="numpy")
def list_stage(
    c: Int,
    theta: Float,
    rest: Floats,
    steps: Float,
    rates: Floats,
    objective: Int,
    cap: Float,
    shape: Ints,
    space: Space,
    hardware: Hardware,
    least: Floats,
) -> tuple[Ints, Floats, Floats]:
    """All (group, tile) of stage c with which the bound stays below theta, by group, by ascending bound.

    rest : float64[M], the floors of all other stages; steps : computing steps with all the others' instances

    Returns
    -------
    int64[X, 3], vectors of group and tile, and where the next group begins
    float64[X, 2], bound, and that of the whole group
    float64[X, 2, M, FLOORS], floors, and those of the whole group at its first tile
    """
    sets, n, most = rest.shape[0], space.vectors.shape[0], space.ways[c - 1, 0]
    total, tile, rank = np.empty(sets), np.empty(8, np.int64), np.zeros(8, np.int64)
    room, found = 256, 0
    pairs, bounds, floors = np.empty((room, 3), np.int64), np.empty((room, 2)), np.empty((room, 2, sets, FLOORS))
    firsts, heads = np.empty(n, np.int64), 0
    for group_at in range(n):
        group = space.vectors[group_at]
        for m in range(sets):
            total[m] = least[c, group_at, m] + rest[m]
        if value_of(total, steps / most, rates, objective, cap) >= theta:
            continue
        begin = found
        rank[:] = 0
        while True:
            instances, spatial_at, tile_at = 1, 0, 0
            for dim in range(8):
                factor = space.divisors[dim, rank[dim]]
                instances *= factor
                tile[dim] = group[dim] // factor
                spatial_at += rank[dim] * space.radix[dim]
                tile_at += space.digit[dim, tile[dim]] * space.radix[dim]
            if (
                space.spreads[c - 1, spatial_at]
                and space.fits[c, tile_at]
                and not grows(c, group, tile, rank, tile_at, space)
            ):
                if found == room:
                    pairs, bounds = np.concatenate((pairs, pairs)), np.concatenate((bounds, bounds))
                    floors, room = np.concatenate((floors, floors)), 2 * room
                stage_floor(c, group, tile, False, shape, space, hardware, floors[found, 0])
                for m in range(sets):
                    floors[found, 0, m, SURE] = 0.0
                    total[m] = least_of(floors[found, 0, m]) + rest[m]
                bounds[found, 0] = value_of(total, steps / instances, rates, objective, cap)
                if bounds[found, 0] < theta:
                    pairs[found, 0], pairs[found, 1] = group_at, tile_at
                    found += 1
            if not next_spread(rank, group, most, space):
                break
        if found > begin:
            firsts[heads] = begin
            heads += 1
    if heads == 0:
        return pairs[:0], bounds[:0], floors[:0]
    for i in range(heads):  # bounds of groups
        end = firsts[i + 1] if i + 1 < heads else found
        bounds[firsts[i], 1] = np.inf
        floors[firsts[i], 1] = np.inf
        for x in range(firsts[i], end):
            bounds[firsts[i], 1] = min(bounds[firsts[i], 1], bounds[x, 0])
            pairs[x, 2] = end - firsts[i]
            for m in range(sets):
                for j in range(FLOORS):
                    floors[firsts[i], 1, m, j] = min(floors[firsts[i], 1, m, j], floors[x, 0, m, j])
    ascending, at = np.empty(found, np.int64), 0
    for i in np.argsort(bounds[firsts[:heads], 1], kind="mergesort"):
        begin, size = firsts[i], pairs[firsts[i], 2]
        inner = np.argsort(bounds[begin : begin + size, 0], kind="mergesort")
        whole, part = bounds[begin, 1], floors[begin, 1].copy()
        for x in range(size):
            ascending[at + x] = begin + inner[x]
            bounds[begin + x, 1] = whole
        floors[begin + inner[0], 1] = part
        for x in range(size):
            pairs[begin + x, 2] = at + size
        at += size
    return pairs[ascending], bounds[ascending], floors[ascending]


@njit(cache=True, nogil=True, error_model="numpy")
def price_first(
    pairs: Ints,
    floors: Floats,
    bounds: Floats,
    rest: Float,
    shape: Ints,
    space: Space,
    hardware: Hardware,
    room: Room,
    trial: Ints,
) -> None:
    """Raise the floors of the first stage to its exact cost in the best order, and the bounds with them."""
    n_levels = hardware.levels.shape[0]
    extents, spatial = np.ones((n_levels + 1, 8), np.int64), np.ones((n_levels, 8), np.int64)
    temporal, counts, none = np.ones((n_levels, 8), np.int64), np.zeros(1, np.int64), np.zeros(1)
    instances = np.ones(n_levels + 2)
    extents[0] = shape
    for x in range(pairs.shape[0]):
        enter(np.int64(1), pairs[x], space, extents, spatial, temporal, instances)
        value = best_order(
            np.int64(1),
            False,
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
        floors[x, 0, 0, SURE] = value
        bounds[x, 0] = max(bounds[x, 0], rest + value)


@njit(cache=True, nogil=True, error_model="numpy")
def least_first(least: Floats, shape: Ints, space: Space, hardware: Hardware, room: Room, trial: Ints) -> Float:
    """The least exact cost of the first stage without instances outside it; `least`: float64[n], floors of groups."""
    n_levels = hardware.levels.shape[0]
    extents, spatial = np.ones((n_levels + 1, 8), np.int64), np.ones((n_levels, 8), np.int64)
    temporal, counts, none = np.ones((n_levels, 8), np.int64), np.zeros(1, np.int64), np.zeros(1)
    instances, pair, best = np.ones(n_levels + 2), np.zeros(2, np.int64), np.inf
    extents[0] = shape
    for at in np.argsort(least, kind="mergesort"):
        if least[at] >= best:
            break
        pair[:] = at
        enter(np.int64(1), pair, space, extents, spatial, temporal, instances)
        best = best_order(
            np.int64(1),
            False,
            best,
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
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def grows(c: Int, group: Ints, tile: Ints, rank: Ints, tile_at: Int, space: Space) -> bool:
    """Whether fewer instances with a larger tile do the same, and never worse."""
    for dim in range(8):
        if rank[dim] > 0 and space.merges[c, dim]:
            factor = space.divisors[dim, rank[dim]]
            larger = tile[dim] * space.prime[factor]
            at = tile_at + (space.digit[dim, larger] - space.digit[dim, tile[dim]]) * space.radix[dim]
            if space.fits[c, at]:
                return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def next_spread(rank: Ints, group: Ints, most: Int, space: Space) -> bool:
    """The next spatial factors, as ranks, that divide the group and are not too many; False: there are none."""
    for dim in range(8):
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
                return True
        rank[dim] = 0
    return False


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
    pairs: Ints,
    bounds: Floats,
    floors: Floats,
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

    pairs, bounds, floors, starts : the lists of all stages, one after the other; stage c begins at starts[c]
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
        sums[c] = sums[c - 1]
        floor_inside(floors[at, 0], extents[c - 1], space.vectors[pairs[at, 0]], shape, sums[c])
        enter(c, pairs[at], space, extents, spatial, temporal, instances)
    c, nodes = state[DEPTH], 0
    while c >= 1 and nodes < budget:
        limit = min(theta, best[0])
        pointer[c] += 1
        at = pointer[c]
        if at >= starts[c + 1] or bounds[at, 1] >= limit:
            c -= 1
            continue
        nodes += 1
        group = space.vectors[pairs[at, 0]]
        head = at == starts[c] or pairs[at - 1, 0] != pairs[at, 0]
        if head:
            known = True
            for dim in range(8):
                known = known and extents[c - 1, dim] % group[dim] == 0
            if known:
                for m in range(sets):
                    total[m] = sums[c - 1, m] + rests[c + 1, m]
                floor_inside(floors[at, 1], extents[c - 1], group, shape, total)
                set_rates(c, True, most, instances, hardware.bandwidth, rates)
                known = value_of(total, macs / (instances[c - 1] * most[c]), rates, objective, cap) < limit
            if not known:
                pointer[c] = pairs[at, 2] - 1
                continue
        if bounds[at, 0] >= limit:
            pointer[c] = pairs[at, 2] - 1
            continue
        sums[c] = sums[c - 1]
        floor_inside(floors[at, 0], extents[c - 1], group, shape, sums[c])
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
        if leaf and state[LEAVES] < 64:
            limit = best[0]
        before = counts[0]
        value = best_order(
            c,
            not leaf,
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
