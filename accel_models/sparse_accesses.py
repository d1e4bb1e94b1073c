"""What every memory of a sparse array reads and writes for a layer, and what its network carries."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from accel_models.accelerator import Accelerator, Memory, Operand
from accel_models.activity import Access, Macs
from accel_models.layers import Conv2d, Gemm, InputFootprint
from accel_models.sparse_lanes import LaneLayer
from accel_models.sparse_report import SparseReport
from accel_models.sparse_storage import Stored, StoredWeights
from accel_models.sparse_traffic import Plan

Counts = dict[str, dict[Operand, Access]]


@dataclass(frozen=True, kw_only=True)
class LaneRun:
    """A layer on an accelerator: everything but the choice of a plan."""

    layer: Conv2d | Gemm
    accelerator: Accelerator
    laid: LaneLayer
    report: SparseReport
    images: dict[str, tuple[Stored, int]]
    """Memory -> the input of all groups as stored there, and bits that hold one row of one group."""
    written: Stored
    """Outputs in DRAM."""
    inner: dict[str, Memory | None]
    """Operand -> its memory of the lanes."""
    unrolled: Fraction
    """Inputs that the lanes take in one go over all pixels, over the inputs of the image."""
    weights: dict[str, StoredWeights]
    """Memory -> weights as stored there."""
    macs: Macs
    gemm: Gemm
    footprint: InputFootprint
    """Of the layer."""


def count_accesses(run: LaneRun, plan: Plan) -> Counts:
    """Elements and bits of every memory and of the network that leads to the lanes."""
    found: Counts = {}
    for operand, traffic in (("weight", _weight_traffic), ("input", _input_traffic), ("output", _output_traffic)):
        for name, access in traffic(run, plan).items():
            found.setdefault(name, {})[operand] = access  # type: ignore[index]
    return found


def _weight_traffic(run: LaneRun, plan: Plan) -> dict[str, Access]:
    machine = run.accelerator
    outer, inner = machine.buffer("weight"), run.inner["weight"]
    stored = run.weights[outer.name].stored
    fetched = run.weights[machine.dram.name].stored.times(plan.weight_fetches)
    written = stored.times(plan.weight_fetches)
    found = {machine.dram.name: _read(fetched)}
    if inner is None:
        taken = _elements(stored, run.report.used.weight_reads)
        return found | {outer.name: _both(taken, written), "network": _flat(taken)}
    delivered, own = stored.times(plan.weight_deliveries), run.weights[inner.name].stored
    copies = own.times(_copies(run, plan.weight_deliveries, "weight"))
    taken = _elements(own, run.report.used.weight_reads)
    return found | {
        outer.name: _both(delivered, written),
        inner.name: _both(taken, copies),
        "network": _flat(delivered),
    }


def _input_traffic(run: LaneRun, plan: Plan) -> dict[str, Access]:
    machine = run.accelerator
    outer, inner, unroll = machine.buffer("input"), run.inner["input"], run.unrolled
    (at_dram, _), (stored, _) = run.images[machine.dram.name], run.images[outer.name]
    found = {machine.dram.name: _read(at_dram.times(plan.input_fetches))}
    written = stored.times(plan.input_fetches)
    if inner is None:
        taken = _elements(stored, run.report.used.input_reads)
        return found | {outer.name: _both(taken, written), "network": _flat(taken)}
    delivered, own = stored.times(plan.input_deliveries * unroll), run.images[inner.name][0]
    copies = own.times(_copies(run, plan.input_deliveries, "input") * unroll)
    taken = _elements(own, run.report.used.input_reads)
    return found | {
        outer.name: _both(delivered, written),
        inner.name: _both(taken, copies),
        "network": _flat(delivered),
    }


def _copies(run: LaneRun, deliveries: int, operand: Operand) -> int:
    """Lanes that take a block for themselves each time that it is delivered: those along the other axis."""
    array, shape = run.laid.array, run.laid.shape
    lanes, tiles = (
        (array.lane_pixels, -(-shape.pixels // array.tile_pixels))
        if operand == "weight"
        else (array.lane_outputs, -(-shape.outputs // array.tile_outputs))
    )
    passes = run.laid.pixel_blocks if operand == "weight" else run.laid.output_blocks
    every = tiles * (run.laid.times if operand == "weight" else 1)
    return every if deliveries == passes else deliveries * min(lanes, tiles)


def _output_traffic(run: LaneRun, plan: Plan) -> dict[str, Access]:
    """Partial sums stay with the lanes; complete outputs pass through the shared memory, if there is one, to DRAM.

    Between parts of the reduction all partial sums leave the lanes and return, unless the lanes hold them all.
    """
    machine, layer = run.accelerator, run.layer
    outer, inner = machine.buffer("output"), run.inner["output"]
    outputs, updates = layer.output_elements, round(run.report.used.output_updates)
    psum, written = machine.pe_array.psum_bits, run.written
    parked = 0 if inner is None else plan.parked * outputs
    sums = Access(
        updates + outputs + parked, updates + parked, (updates + outputs + parked) * psum, (updates + parked) * psum
    )
    found = {
        machine.dram.name: Access(
            writes=outputs, write_bits=written.value_bits, metadata_write_bits=written.metadata_bits
        ),
        "network": Access(reads=outputs + 2 * parked, read_bits=(outputs + 2 * parked) * psum),
    }
    if inner is None:
        return found | {outer.name: sums}
    passing = outputs * layer.bits.output
    moved, passing = outputs + parked, passing + parked * psum
    return found | {inner.name: sums, outer.name: Access(moved, moved, passing, passing)}


def _read(stored: Stored) -> Access:
    return Access(reads=stored.elements, read_bits=stored.value_bits, metadata_read_bits=stored.metadata_bits)


def _flat(stored: Stored) -> Access:
    """On the network values and metadata are bits alike."""
    return Access(reads=stored.elements, read_bits=stored.bits)


def _both(read: Stored, written: Stored) -> Access:
    return Access(
        read.elements,
        written.elements,
        read.value_bits,
        written.value_bits,
        read.metadata_bits,
        written.metadata_bits,
    )


def _elements(stored: Stored, reads: float) -> Stored:
    """So many elements of a stored operand, with their share of the metadata."""
    if not stored.elements:
        return Stored(0, 0, 0, stored.compressed)
    return stored.times(Fraction(round(reads), stored.elements))


def inner_memory(machine: Accelerator, operand: Operand) -> Memory | None:
    """The memory of the lanes for an operand, behind the shared one; None: lanes read the shared one."""
    holders = [memory for memory in machine.memories[1:] if operand in memory.holds]
    return holders[1] if len(holders) == 2 else None
