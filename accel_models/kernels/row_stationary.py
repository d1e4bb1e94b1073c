"""Row-stationary dataflow: exact counts, fit, cycles and energy of one mapping of one layer (of one group).

A PE keeps p x q filter rows and slides q input rows past them; R x e PEs (a set) make e output rows of p filters from
q channels: weights are shared along a row of the set, inputs along its diagonals, partial sums run up its columns. A
pass runs r x t sets side by side (r groups of q channels, t groups of p filters) and n images one after another. The
global buffer (GLB) keeps, between passes, a tile of the input (n images, c channels, the rows of e output rows) and of
the partial sums (n images, m filters, e output rows); weights pass through it one pass at a time, as in the chip.
Chen, Emer, Sze, ISCA 2016, sections V and VI; Chen, Krishna, Emer, Sze, JSSC 52(1), 2017, sections III and IV.

Every pass loads its weights and streams inputs and partial sums, of which register files hold one window and one
output per filter: what is reused between passes is reused from the GLB.

From DRAM, tiles follow each other in three loops over filters (K), channels (C), and images x strips of output rows
(B), outermost first K B C when outputs are held on chip until they are complete, as in the chip, or B C K when the
input is held. Overlapping input rows of two strips are fetched for both; padding counts as input.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from numba import njit

HELD_OUTPUT, HELD_INPUT = 0, 1
FITS, RF_INPUT, RF_WEIGHT, RF_OUTPUT, RF_TOTAL, ARRAY, GLB, FILTER_GLB = range(8)


class Problem(NamedTuple):
    """One group of a layer."""

    images: int
    filters: int
    channels: int
    out_rows: int
    out_cols: int
    filter_rows: int
    filter_cols: int
    stride_rows: int
    stride_cols: int
    dilation_rows: int
    dilation_cols: int


class Array(NamedTuple):
    """Capacities in words of an operand; negative: no limit of its own."""

    rows: int
    cols: int
    rf_input: int
    rf_weight: int
    rf_output: int
    rf_total: int
    glb: int
    filter_glb: int
    """Buffer for the weights of a pass; negative: they share `glb`."""
    bank: int
    """`glb` is given to operands in units of this many words."""
    input_rate: float
    """Words a cycle that enter the array..."""
    weight_rate: float
    output_rate: float
    """... and that leave it; as many partial sums may enter at the same time."""
    dram_rate: float


class Prices(NamedTuple):
    """Of one MAC, of one access (a word) and of one cycle."""

    mac: float
    rf: float
    noc: float
    glb: float
    dram: float
    idle: float
    fills: bool
    """Pay a move also where it is written; else only where it is read, as Chen et al., ISCA 2016, section VI.C do."""


class Pick(NamedTuple):
    """A mapping, in the letters of the papers; c: channels of an input tile."""

    m: int
    n: int
    e: int
    c: int
    p: int
    q: int
    r: int
    t: int
    held: int


class Counts(NamedTuple):
    """Words moved, of one group."""

    macs: int
    noc_input: int
    """Words that PEs receive: a word multicast to ten PEs counts ten times."""
    noc_weight: int
    noc_output: int
    """Partial sums into the array, from PE to PE, and out of it."""
    glb_input_reads: int
    glb_weight_reads: int
    glb_output_reads: int
    glb_output_writes: int
    dram_input: int
    """Reads of DRAM, which fill the GLB."""
    dram_weight: int
    dram_output_reads: int
    dram_output_writes: int


@njit(cache=True)
def axis_elements(outputs: int, taps: int, stride: int, dilation: int) -> int:
    """Distinct values of stride * o + dilation * t for o < outputs, t < taps (proof: `mapping.axis_elements`)."""
    g, rest = stride, dilation
    while rest:
        g, rest = rest, g % rest
    return outputs * taps - max(0, outputs - dilation // g) * max(0, taps - stride // g)


@njit(cache=True)
def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@njit(cache=True)
def filter_folds(problem: Problem, array_rows: int) -> tuple[int, int]:
    """(passes that a filter taller than the array is cut into, filter rows of each but the last)."""
    folds = ceil_div(problem.filter_rows, array_rows)
    rows = ceil_div(problem.filter_rows, folds)
    return ceil_div(problem.filter_rows, rows), rows


@njit(cache=True)
def input_rows(problem: Problem, out_rows: int, filter_rows: int) -> int:
    return axis_elements(out_rows, filter_rows, problem.stride_rows, problem.dilation_rows)


@njit(cache=True)
def input_cols(problem: Problem) -> int:
    return axis_elements(problem.out_cols, problem.filter_cols, problem.stride_cols, problem.dilation_cols)


@njit(cache=True)
def strip_rows(problem: Problem, e: int, filter_rows: int) -> int:
    """Input rows that filter rows need, summed over the strips of one image."""
    full, rest = problem.out_rows // e, problem.out_rows % e
    rows = full * input_rows(problem, e, filter_rows)
    if rest:
        rows += input_rows(problem, rest, filter_rows)
    return rows


@njit(cache=True)
def groups_and_passes(total: int, tile: int, inside: int, sets: int) -> tuple[int, int]:
    """PE groups of `inside` elements, and passes of `sets` groups, over all tiles; no group or pass spans two tiles."""
    full, rest = total // tile, total % tile
    per_tile = ceil_div(tile, inside)
    groups, passes = full * per_tile, full * ceil_div(per_tile, sets)
    if rest:
        per_tile = ceil_div(rest, inside)
        groups += per_tile
        passes += ceil_div(per_tile, sets)
    return groups, passes


@njit(cache=True)
def count(problem: Problem, array_rows: int, pick: Pick) -> Counts:
    """Exact counts of a mapping; tiles and passes at the edges may be smaller."""
    folds, fold_rows = filter_folds(problem, array_rows)
    filter_words = problem.filter_rows * problem.filter_cols
    weights = problem.filters * problem.channels * filter_words
    outputs = problem.images * problem.filters * problem.out_rows * problem.out_cols
    macs = outputs * problem.channels * filter_words
    filter_groups, filter_passes = groups_and_passes(problem.filters, pick.m, pick.p, pick.t)
    channel_groups, channel_passes = groups_and_passes(problem.channels, pick.c, pick.q, pick.r)
    filter_tiles, channel_tiles = ceil_div(problem.filters, pick.m), ceil_div(problem.channels, pick.c)
    image_tiles = ceil_div(problem.images, pick.n)
    tiles = image_tiles * ceil_div(problem.out_rows, pick.e)
    dram_weight = weights * tiles

    plane = problem.images * problem.channels * input_cols(problem)
    dram_input = plane * strip_rows(problem, pick.e, problem.filter_rows)
    if pick.held != HELD_INPUT and (tiles > 1 or channel_tiles > 1):
        dram_input *= filter_tiles
    streamed = plane * (folds - 1) * strip_rows(problem, pick.e, fold_rows)
    streamed += plane * strip_rows(problem, pick.e, problem.filter_rows - (folds - 1) * fold_rows)

    visits = channel_passes * folds
    spills = channel_tiles - 1 if pick.held == HELD_INPUT and filter_tiles > 1 else 0
    return Counts(
        macs,
        plane * problem.out_rows * problem.filter_rows * filter_groups,
        weights * image_tiles * problem.out_rows,
        outputs * (problem.filter_rows * channel_groups + visits - 1),
        streamed * filter_passes,
        dram_weight,
        outputs * (visits - 1),
        outputs * visits,
        dram_input,
        dram_weight,
        outputs * spills,
        outputs * (spills + 1),
    )


@njit(cache=True)
def sets_that_fit(rows: int, cols: int, filter_rows: int, e: int) -> int:
    """Sets of filter_rows x e PEs on the array; a set wider than the array is cut into segments, stacked in it."""
    segments = ceil_div(e, cols)
    width = ceil_div(e, segments)
    return (rows // filter_rows) * (cols // width) // segments


@njit(cache=True)
def glb_words(problem: Problem, array: Array, pick: Pick) -> tuple[int, int, int]:
    """Words of the input tile, of the partial sums and of the weights of a pass."""
    _, fold_rows = filter_folds(problem, array.rows)
    inputs = pick.n * pick.c * input_rows(problem, pick.e, problem.filter_rows) * input_cols(problem)
    outputs = pick.n * pick.m * pick.e * problem.out_cols
    weights = min(pick.m, pick.p * pick.t) * min(pick.c, pick.q * pick.r) * fold_rows * problem.filter_cols
    return inputs, outputs, weights


@njit(cache=True)
def glb_excess(problem: Problem, array: Array, pick: Pick) -> int:
    """Words by which the GLB is too small, in whole banks."""
    inputs, outputs, weights = glb_words(problem, array, pick)
    bank = array.bank
    need = (ceil_div(inputs, bank) + ceil_div(outputs, bank)) * bank
    if array.filter_glb < 0:
        need += ceil_div(weights, bank) * bank
    return need - array.glb


@njit(cache=True)
def rf_status(problem: Problem, array: Array, p: int, q: int) -> int:
    window, rows = q * problem.filter_cols, p * q * problem.filter_cols
    if 0 <= array.rf_input < window:
        return RF_INPUT
    if 0 <= array.rf_weight < rows:
        return RF_WEIGHT
    if 0 <= array.rf_output < p:
        return RF_OUTPUT
    if 0 <= array.rf_total < window + rows + p:
        return RF_TOTAL
    return FITS


@njit(cache=True)
def status(problem: Problem, array: Array, pick: Pick) -> int:
    """FITS, or what is too small."""
    rf = rf_status(problem, array, pick.p, pick.q)
    if rf != FITS:
        return rf
    _, fold_rows = filter_folds(problem, array.rows)
    if pick.r * pick.t > sets_that_fit(array.rows, array.cols, fold_rows, pick.e):
        return ARRAY
    if 0 <= array.filter_glb < glb_words(problem, array, pick)[2]:
        return FILTER_GLB
    return GLB if glb_excess(problem, array, pick) > 0 else FITS


@njit(cache=True)
def pass_kind(total: int, tile: int, inside: int, sets: int, kind: int) -> tuple[int, int, int]:
    """Passes of one kind along filters or channels: (how many, elements of each, elements of its busiest PE).

    Kinds 0, 1: full passes and the rest of full tiles; 2, 3: of the last, smaller tile.
    """
    size, tiles = (tile, total // tile) if kind < 2 else (total % tile, 1)
    if kind % 2 == 0:
        return tiles * (size // (inside * sets)), inside * sets, inside
    rest = size % (inside * sets)
    return (tiles if rest else 0), rest, min(inside, rest)


@njit(cache=True)
def pass_cycles(
    problem: Problem, array: Array, rows: int, e: int, n: int, filters: int, p: int, channels: int, q: int
) -> float:
    """Cycles of one pass of `rows` filter rows: fill, n images, drain.

    Register files are not doubled: weights and the first windows arrive, on networks of their own, before anything is
    computed; the first windows of the next image while the last output of this one is; the last outputs leave after
    it. In between the slowest of the busiest PE, the input network and the partial-sum network sets the pace.
    """
    windows = input_rows(problem, e, rows) * problem.filter_cols * channels
    image = input_rows(problem, e, rows) * input_cols(problem) * channels
    window_time = math.ceil(windows / array.input_rate)
    fill = max(window_time, math.ceil(rows * problem.filter_cols * filters * channels / array.weight_rate))
    output_time = float(problem.filter_cols * p * q)
    work = max(problem.out_cols * output_time, math.ceil((image - windows) / array.input_rate))
    work = max(work, math.ceil(e * problem.out_cols * filters / array.output_rate))
    return fill + n * work + (n - 1) * max(0.0, window_time - output_time) + math.ceil(e * filters / array.output_rate)


@njit(cache=True)
def tile_cycles(problem: Problem, array: Array, pick: Pick, e: int, n: int) -> float:
    """Cycles of all passes, over filters and channels, of one tile of n images and e output rows."""
    folds, fold_rows = filter_folds(problem, array.rows)
    last = problem.filter_rows - (folds - 1) * fold_rows
    total = 0.0
    for i in range(4):
        filter_passes, filters, p = pass_kind(problem.filters, pick.m, pick.p, pick.t, i)
        if filter_passes == 0:
            continue
        for j in range(4):
            channel_passes, channels, q = pass_kind(problem.channels, pick.c, pick.q, pick.r, j)
            if channel_passes == 0:
                continue
            cycles = pass_cycles(problem, array, last, e, n, filters, p, channels, q)
            if folds > 1:
                cycles += (folds - 1) * pass_cycles(problem, array, fold_rows, e, n, filters, p, channels, q)
            total += filter_passes * channel_passes * cycles
    return total


@njit(cache=True)
def latency(problem: Problem, array: Array, pick: Pick, dram_words: int) -> int:
    """Cycles of one group; DRAM works beside the array."""
    total = 0.0
    for last_images in range(2):
        n, image_tiles = pick.n, problem.images // pick.n
        if last_images:
            n, image_tiles = problem.images % pick.n, 1
        for last_strip in range(2):
            e, strips = pick.e, problem.out_rows // pick.e
            if last_strip:
                e, strips = problem.out_rows % pick.e, 1
            if n * image_tiles * e * strips > 0:
                total += image_tiles * strips * tile_cycles(problem, array, pick, e, n)
    return int(max(total, math.ceil(dram_words / array.dram_rate)))


@njit(cache=True)
def dram_words(counts: Counts) -> int:
    return counts.dram_input + counts.dram_weight + counts.dram_output_reads + counts.dram_output_writes


@njit(cache=True)
def energy(counts: Counts, prices: Prices, cycles: int) -> float:
    """Counts times prices. A MAC reads an input, a weight and a partial sum, and writes one.

    The partial sum that a PE hands on is read instead of the zero that the next one starts from. The GLB writes what
    DRAM sends, and reads what it takes.
    """
    rf = 4 * counts.macs
    noc = counts.noc_input + counts.noc_weight + counts.noc_output
    glb = counts.glb_input_reads + counts.glb_weight_reads + counts.glb_output_reads + counts.glb_output_writes
    if prices.fills:
        rf += counts.noc_input + counts.noc_weight
        glb += dram_words(counts)
    return (
        counts.macs * prices.mac
        + rf * prices.rf
        + noc * prices.noc
        + glb * prices.glb
        + dram_words(counts) * prices.dram
        + cycles * prices.idle
    )
