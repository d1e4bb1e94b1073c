"""What the loops outside the tiles of a nest cost, term by term. Numbers only; used by `kernels/nest_order.py`.

Everything moved is a sum over children c of `loopnest` pairs (parent, child), in two kinds of terms:

- weights and outputs: a price times the visits V(c) = product of the loops outside c without the innermost ones that
  do not index the operand. Outputs are linear in all V: with B(p) = |O| + sum over holders j up to p of
  V(j) (1 - 1 / copies(j)) the blank words, refills(c) = V(c) / copies(c) - B(p).
- inputs: every loop j costs (factor - 1) x (product of the loops outside j) x what a step of it fetches, which
  depends on it and the loops inside it alone; once a loop over channels or images is passed, every step fetches all.

Prices come in sets (energy; then, of each level, words moved), one sum each.
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
from accel_models.kernels.mapping_inputs import CHANNEL_DIMS, axis_line, new_positions, spread_positions

Floats = NDArray[np.float64]
Float = Any

ENERGY, LATENCY, EDP = range(3)
ROUNDING = 1e-12
"""Relative; what float64 sums of exact counts may be off."""


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
    """int64[D, 3]"""
    trial: np.ndarray
    """int64[L, 8]"""


@njit(cache=True, nogil=True, error_model="numpy")
def value_of(moved: Floats, steps: Float, rates: Floats, objective: Int, cap: Float) -> Float:
    """Objective from sums per price set; `rates`: words a cycle that all instances of a level move together.

    With a `cap`, infinite where the cycles exceed it.
    """
    if moved.shape[0] == 1:
        return moved[0]
    if moved[0] == np.inf:  # no tile fits; then nor are the words finite, and rates may be infinite
        return moved[0]
    cycles = steps
    for level in range(rates.shape[0]):
        cycles = max(cycles, np.ceil(moved[1 + level] / rates[level] * (1.0 - ROUNDING)))
    if cycles > cap:
        return np.inf
    return moved[0] if objective == ENERGY else (cycles if objective == LATENCY else cycles * max(0.0, moved[0]))


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
    lines : int64[L + 1, 2, 6], filled: `axis_line` of rows and columns
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
                    line = axis_line(spatial, extents, spatial, geometry, p, c, np.int64(axis))
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
    rows, columns = spread_positions(row, row[0]), spread_positions(column, column[0])
    return (rows if rows >= 0 else -row[0]), (columns if columns >= 0 else -column[0])


@njit(cache=True, nogil=True, error_model="numpy")
def line_of(lines: Ints, c: Int, axis: Int) -> tuple[Int, Int, Int, Int, Int, Int]:
    line = lines[c, axis]
    return line[0], line[1], line[2], line[3], line[4], line[5]


@njit(cache=True, nogil=True, error_model="numpy")
def step_cost(lines: Ints, fetch: Floats, c: Int, h: Int, w: Int, count: Float, sums: Floats) -> bool:
    """Add what `count` moves of the input tiles by h rows and w columns fetch; returns whether it is exact."""
    row, column = line_of(lines, c, 0), line_of(lines, c, 1)
    new_h, new_w = new_positions(row, abs(h)), new_positions(column, abs(w))
    exact = row[1] != 0 and column[1] != 0
    if not exact:
        new_h, new_w = (new_h if row[1] else 0), (new_w if column[1] else 0)
    one = row[0] * column[0] - (row[0] - new_h) * (column[0] - new_w)
    rows, columns = spread_positions(row, row[0]), spread_positions(column, column[0])
    some_h, some_w = spread_positions(row, new_h), spread_positions(column, new_w)
    every = one
    if rows >= 0 and columns >= 0 and some_h >= 0 and some_w >= 0:
        every = rows * columns - (rows - some_h) * (columns - some_w)
    else:
        exact = False
    for m in range(sums.shape[0]):
        sums[m] += count * (one * fetch[c, 0, m] + every * fetch[c, 1, m])
    return exact
