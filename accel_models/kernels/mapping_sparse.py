"""Cycles, energy and fit of many mappings of one layer with uniform random zeros. Numbers only.

Model and equations: `accel_models/mapping_sparse.py`. The dense words are those of `kernels/mapping_cost.py`.
"""

from __future__ import annotations

from math import ceil, exp, lgamma, log2, sqrt
from typing import NamedTuple

import numpy as np
from numba import njit

from accel_models.kernels.loopnest import MULTICAST, OUTPUT, RELEVANT, WEIGHT, C, G, Int, Ints, K, N, P, R
from accel_models.kernels.mapping_cost import (
    DIM,
    DRAINED,
    FACTOR,
    FILLED,
    SENT,
    UPDATED,
    Factors,
    Machine,
    Scores,
    count_tiles,
    count_words,
    unroll,
)
from accel_models.kernels.mapping_inputs import COLUMNS, FIRST, WAYS, WORDS, positions
from accel_models.kernels.nest_terms import Float

DENSE, BITMASK, COORDINATES, RUN_LENGTH = range(4)
NONE, GATE, SKIP = range(3)


class Zeros(NamedTuple):
    """Where zeros are, how they are stored and what they save."""

    density: np.ndarray
    """float64[3]"""
    formats: np.ndarray
    """int64[L, 3]: DENSE, ..."""
    actions: np.ndarray
    """int64[L + 1, 3]: NONE, GATE or SKIP of reads of a level; [L, 0]: of MACs"""
    leaders: np.ndarray
    """int64[L + 1, 3]: operands looked at, as bits"""
    run_bits: int
    sigmas: float
    """Standard deviations above the mean for which a tile has room; infinite: for the most non-zeros"""


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_sparse(
    factors: Factors,
    shape: Ints,
    geometry: Ints,
    machine: Machine,
    zeros: Zeros,
    start: Int,
    stop: Int,
    scores: Scores,
) -> None:
    """Score mappings start..stop-1, as `evaluate_mappings` does; arguments beside `zeros` are those."""
    levels, n_levels = machine.levels, machine.levels.shape[0]
    density, formats, actions, leaders = zeros.density, zeros.formats, zeros.actions, zeros.leaders
    extents = np.ones((n_levels + 1, 8), np.int64)
    loops, table = np.ones((8 * n_levels + 1, 4), np.int64), np.ones((n_levels + 1, COLUMNS), np.int64)
    words, slope, box = np.zeros((n_levels + 1, 3, 4), np.int64), np.zeros((8, 2), np.int64), np.ones(8, np.int64)
    moved = np.zeros((n_levels + 1, 3, 3))  # words read and written that cost energy, and all that take time
    for i in range(4):
        slope[P + i, i & 1] = geometry[i]
    effectual = 1.0
    for operand in range(3):
        effectual *= density[operand] if (leaders[n_levels, 0] >> operand) & 1 else 1.0
    for b in range(start, stop):
        temporal, spatial, order = factors.temporal[b], factors.spatial[b], factors.order[b]
        steps = unroll(temporal, spatial, order, extents, loops, table)
        for dim in range(8):
            steps = steps if extents[0, dim] == shape[dim] else np.int64(0)
        excess = np.int64(-1)
        if steps:
            count_tiles(extents, table, geometry)
            excess = np.int64(0)
            for level in range(n_levels):
                if machine.capacity_bits[level] >= 0:
                    need = 0.0
                    for operand in range(3):
                        if levels[level, operand]:
                            tile, whole = table[level, WORDS + operand], table[0, WORDS + operand]
                            full = most_nonzeros(tile, whole, density[operand], zeros.sigmas)
                            bits = machine.word_bits[level, operand]
                            need += ceil(tile_bits(formats[level, operand], tile, full, bits, zeros.run_bits, True))
                    excess = max(excess, np.int64(need) - machine.capacity_bits[level])
        scores.excess_bits[b] = excess
        if excess != 0:
            continue
        count_words(temporal, spatial, order, extents, loops, table, geometry, slope, levels, steps, words)
        for operand in range(3):
            spent, timed, parent = 1.0, 1.0, np.int64(0)
            for level in range(n_levels):
                moved[level, operand, :] = 0.0
            while parent < n_levels:
                child = parent + 1
                while child < n_levels and levels[child, operand] == 0:
                    child += 1
                action = actions[parent, operand]
                if action != NONE:
                    share = 1.0
                    meet(operand, parent, child, extents, spatial, loops, table, levels, box)
                    for leader in range(3):
                        if (leaders[parent, operand] >> leader) & 1:
                            tile = box_words(box, leader, geometry)
                            share *= 1.0 - empty_share(tile, table[0, WORDS + leader], density[leader])
                    spent = min(spent, share)
                    timed = min(timed, share) if action == SKIP else timed
                outside, inside = words[parent, operand], words[child, operand]
                moved[parent, operand, 0] += spent * outside[SENT]
                moved[parent, operand, 1] += spent * outside[UPDATED]
                moved[parent, operand, 2] += timed * (outside[SENT] + outside[UPDATED])
                moved[child, operand, 0] += spent * inside[DRAINED]
                moved[child, operand, 1] += spent * inside[FILLED]
                moved[child, operand, 2] += timed * (inside[DRAINED] + inside[FILLED])
                parent = child
        units, energy, cycles = 1, 0.0, float(steps)
        if actions[n_levels, 0] == SKIP:
            cycles = max(1.0, ceil(steps * effectual * (1.0 - 1e-12)))
        for level in range(n_levels):
            total = 0.0
            for operand in range(3):
                if levels[level, operand]:
                    tile, bits = table[level, WORDS + operand], machine.word_bits[level, operand]
                    stored = tile_bits(
                        formats[level, operand], tile, density[operand] * tile, bits, zeros.run_bits, False
                    ) / (tile * bits)
                    total += stored * moved[level, operand, 2]
                    energy += stored * moved[level, operand, 0] * machine.read_pj[level, operand]
                    energy += stored * moved[level, operand, 1] * machine.write_pj[level, operand]
            cycles = max(cycles, ceil(total / (machine.bandwidth[level] * units) * (1.0 - 1e-12)))
            units *= table[level, WAYS] * table[level, WAYS + 1]
        energy += float(steps) * units * machine.mac_pj * (effectual if actions[n_levels, 0] != NONE else 1.0)
        scores.cycles[b], scores.energy_pj[b] = np.int64(cycles), energy


@njit(cache=True, nogil=True, error_model="numpy")
def meet(
    operand: Int,
    parent: Int,
    child: Int,
    extents: Ints,
    spatial: Ints,
    loops: Ints,
    table: Ints,
    levels: Ints,
    box: Ints,
) -> None:
    """Fill `box` [8] with the iterations for which one read of a tile of the child serves."""
    for dim in range(8):
        box[dim] = extents[child, dim]
        if levels[parent, MULTICAST] == 1 and RELEVANT[operand, dim] == 0:
            for level in range(parent, child):
                box[dim] *= spatial[level, dim]
    j = table[child, FIRST]
    while j > 0 and RELEVANT[operand, loops[j - 1, DIM]] == 0 and child < extents.shape[0] - 1:
        j -= 1
        box[loops[j, DIM]] *= loops[j, FACTOR]


@njit(cache=True, nogil=True, error_model="numpy")
def box_words(box: Ints, operand: Int, geometry: Ints) -> Int:
    """Words of an operand in a box of iterations."""
    if operand == WEIGHT:
        return box[G] * box[K] * box[C] * box[R] * box[R + 1]
    if operand == OUTPUT:
        return box[N] * box[G] * box[K] * box[P] * box[P + 1]
    rows = positions(box[P], box[R], geometry[0], geometry[2])
    return box[N] * box[G] * box[C] * rows * positions(box[P + 1], box[R + 1], geometry[1], geometry[3])


@njit(cache=True, nogil=True, error_model="numpy")
def empty_share(tile: Int, whole: Int, density: Float) -> Float:
    """Probability that `tile` words of a tensor of `whole` hold none of its non-zeros (hypergeometric)."""
    full = np.floor(density * whole + 0.5)
    if full == 0.0 or full + tile > whole:
        return 1.0 if full == 0.0 else 0.0
    if tile == 1:
        return 1.0 - full / whole
    rest = float(whole - tile)
    return exp(lgamma(rest + 1.0) - lgamma(rest - full + 1.0) - lgamma(whole + 1.0) + lgamma(whole - full + 1.0))


@njit(cache=True, nogil=True, error_model="numpy")
def most_nonzeros(tile: Int, whole: Int, density: Float, sigmas: Float) -> Float:
    """Non-zeros for which a tile has room: mean and so many standard deviations (hypergeometric), whole numbers."""
    full = np.floor(density * whole + 0.5)
    most = min(float(tile), full)
    if sigmas == np.inf or whole == 1:
        return most
    share = full / whole
    spread = sqrt(tile * share * (1.0 - share) * (whole - tile) / (whole - 1.0))
    return min(most, np.ceil((tile * share + sigmas * spread) * (1.0 - 1e-12)))


@njit(cache=True, nogil=True, error_model="numpy")
def tile_bits(form: Int, tile: Int, full: Float, bits: Int, run_bits: Int, worst: bool) -> Float:
    """Bits of a tile of so many words with so many non-zeros: expected, or at worst."""
    if form == DENSE:
        return float(tile * bits)
    if form == BITMASK:
        return full * bits + tile
    if form == COORDINATES:
        return full * (bits + ceil(log2(float(tile)))) + ceil(log2(tile + 1.0))
    span = 2.0**run_bits
    if worst:
        return (full + ceil((tile - full) / span)) * (bits + run_bits)
    none = 1.0 - full / tile
    entries = tile / span if full == 0.0 else full / (1.0 - none**span)
    return entries * (bits + run_bits)
