"""Activity: what a layer makes an accelerator do, in exact integers. Prices come later (`cost.py`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from accel_models.accelerator import OPERANDS, Accelerator, Dataflow, Memory, Operand
from accel_models.energy import EnergyTable, input_share
from accel_models.errors import InvalidInputError, NoMappingError
from accel_models.goal import DEFAULT_GOAL, OBJECTIVES, Goal
from accel_models.kernels import schedules, systolic
from accel_models.layer_zeros import Unstructured
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.sparse_report import SparseReport
from accel_models.sparsity import KofN
from accel_models.stored_weights import StoredWeights, store_weights

DATAFLOW_CODES: Mapping[Dataflow, int] = {
    "output_stationary": systolic.OUTPUT_STATIONARY,
    "weight_stationary": systolic.WEIGHT_STATIONARY,
    "input_stationary": systolic.INPUT_STATIONARY,
}
_TOO_SMALL: Mapping[int, Operand] = {
    systolic.INPUT_TOO_SMALL: "input",
    systolic.WEIGHT_TOO_SMALL: "weight",
    systolic.OUTPUT_TOO_SMALL: "output",
}


@dataclass(frozen=True)
class Access:
    """Elements that one memory reads and writes for one operand, and their bits (metadata apart)."""

    reads: int = 0
    writes: int = 0
    read_bits: int = 0
    write_bits: int = 0
    metadata_read_bits: int = 0
    metadata_write_bits: int = 0

    @property
    def moved_bits(self) -> int:
        """Read and written, metadata included."""
        return self.read_bits + self.write_bits + self.metadata_read_bits + self.metadata_write_bits


Accesses = Mapping[Operand, Access]
_MAX_INT = 2**62
_WIDEST = 256
"""Bits of an element moved twice, with metadata, rounded up."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of the dense layer: done, gated (cycle spent, energy saved), skipped (neither)."""

    done: int = 0
    gated: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Activity:
    """Counts of one layer. `accesses` maps memory name -> operand -> Access."""

    macs: Macs
    compute_cycles: int
    stall_cycles: Mapping[str, int]
    accesses: Mapping[str, Accesses]
    vector_operations: int
    utilization: float
    """Useful multiply-accumulates over PEs x compute cycles."""
    mapping: str
    multiplier_bits: int
    input_share: float = 1.0
    """Width at which inputs are multiplied, over the array's."""
    weight_bits: int = 0
    """Bits of the layer's weights as stored, metadata included."""
    notice: str | None = None
    final_writes: int = 0
    """Complete outputs written to DRAM, and their bits."""
    final_write_bits: int = 0
    resident_bytes: int = 0
    """What the layer occupies of the memory that holds inputs, at most; and what of that is its input."""
    resident_input_bytes: int = 0
    operations: Mapping[str, int] = field(default_factory=dict)
    """Entry of the energy table -> how often, beside multiply-accumulates and accesses (intersections, crossbars)."""
    sparse: SparseReport | None = None
    """On a sparse array: mask-exact and expected counts of its lanes."""

    @property
    def latency_cycles(self) -> int:
        return self.compute_cycles + sum(self.stall_cycles.values())


def product_of(layer: Conv2d | Gemm, weights: StoredWeights, psum_bits: int) -> systolic.Product:
    """The kernel's view of a layer."""
    gemm, footprint = layer.as_gemm(), layer.footprint()
    return systolic.Product(
        m=gemm.m,
        n=gemm.n,
        k=weights.kept,
        k_dense=gemm.k,
        groups=gemm.groups,
        input_rows=footprint.rows,
        row_elements=footprint.row_elements,
        out_width=footprint.out_width,
        out_rows=gemm.m // (footprint.out_width * footprint.images),
        stride=footprint.stride,
        window=footprint.window,
        images=footprint.images,
        input_bits=layer.bits.input,
        column_bits=weights.value_bits + weights.metadata_bits,
        output_bits=layer.bits.output,
        psum_bits=psum_bits,
    )


def machine_of(accelerator: Accelerator) -> systolic.Machine:
    """The kernel's view of an accelerator."""
    buffers = {operand: accelerator.buffer(operand) for operand in OPERANDS}
    return systolic.Machine(
        rows=accelerator.pe_array.rows,
        cols=accelerator.pe_array.cols,
        dataflow=DATAFLOW_CODES[accelerator.pe_array.dataflow],
        input_capacity=_capacity_bits(buffers["input"]),
        weight_capacity=_capacity_bits(buffers["weight"]),
        output_capacity=_capacity_bits(buffers["output"]),
        input_port=accelerator.port_bits(buffers["input"]),
        weight_port=accelerator.port_bits(buffers["weight"]),
        output_port=accelerator.port_bits(buffers["output"]),
        dram_bits_per_cycle=8.0 * (accelerator.dram.bandwidth_bytes_per_cycle or 0.0),
    )


def _capacity_bits(memory: Memory) -> int:
    return 8 * (memory.capacity_bytes or 0)


def matrix_activity(
    layer: Conv2d | Gemm,
    structure: KofN | Unstructured | None,
    accelerator: Accelerator,
    table: EnergyTable,
    goal: Goal = DEFAULT_GOAL,
) -> Activity:
    """Counts of a convolution or matrix product on a systolic array under its best schedule.

    Raises
    ------
    NoMappingError
        A buffer holds less than two array edges of elements.
    InvalidInputError
        An operand is wider than the array's, or the layer is too large to be counted.
    """
    width = accelerator.multiplier_bits(layer.bits.weight)
    check_widths(layer, accelerator)
    weights = store_weights(layer, structure, accelerator)
    product = product_of(layer, weights, accelerator.pe_array.psum_bits)
    machine = machine_of(accelerator)
    macs = count_macs(layer, weights, accelerator)
    registers = registers_of(product, macs, accelerator)
    share = input_share(layer, accelerator)
    fixed = table.array_pj(macs.done * table.mac_pj(width, share), *register_bits(registers))
    prices = table.schedule_prices(accelerator, fixed)
    prices = prices._replace(objective=OBJECTIVES.index(goal.objective))
    _check_range(layer, accelerator, machine)
    traffic = schedules.cheapest_schedule(product, machine, prices)
    if traffic.status != systolic.FITS:
        raise _no_mapping(layer, accelerator, _TOO_SMALL[traffic.status], systolic.least_capacity(product, machine))
    busy = accelerator.pe_array.pes * traffic.compute_cycles
    accesses = _accesses(product, weights, traffic, accelerator)
    return Activity(
        macs=macs,
        compute_cycles=traffic.compute_cycles,
        stall_cycles=_stalls(traffic, accesses[accelerator.dram.name], machine, goal),
        accesses={**accesses, "register": registers},
        vector_operations=0,
        utilization=macs.done / busy,
        mapping=_describe(traffic, machine, product),
        multiplier_bits=width,
        input_share=share,
        weight_bits=product.groups * product.n * product.column_bits,
        notice=weights.notice,
        final_writes=layer.output_elements,
        final_write_bits=layer.output_elements * layer.bits.output,
        resident_bytes=_input_bytes(product, accelerator),
        resident_input_bytes=_input_bytes(product, accelerator),
    )


def _input_bytes(product: systolic.Product, accelerator: Accelerator) -> int:
    """What a layer may occupy of the input buffer: all of its input, or all of the buffer."""
    whole = -(-product.groups * product.input_rows * product.row_elements * product.input_bits // 8)
    return min(whole, accelerator.buffer("input").capacity_bytes or 0)


def _stalls(traffic: systolic.Traffic, dram: Accesses, machine: systolic.Machine, goal: Goal) -> dict[str, int]:
    """Cycles by cause beside those of the array; in mode `ideal` all transfers overlap."""
    if goal.mode == "ideal":
        moved = sum(access.moved_bits for access in dram.values()) / machine.dram_bits_per_cycle
        busy = traffic.compute_cycles + traffic.buffer_stall_cycles
        return {
            "dram_bandwidth": max(0, math.ceil(moved) - busy),
            "buffer_bandwidth": traffic.buffer_stall_cycles,
        }
    return {
        "dram_fill": traffic.fill_cycles,
        "dram_bandwidth": traffic.dram_stall_cycles,
        "buffer_bandwidth": traffic.buffer_stall_cycles,
        "single_buffer": traffic.single_buffer_cycles,
        "dram_drain": traffic.drain_cycles,
    }


def count_macs(layer: Conv2d | Gemm, weights: StoredWeights, accelerator: Accelerator) -> Macs:
    """Dense multiply-accumulates split by what the array does with them."""
    gemm = layer.as_gemm()
    outputs = gemm.groups * gemm.m * gemm.n
    zeros = int(outputs * (weights.kept - weights.nonzero))
    gated = zeros if accelerator.weight_sparsity.action in ("gate", "skip") else 0
    return Macs(outputs * weights.kept - gated, gated, outputs * (gemm.k - weights.kept))


def _accesses(
    product: systolic.Product,
    weights: StoredWeights,
    traffic: systolic.Traffic,
    accelerator: Accelerator,
) -> dict[str, Accesses]:
    """Elements and bits that every memory moves."""
    outputs = product.groups * product.m * product.n
    columns_filled = product.groups * product.n * traffic.weight_passes
    columns_read = traffic.weight_reads // product.k
    fill, read = (
        {
            "elements": columns * product.k,
            "bits": columns * weights.value_bits,
            "metadata": columns * weights.metadata_bits,
        }
        for columns in (columns_filled, columns_read)
    )
    in_bits, out_bits = product.input_bits, product.output_bits
    partial_bits = out_bits if accelerator.pe_array.dataflow == "output_stationary" else product.psum_bits
    fetched = traffic.dram_input_reads
    return {
        accelerator.dram.name: {
            "input": Access(reads=fetched, read_bits=fetched * in_bits),
            "weight": Access(reads=fill["elements"], read_bits=fill["bits"], metadata_read_bits=fill["metadata"]),
            "output": Access(writes=outputs, write_bits=outputs * out_bits),
        },
        accelerator.buffer("input").name: {
            "input": Access(traffic.input_reads, fetched, traffic.input_reads * in_bits, fetched * in_bits)
        },
        accelerator.buffer("weight").name: {
            "weight": Access(
                read["elements"], fill["elements"], read["bits"], fill["bits"], read["metadata"], fill["metadata"]
            )
        },
        accelerator.buffer("output").name: {
            "output": Access(
                traffic.output_reads,
                traffic.output_writes,
                traffic.output_reads * partial_bits,
                traffic.output_writes * partial_bits,
            )
        },
    }


def registers_of(product: systolic.Product, macs: Macs, accelerator: Accelerator) -> dict[Operand, Access]:
    """Registers of the PEs: reads are operands of a multiplication, writes values that a register takes.

    The inputs of a whole row pass through every PE, also those that a gathering PE does not select.
    """
    slots, passed = macs.done + macs.gated, product.groups * product.m * product.n * product.k_dense
    in_bits, weight_bits, psum_bits = product.input_bits, accelerator.pe_array.weight_bits[-1], product.psum_bits
    return {
        "input": Access(slots, passed, slots * in_bits, passed * in_bits),
        "weight": Access(reads=slots, read_bits=slots * weight_bits),
        "output": Access(macs.done, macs.done, macs.done * psum_bits, macs.done * psum_bits),
    }


def register_bits(registers: Accesses) -> tuple[int, int]:
    """Bits that are charged at the register price, and bits that a PE selects from a tile.

    The price covers a value's stay in a register, its write and its read: the larger count of the two is charged.
    """
    held = sum(max(access.read_bits, access.write_bits) for access in registers.values())
    return held, registers["input"].read_bits


def vector_activity(layer: VectorOp, accelerator: Accelerator) -> Activity:
    """Counts of work without weights: everything comes from DRAM and returns there, `vector_lanes` a cycle."""
    dram = accelerator.dram
    read_bits, write_bits = layer.input_elements * layer.bits.input, layer.output_elements * layer.bits.output
    moved = math.ceil((read_bits + write_bits) / (8.0 * (dram.bandwidth_bytes_per_cycle or 0.0)))
    compute = math.ceil(layer.operations / accelerator.vector_lanes)
    return Activity(
        macs=Macs(),
        compute_cycles=compute,
        stall_cycles={"dram_bandwidth": max(0, moved - compute)},
        accesses={
            dram.name: {
                "input": Access(reads=layer.input_elements, read_bits=read_bits),
                "output": Access(writes=layer.output_elements, write_bits=write_bits),
            }
        },
        vector_operations=layer.operations,
        utilization=0.0,
        mapping=f"vector unit, {accelerator.vector_lanes} lanes",
        multiplier_bits=accelerator.pe_array.weight_bits[-1],
        final_writes=layer.output_elements,
        final_write_bits=write_bits,
    )


def check_widths(layer: Conv2d | Gemm, accelerator: Accelerator) -> None:
    """Refuse operands that are wider than the array's."""
    array = accelerator.pe_array
    for operand, width, most in (
        ("input", layer.bits.input, array.input_bits),
        ("output", layer.bits.output, array.psum_bits),
    ):
        if width > most:
            field = "input_bits" if operand == "input" else "psum_bits"
            raise InvalidInputError(
                f"layer {layer.name!r}: {operand}s of {width} bits exceed pe_array.{field} = {most} of accelerator "
                f"{accelerator.name!r}; quantise them or widen the array"
            )


def _check_range(layer: Conv2d | Gemm, accelerator: Accelerator, machine: systolic.Machine) -> None:
    """The kernel counts in int64: no count exceeds multiply-accumulates x (bits or cycles of each)."""
    largest = layer.macs * max(2 * machine.rows + machine.cols, _WIDEST) / min(1.0, machine.dram_bits_per_cycle)
    if largest > _MAX_INT:
        raise InvalidInputError(
            f"layer {layer.name!r}: {layer.macs} multiply-accumulates are too many to count on accelerator "
            f"{accelerator.name!r}; split the layer"
        )


def _no_mapping(
    layer: Conv2d | Gemm, accelerator: Accelerator, operand: Operand, least: tuple[int, int, int]
) -> NoMappingError:
    memory = accelerator.buffer(operand)
    needed = -(-least[("input", "weight", "output").index(operand)] // 8)
    missing = needed - (memory.capacity_bytes or 0)
    message = (
        f"no legal mapping of layer {layer.name!r} on accelerator {accelerator.name!r}: memory {memory.name!r} has "
        f"{memory.capacity_bytes} bytes, {missing} less than twice one edge of the {accelerator.pe_array.rows} x "
        f"{accelerator.pe_array.cols} array of {operand} elements; set capacity_bytes to at least {needed}"
    )
    return NoMappingError(message, missing)


def _describe(traffic: systolic.Traffic, machine: systolic.Machine, product: systolic.Product) -> str:
    row_folds, column_folds, t = systolic.fold_counts(product, machine)
    folds = f"{row_folds} x {column_folds} folds of {t} steps"
    orders = {
        systolic.HOLD_INPUT: f"input held, {traffic.held_folds} row folds at a time",
        systolic.HOLD_WEIGHT: f"weight held, {traffic.held_folds} column folds at a time",
        systolic.HOLD_NONE: "both operands streamed",
        systolic.COLUMNS_OUTER: f"columns outermost, blocks of {traffic.t_block} steps",
        systolic.REDUCTION_OUTER: f"reduction outermost, blocks of {traffic.t_block} steps",
    }
    return f"{folds}; {orders[traffic.schedule]}; weights fetched {traffic.weight_passes} x"
