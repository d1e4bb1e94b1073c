"""Closed forms of a systolic array: cycles, buffer accesses and DRAM traffic of one matrix product.

Numbers in, numbers out. The array has A rows and B columns; a product of [M, K] by [K, N] is cut into
ceil(Sr / A) x ceil(Sc / B) folds, and every fold streams T steps:

=================  ===  ===  ===  ============================
dataflow           Sr   Sc   T    cycles of a fold
=================  ===  ===  ===  ============================
output stationary  M    N    K    T + A + B - 2
weight stationary  K    N    M    T + 2 A + B - 2
input stationary   K    M    N    T + 2 A + B - 2
=================  ===  ===  ===  ============================

(SCALE-Sim, Samajdar et al. ISPASS 2020, section III; folds do not overlap, edge folds cost a full fold.)
With k-of-n skipping K is the kept reduction length in Sr or T, while the input side still delivers the dense one.

DRAM traffic depends on the schedule: which operand is held on chip in groups of strips (doubled, to load the next
group behind the present one), which one is streamed again for every group, and how T is cut into blocks so that
partial sums stay on chip. Partial sums never leave the chip. An input that is held is kept as whole rows of a line
buffer: the rows that neighbouring groups share are fetched once per pass. An input that is not held is fetched
unrolled (im2col), element by element. Buffers have one port: fills and reads share it. `schedules.cheapest_schedule`
tries every schedule of this family and keeps the one with the least energy x latency.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import njit

OUTPUT_STATIONARY, WEIGHT_STATIONARY, INPUT_STATIONARY = 0, 1, 2
FITS, INPUT_TOO_SMALL, WEIGHT_TOO_SMALL, OUTPUT_TOO_SMALL = 0, 1, 2, 3
HOLD_INPUT, HOLD_WEIGHT, HOLD_NONE = 0, 1, 2
COLUMNS_OUTER, REDUCTION_OUTER = 3, 4


class Machine(NamedTuple):
    """The array, its three buffers (capacity and port width in bits) and the DRAM bandwidth in bits per cycle."""

    rows: int
    cols: int
    dataflow: int
    input_capacity: int
    weight_capacity: int
    output_capacity: int
    input_port: int
    weight_port: int
    output_port: int
    dram_bits_per_cycle: float


class Product(NamedTuple):
    """One layer as `groups` matrix products. Input geometry is per group; widths are in bits."""

    m: int
    n: int
    k: int
    """Reduction length that the array executes (kept weights per output)."""
    k_dense: int
    """Reduction length that the input side delivers."""
    groups: int
    input_rows: int
    row_elements: int
    out_width: int
    out_rows: int
    """Output rows of one image."""
    stride: int
    window: int
    images: int
    input_bits: int
    column_bits: int
    """Stored bits of the k weights of one output, metadata included."""
    output_bits: int
    psum_bits: int


ENERGY, LATENCY, EDP = range(3)


class Prices(NamedTuple):
    """What `cheapest_schedule` weighs: all that a layer's energy is made of."""

    fixed_pj: float
    """Multiply-accumulates and registers: the same for every schedule."""
    leakage_pj_per_cycle: float
    dram_read_pj_per_bit: float
    input_fill_pj_per_bit: float
    weight_fill_pj_per_bit: float
    weight_read_pj_per_bit: float
    input_read_pj_per_bit: float = 0.0
    output_read_pj_per_bit: float = 0.0
    output_write_pj_per_bit: float = 0.0
    dram_write_pj_per_bit: float = 0.0
    objective: int = 2
    """ENERGY, LATENCY or EDP."""


class Traffic(NamedTuple):
    """What one schedule costs. Elements unless the name says otherwise; all groups together."""

    status: int
    schedule: int
    held_folds: int
    t_block: int
    compute_cycles: int
    input_reads: int
    weight_reads: int
    output_writes: int
    output_reads: int
    dram_input_reads: int
    weight_passes: int
    latency_cycles: int
    fill_cycles: int
    dram_stall_cycles: int
    buffer_stall_cycles: int
    single_buffer_cycles: int
    """Loads that nothing hides, because a held strip fits once but not twice."""
    drain_cycles: int
    energy_pj: float


@njit(cache=True)
def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@njit(cache=True)
def fold_counts(product: Product, machine: Machine) -> tuple[int, int, int]:
    """(folds along the rows, folds along the columns, T)."""
    if machine.dataflow == OUTPUT_STATIONARY:
        return ceil_div(product.m, machine.rows), ceil_div(product.n, machine.cols), product.k
    if machine.dataflow == WEIGHT_STATIONARY:
        return ceil_div(product.k, machine.rows), ceil_div(product.n, machine.cols), product.m
    return ceil_div(product.k, machine.rows), ceil_div(product.m, machine.cols), product.n


@njit(cache=True)
def compute_cycles(product: Product, machine: Machine, t_blocks: int) -> int:
    """Cycles of the array alone: every block of T pays the fill and drain of every fold."""
    row_folds, column_folds, t = fold_counts(product, machine)
    skew = machine.rows + machine.cols - 2
    if machine.dataflow != OUTPUT_STATIONARY:
        skew += machine.rows
    return product.groups * row_folds * column_folds * (t + t_blocks * skew)


@njit(cache=True)
def line_buffer_rows(pixels: int, product: Product) -> int:
    """Input rows that any run of `pixels` consecutive outputs can need (worst alignment)."""
    out_rows = min((pixels + product.out_width - 2) // product.out_width + 1, product.out_rows * product.images)
    images = 1
    if product.images > 1 and out_rows > 1:
        images = min(product.images, (out_rows - 2) // product.out_rows + 2)
    if product.stride >= product.window:
        rows = out_rows * product.window
    else:
        rows = (out_rows - images) * product.stride + images * product.window
    return min(rows, product.input_rows)


@njit(cache=True)
def input_hold_bits(pixels: int, product: Product) -> int:
    """Bits of the line buffer that holds `pixels` outputs' input while the next as many are loaded."""
    doubled = pixels if pixels >= product.m else 2 * pixels
    return line_buffer_rows(min(doubled, product.m), product) * product.row_elements * product.input_bits


@njit(cache=True)
def largest_held_input(step: int, capacity: int, product: Product) -> int:
    """Most groups of `step` outputs whose input fits `capacity` bits; 0 if not even one does."""
    low, high = 0, ceil_div(product.m, step)
    while low < high:
        middle = (low + high + 1) // 2
        if input_hold_bits(min(middle * step, product.m), product) <= capacity:
            low = middle
        else:
            high = middle - 1
    return low


@njit(cache=True)
def weight_hold_bits(columns: int, product: Product) -> int:
    """Bits of `columns` output channels' weights, doubled unless that is all of them."""
    return columns * product.column_bits if columns >= product.n else 2 * columns * product.column_bits


@njit(cache=True)
def least_capacity(product: Product, machine: Machine) -> tuple[int, int, int]:
    """Bits that the input, weight and output buffers need at least: two array edges of elements."""
    weight_bits = ceil_div(product.column_bits, product.k)
    if machine.dataflow == OUTPUT_STATIONARY:
        return (
            2 * machine.rows * product.input_bits,
            2 * machine.cols * weight_bits,
            2 * machine.cols * product.output_bits,
        )
    input_edge, weight_edge = machine.rows, machine.cols
    if machine.dataflow == INPUT_STATIONARY:
        input_edge, weight_edge = machine.cols, machine.rows
    return 2 * input_edge * product.input_bits, 2 * weight_edge * weight_bits, 2 * machine.cols * product.psum_bits


@njit(cache=True)
def smallest_buffers(product: Product, machine: Machine) -> int:
    """Which buffer is too small for any schedule, or FITS."""
    least = least_capacity(product, machine)
    if machine.input_capacity < least[0]:
        return INPUT_TOO_SMALL
    if machine.weight_capacity < least[1]:
        return WEIGHT_TOO_SMALL
    if machine.output_capacity < least[2]:
        return OUTPUT_TOO_SMALL
    return FITS


@njit(cache=True)
def price(
    product: Product,
    machine: Machine,
    prices: Prices,
    schedule: int,
    held: int,
    t_block: int,
    dram_input_reads: int,
    weight_passes: int,
    weights_exposed: bool,
) -> Traffic:
    """Counts, latency and energy of one schedule (`dram_input_reads` of one group)."""
    m, n, k, groups = product.m, product.n, product.k, product.groups
    row_folds, column_folds, t = fold_counts(product, machine)
    t_blocks = ceil_div(t, t_block)
    compute = compute_cycles(product, machine, t_blocks)
    if machine.dataflow == OUTPUT_STATIONARY:
        input_reads, weight_reads = column_folds * m * product.k_dense, row_folds * n * k
        output_writes, output_reads, stored_bits = m * n, m * n, product.output_bits
    elif machine.dataflow == WEIGHT_STATIONARY:
        input_reads, weight_reads = column_folds * m * product.k_dense, t_blocks * n * k
        output_writes, output_reads, stored_bits = row_folds * m * n, row_folds * m * n, product.psum_bits
    else:
        input_reads, weight_reads = t_blocks * m * product.k_dense, column_folds * n * k
        output_writes, output_reads, stored_bits = row_folds * m * n, row_folds * m * n, product.psum_bits
    dram_input_reads *= groups
    weight_read_bits = groups * (weight_reads // k) * product.column_bits
    input_fill_bits = dram_input_reads * product.input_bits
    weight_fill_bits = groups * weight_passes * n * product.column_bits
    drained_bits = groups * m * n * product.output_bits
    dram_bits = input_fill_bits + weight_fill_bits + drained_bits

    bandwidth = machine.dram_bits_per_cycle
    fill_bits, drain_bits = edge_bits(product, machine)
    fill = int(-(-fill_bits // bandwidth))
    drain = int(-(-drain_bits // bandwidth))
    exposed = int(-(-weight_fill_bits // bandwidth)) if weights_exposed else 0
    steady = max(0, int(-(-dram_bits // bandwidth)) - fill - drain - exposed)
    port = max(
        ceil_div(groups * input_reads * product.input_bits + input_fill_bits, machine.input_port),
        ceil_div(weight_read_bits + weight_fill_bits, machine.weight_port),
        ceil_div(groups * (output_writes + output_reads) * stored_bits, machine.output_port),
    )
    buffer_stall = max(0, port - compute)
    dram_stall = max(0, steady - compute - buffer_stall)
    latency = fill + compute + buffer_stall + dram_stall + exposed + drain
    energy = (
        prices.fixed_pj
        + latency * prices.leakage_pj_per_cycle
        + (input_fill_bits + weight_fill_bits) * prices.dram_read_pj_per_bit
        + drained_bits * prices.dram_write_pj_per_bit
        + input_fill_bits * prices.input_fill_pj_per_bit
        + weight_fill_bits * prices.weight_fill_pj_per_bit
        + weight_read_bits * prices.weight_read_pj_per_bit
        + groups * input_reads * product.input_bits * prices.input_read_pj_per_bit
        + groups * output_reads * stored_bits * prices.output_read_pj_per_bit
        + groups * output_writes * stored_bits * prices.output_write_pj_per_bit
    )
    return Traffic(
        FITS,
        schedule,
        held,
        t_block,
        compute,
        groups * input_reads,
        groups * weight_reads,
        groups * output_writes,
        groups * output_reads,
        dram_input_reads,
        weight_passes,
        latency,
        fill,
        dram_stall,
        buffer_stall,
        exposed,
        drain,
        energy,
    )


@njit(cache=True)
def edge_bits(product: Product, machine: Machine) -> tuple[int, int]:
    """Bits that must arrive before the first fold can start, and that leave after the last one has ended.

    The first fold waits for the first strip of what it streams and pins; the last fold's outputs leave together.
    """
    rows, cols, k = machine.rows, machine.cols, product.k
    weight_bits = ceil_div(product.column_bits, k)
    whole_input = product.input_rows * product.row_elements
    if machine.dataflow == OUTPUT_STATIONARY:
        tile = min(rows, product.m) * product.k_dense
        fill = min(tile, whole_input) * product.input_bits + min(cols, product.n) * product.column_bits
        drain = min(rows, product.m) * min(cols, product.n)
    elif machine.dataflow == WEIGHT_STATIONARY:
        fill = min(rows, k) * min(cols, product.n) * weight_bits + min(rows, product.k_dense) * product.input_bits
        drain = min(cols, product.n)
    else:
        fill = min(min(rows, k) * min(cols, product.m), whole_input) * product.input_bits + min(rows, k) * weight_bits
        drain = min(cols, product.m)
    return fill, drain * product.output_bits
