"""Cycles, energy and fit of many mappings of one layer on one machine, without counting tables in between.

The counts are those of `kernels/loopnest.py` (convention EXACT); where an input window is not one interval, that kernel
does the counting. A mapping is a table of factors: at each level and dimension a temporal and a spatial one, the
temporal loops of a level in a given order, its spatial loops inside them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from accel_models.kernels.loopnest import (
    INPUT,
    MULTICAST,
    OUTPUT,
    REDUCTION,
    WEIGHT,
    C,
    G,
    Int,
    Ints,
    K,
    N,
    P,
    R,
    S,
)
from accel_models.kernels.mapping_inputs import (
    COLUMNS,
    FIRST,
    OUTPUT_DIMS,
    OUTSIDE,
    STEP,
    VISITS,
    WAYS,
    WEIGHT_DIMS,
    WORDS,
    fetched_inputs,
    positions,
)

DIM, FACTOR = 0, 1
SENT, UPDATED, DRAINED, FILLED = range(4)


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
    """int64[B]: the most by which a tile exceeds its level; 0 where all fit, -1 where the row is no mapping.

    Only rows of 0 are scored.
    """


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_mappings(
    factors: Factors, shape: Ints, geometry: Ints, machine: Machine, start: Int, stop: Int, scores: Scores
) -> None:
    """Score mappings start..stop-1; several threads may share the arrays.

    Tables hold one mapping at a time, allocated once; no tuple is passed on: its copy would cost more than the work.

    shape : int64[8], geometry : int64[4], of the layer
    extents : int64[L + 1, 8], of the tile of each level
    loops : int64[8 L + 1, 4], DIM, FACTOR, index STEP, product OUTSIDE of temporal loops above 1, outermost first
    slope : int64[8, 2], rows and columns of the input that one step along a dimension moves
    table : int64[L + 1, 14], of each level the FIRST loop, and by operand VISITS and WORDS of a tile and, in pairs,
        spatial WAYS inside it along dimensions that do not and do index the operand
    """
    levels, bandwidth, read_pj, write_pj = machine.levels, machine.bandwidth, machine.read_pj, machine.write_pj
    n_levels = levels.shape[0]
    extents = np.ones((n_levels + 1, 8), np.int64)
    loops = np.ones((8 * n_levels + 1, 4), np.int64)
    table = np.ones((n_levels + 1, COLUMNS), np.int64)
    slope = np.zeros((8, 2), np.int64)
    for i in range(4):
        slope[P + i, i & 1] = geometry[i]
    words = np.zeros((n_levels + 1, 3, 4), np.int64)
    for b in range(start, stop):
        temporal, spatial, order = factors.temporal[b], factors.spatial[b], factors.order[b]
        steps = unroll(temporal, spatial, order, extents, loops, table)
        for dim in range(8):
            steps = steps if extents[0, dim] == shape[dim] else np.int64(0)
        excess = np.int64(-1)
        if steps:
            count_tiles(extents, table, geometry)
            excess = _excess(table, levels, machine.capacity_bits, machine.word_bits)
        scores.excess_bits[b] = excess
        if excess != 0:
            continue
        count_words(temporal, spatial, order, extents, loops, table, geometry, slope, levels, steps, words)
        units, cycles, energy = 1, steps, 0.0
        for level in range(n_levels):
            moved = 0
            for operand in range(3):
                reads = words[level, operand, SENT] + words[level, operand, DRAINED]
                writes = words[level, operand, UPDATED] + words[level, operand, FILLED]
                moved += reads + writes
                energy += reads * read_pj[level, operand] + writes * write_pj[level, operand]
            cycles = max(cycles, np.int64(np.ceil(moved / (bandwidth[level] * units))))
            units *= table[level, WAYS] * table[level, WAYS + 1]
        scores.cycles[b], scores.energy_pj[b] = cycles, energy + steps * units * machine.mac_pj


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def count_words(
    temporal: Ints,
    spatial: Ints,
    order: Ints,
    extents: Ints,
    loops: Ints,
    table: Ints,
    geometry: Ints,
    slope: Ints,
    levels: Ints,
    steps: Int,
    words: Ints,
) -> None:
    """Fill `words` [L + 1, 3, 4] with what all instances of each level that holds an operand move of it.

    SENT: read to go inward, or to add what comes from there; UPDATED: written from inside; DRAINED: read to go
    outward; FILLED: written from outside.
    """
    n_levels = levels.shape[0]
    for operand in range(3):
        parent, outer = np.int64(0), 1
        blank = table[0, WORDS + operand]
        while parent < n_levels:
            child = parent + 1
            while child < n_levels and levels[child, operand] == 0:
                child += 1
            inner, copies = 1, 1
            for level in range(parent, child):
                copies *= table[level, WAYS + 2 * operand]
                inner *= table[level, WAYS + 2 * operand + 1]
            if operand == INPUT:
                moved, sends = fetched_inputs(
                    temporal, spatial, order, extents, loops, table, geometry, slope, parent, child
                )
            else:
                moved = steps if child == n_levels else table[child, VISITS + operand] * table[child, WORDS + operand]
                sends = moved * inner
            sends *= outer
            outer *= inner * copies
            copied = moved * outer
            reads, writes, drains, fills = sends, 0, 0, copied
            if operand == OUTPUT:
                reads, writes, drains, fills = sends - blank, sends, copied, sends - blank
                blank = copied - fills
                if levels[parent, REDUCTION] == 0:
                    reads, writes = reads + copied - sends, copied
            elif levels[parent, MULTICAST] == 0:
                reads = copied
            words[parent, operand, SENT], words[parent, operand, UPDATED] = reads, writes
            words[child, operand, DRAINED], words[child, operand, FILLED] = drains, fills
            parent = child


@njit(cache=True, nogil=True, error_model="numpy")
def unroll(temporal: Ints, spatial: Ints, order: Ints, extents: Ints, loops: Ints, table: Ints) -> Int:
    """Fill the tables but for the words; returns the steps of computing, 0 of a row that is no mapping."""
    n_levels = temporal.shape[0]
    legal = True  # a factor of 0 shows in the extents
    for level in range(n_levels - 1, -1, -1):
        signs = 0
        for dim in range(8):
            extents[level, dim] = extents[level + 1, dim] * spatial[level, dim] * temporal[level, dim]
            signs |= spatial[level, dim] | temporal[level, dim]
        legal = legal and signs >= 0
        image, group = np.int64(spatial[level, N]), np.int64(spatial[level, G])
        k, c = np.int64(spatial[level, K]), np.int64(spatial[level, C])
        pixels = np.int64(spatial[level, P]) * spatial[level, P + 1]
        taps = np.int64(spatial[level, R]) * spatial[level, S]
        table[level, WAYS + 2 * WEIGHT] = image * pixels
        table[level, WAYS + 2 * WEIGHT + 1] = group * k * c * taps
        table[level, WAYS + 2 * INPUT] = k
        table[level, WAYS + 2 * INPUT + 1] = image * group * c * pixels * taps
        table[level, WAYS + 2 * OUTPUT] = c * taps
        table[level, WAYS + 2 * OUTPUT + 1] = image * group * k * pixels
    n: Int = 0
    steps: Int = 1
    weights: Int = 1
    outputs: Int = 1
    for level in range(n_levels):
        table[level, FIRST] = n
        table[level, VISITS + WEIGHT], table[level, VISITS + OUTPUT] = weights, outputs
        seen: Int = np.int64(0)
        for i in range(8):
            along = np.int64(order[level, i] & 7)
            seen |= np.int64(1) << np.int64(order[level, i] & 63)
            factor = np.int64(temporal[level, along])
            loops[n, DIM], loops[n, FACTOR], loops[n, OUTSIDE] = along, factor, steps
            loops[n, STEP] = extents[level + 1, along] * spatial[level, along]
            steps *= factor
            active = factor > 1  # a factor of 1 is written over by the next loop: no branch to mispredict
            n += active
            weights = steps if active & (WEIGHT_DIMS >> along) else weights
            outputs = steps if active & (OUTPUT_DIMS >> along) else outputs
        legal = legal and seen == 255
    table[n_levels, FIRST] = n
    loops[n, OUTSIDE] = steps
    return steps if legal else np.int64(0)


@njit(cache=True, nogil=True, error_model="numpy")
def count_tiles(extents: Ints, table: Ints, geometry: Ints) -> None:
    """Fill in the words of the tiles."""
    for level in range(extents.shape[0] - 1):
        kcrs = extents[level, K] * extents[level, C] * extents[level, R] * extents[level, S]
        rows = positions(extents[level, P], extents[level, R], geometry[0], geometry[2])
        columns = positions(extents[level, P + 1], extents[level, S], geometry[1], geometry[3])
        table[level, WORDS + WEIGHT] = extents[level, G] * kcrs
        ng = extents[level, N] * extents[level, G]
        table[level, WORDS + INPUT] = ng * extents[level, C] * rows * columns
        table[level, WORDS + OUTPUT] = ng * extents[level, K] * extents[level, P] * extents[level, P + 1]


@njit(cache=True, nogil=True, error_model="numpy")
def _excess(table: Ints, levels: Ints, capacity: Ints, word_bits: Ints) -> Int:
    """The most bits by which a level is exceeded, 0 if none is."""
    worst = 0
    for level in range(levels.shape[0]):
        if capacity[level] >= 0:
            bits = -capacity[level]
            for operand in range(3):
                bits += levels[level, operand] * table[level, WORDS + operand] * word_bits[level, operand]
            worst = max(worst, bits)
    return worst
