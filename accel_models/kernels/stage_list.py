"""The choices of one stage that may lead below a threshold. Numbers only.

Vocabulary: `kernels/stage_floor.py`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from accel_models.kernels.loopnest import Int, Ints
from accel_models.kernels.nest_terms import Float, Floats, value_of
from accel_models.kernels.stage_floor import (
    FLOORS,
    SURE,
    Hardware,
    Space,
    floor_inside,
    holds_group,
    least_of,
    stage_floor,
)


@njit(cache=True, nogil=True, error_model="numpy")
def grows(c: Int, tile: Ints, rank: Ints, tile_at: Int, space: Space) -> bool:
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
def next_spread(rank: Ints, group: Ints, most: Int, across: Ints, space: Space) -> bool:
    """The next spatial factors, as ranks, that divide the group and are not too many; False: there are none."""
    for dim in range(8):
        if not across[dim]:
            continue
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
def group_floors(shape: Ints, space: Space, hardware: Hardware, floors: Floats, least: Floats) -> None:
    """Fill the floors of every stage and group over all its tiles; infinite where it has none.

    floors : float64[L + 1, n, M, FLOORS], filled
    least : float64[L + 1, n, M], filled: over all classes
    """
    for c in range(1, floors.shape[0]):
        most = space.ways[c - 1, 0]
        for at in range(space.vectors.shape[0]):
            group = space.vectors[at]
            least[c, at] = np.inf
            if space.fits[c, at] if most == 1 else may_spread(np.int64(c), group, most, space):
                stage_floor(np.int64(c), group, group, np.int64(most > 1), shape, space, hardware, floors[c, at])
                for m in range(least.shape[2]):
                    floors[c, at, m, SURE] = -np.inf
                    least[c, at, m] = least_of(floors[c, at, m])


@njit(cache=True, nogil=True, error_model="numpy")
def reached(
    group: Ints,
    loops: Ints,
    columns: Floats,
    tiles: Ints,
    costs: Floats,
    theta: Float,
    rest: Floats,
    steps: Float,
    rates: Floats,
    objective: Int,
    cap: Float,
    shape: Ints,
    space: Space,
    total: Floats,
) -> bool:
    """Whether a group divides a tile of the stage before and stays below theta inside it.

    tiles : int64[Y], vectors; costs : float64[Y, M], what the stage before costs at least with each
    """
    for y in range(tiles.shape[0]):
        tile = space.vectors[tiles[y]]
        if holds_group(tile, group, loops):
            for m in range(rest.shape[0]):
                total[m] = rest[m] + costs[y, m]
            floor_inside(columns, tile, group, shape, total)
            if value_of(total, steps, rates, objective, cap) < theta:
                return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def list_stage(
    c: Int,
    theta: Float,
    rest: Floats,
    rest_before: Floats,
    steps: Float,
    rates: Floats,
    objective: Int,
    cap: Float,
    shape: Ints,
    space: Space,
    hardware: Hardware,
    columns: Floats,
    least: Floats,
    tiles: Ints,
    costs: Floats,
    begin: Int,
    end: Int,
) -> tuple[Ints, Floats, Floats, Int]:
    """All (group, tile) of stage c with which the bound stays below theta, of groups begin..end-1 one by one.

    rest : float64[M], the floors of all other stages; rest_before : without those of the stage before, whose choices
    are `tiles` and `costs` (see `reached`); steps : computing steps with all the others' instances

    Returns
    -------
    int64[X, 4], vectors of group and tile
    float64[X], bound
    float64[X, M, FLOORS], floors
    choices tried
    """
    sets, most = rest.shape[0], space.ways[c - 1, 0]
    total, tile, rank = np.empty(sets), np.empty(8, np.int64), np.zeros(8, np.int64)
    room, found, tried = 256, 0, 0
    pairs, bounds, floors = np.empty((room, 4), np.int64), np.empty(room), np.empty((room, sets, FLOORS))
    for group_at in range(begin, end):
        group = space.vectors[group_at]
        tried += 1
        for m in range(sets):
            total[m] = least[c, group_at, m] + rest[m]
        if value_of(total, steps / most, rates, objective, cap) >= theta:
            continue
        if c > 1 and not reached(
            group,
            space.loops[c - 1],
            columns[c, group_at],
            tiles,
            costs,
            theta,
            rest_before,
            steps / most,
            rates,
            objective,
            cap,
            shape,
            space,
            total,
        ):
            continue
        rank[:] = 0
        while True:
            tried += 1
            instances, spatial_at, tile_at = 1, 0, np.int64(0)
            for dim in range(8):
                factor = space.divisors[dim, rank[dim]]
                instances *= factor
                tile[dim] = group[dim] // factor
                spatial_at += rank[dim] * space.radix[dim]
                tile_at += space.digit[dim, tile[dim]] * space.radix[dim]
            if space.spreads[c - 1, spatial_at] and space.fits[c, tile_at] and not grows(c, tile, rank, tile_at, space):
                if found == room:
                    pairs, bounds = np.concatenate((pairs, pairs)), np.concatenate((bounds, bounds))
                    floors, room = np.concatenate((floors, floors)), 2 * room
                stage_floor(c, group, tile, np.int64(0), shape, space, hardware, floors[found])
                for m in range(sets):
                    floors[found, m, SURE] = -np.inf
                    total[m] = least_of(floors[found, m]) + rest[m]
                bounds[found] = value_of(total, steps / instances, rates, objective, cap)
                if bounds[found] < theta:
                    pairs[found, 0], pairs[found, 1] = group_at, tile_at
                    found += 1
            if not next_spread(rank, group, most, space.across[c - 1], space):
                break
    return pairs[:found], bounds[:found], floors[:found], tried
