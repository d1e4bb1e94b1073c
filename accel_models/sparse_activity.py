"""Activity of a layer on a sparse array: cycles of its lanes, and the traffic of operands as they are stored.

Lanes count as `sparse_engine.py` (masks) and `sparse_expectation.py` (densities) do; `sparse_traffic.py` says what is
held on chip. A memory that holds several operands gives each an equal part. Of an operand with a memory of the lanes,
the shared memory is read once for all lanes that take the same block; otherwise lanes read the shared memory itself.

**Latency** = first blocks + max(lanes, memory ports, DRAM) + last outputs. Expected counts are rounded up. Left out:
layers larger than their stored bits on average (a tile that does not fit its share of a buffer), reordering of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from accel_models.accelerator import OPERANDS, Accelerator, Memory, Operand
from accel_models.activity import Access, Activity, Macs, check_widths
from accel_models.captured_layers import mean_products, stored_inputs, stored_mean, stored_outputs
from accel_models.cost import price_activity
from accel_models.energy import EnergyTable, input_share
from accel_models.errors import NoMappingError
from accel_models.goal import Goal
from accel_models.layer_zeros import LayerZeros
from accel_models.layers import Conv2d, Gemm
from accel_models.masks import Mask
from accel_models.sparse_accesses import Counts, LaneRun, count_accesses, inner_memory
from accel_models.sparse_fields import Lanes
from accel_models.sparse_lanes import LaneLayer, as_walked, count_lanes, known_weights, lay_out
from accel_models.sparse_prices import joined_width, selected_from
from accel_models.sparse_report import SparseReport
from accel_models.sparse_storage import Stored, formats_of, store_activations, store_matrix
from accel_models.sparse_traffic import Blocks, Plan, Room, plans
from accel_models.sparsity import KofN


def sparse_activity(
    layer: Conv2d | Gemm, zeros: LayerZeros, accelerator: Accelerator, table: EnergyTable, goal: Goal
) -> Activity:
    """Counts of a convolution or matrix product, under the cheaper plan of its traffic.

    Raises
    ------
    NoMappingError
        A buffer does not hold what the lanes take in one cycle, twice.
    InvalidInputError
        An operand is wider than the array's.
    """
    check_widths(layer, accelerator)
    width = accelerator.multiplier_bits(layer.bits.weight)
    run = _prepare(layer, zeros, accelerator)
    blocks, room = _blocks(run), _room(run)
    _check_room(run, room)
    widths = {"multiplier_bits": width, "input_share": input_share(layer, accelerator)}
    fixed = _fixed(run) | widths | {"notice": _notice(layer, zeros, run)}
    activities = [_activity(run, plan, blocks, goal, fixed) for plan in plans(blocks, room)]
    return min(activities, key=lambda activity: _figure(activity, accelerator, table, goal))


def _figure(activity: Activity, accelerator: Accelerator, table: EnergyTable, goal: Goal) -> float:
    latency = activity.latency_cycles
    if goal.objective == "latency":
        return latency
    energy = sum(price_activity(activity, accelerator, table).values())
    return energy if goal.objective == "energy" else energy * latency


def _prepare(layer: Conv2d | Gemm, zeros: LayerZeros, accelerator: Accelerator) -> LaneRun:
    assert accelerator.lanes is not None
    lanes, laid, gemm = accelerator.lanes, lay_out(layer, accelerator.lanes), layer.as_gemm()
    rows, fp = laid.array.lane_outputs * laid.array.tile_outputs, layer.footprint()
    weights = [memory for memory in accelerator.memories if "weight" in memory.holds]
    stored = {m.name: store_matrix(layer, as_walked(layer, zeros, laid), m, rows, lanes.tile_share) for m in weights}
    known = zeros.weights is not None
    skips = laid.array.skips("weight") and known and stored[weights[0].name].stored.compressed
    report = count_lanes(layer, zeros, laid, skips or not known)
    taken = stored_inputs(layer, zeros.input_mask) if zeros.input_mask is not None else []
    return LaneRun(
        layer=layer,
        accelerator=accelerator,
        laid=laid,
        report=report,
        images={m.name: _image(layer, zeros, m, lanes, taken) for m in accelerator.memories if "input" in m.holds},
        written=_written(layer, zeros, accelerator),
        inner={operand: inner_memory(accelerator, operand) for operand in OPERANDS},
        unrolled=Fraction(1) if laid.planar else Fraction(gemm.m * gemm.k, max(1, fp.elements)),
        weights=stored,
        macs=_macs(layer, zeros, laid, report),
        gemm=gemm,
        footprint=fp,
    )


def _image(
    layer: Conv2d | Gemm, zeros: LayerZeros, memory: Memory, lanes: Lanes, runs: Sequence[Mask]
) -> tuple[Stored, int]:
    """The input of all groups in a memory, and bits that hold one row of one group: of inputs yet unknown."""
    fp, formats = layer.footprint(), formats_of(memory, "input")
    rows = layer.groups * fp.rows
    mean, row = store_activations(formats, rows, fp.row_elements, layer.bits.input, zeros.inputs, lanes.tile_share)
    return stored_mean(formats, runs, layer.bits.input, mean), row


def _written(layer: Conv2d | Gemm, zeros: LayerZeros, accelerator: Accelerator) -> Stored:
    """Outputs in DRAM."""
    outputs, gemm = formats_of(accelerator.dram, "output"), layer.as_gemm()
    mean, _ = store_activations(outputs, gemm.groups * gemm.n, gemm.m, layer.bits.output, zeros.outputs)
    runs = stored_outputs(layer, *zeros.read_by) if outputs and zeros.read_by is not None else []
    return stored_mean(outputs, runs, layer.bits.output, mean)


def _macs(layer: Conv2d | Gemm, zeros: LayerZeros, laid: LaneLayer, report: SparseReport) -> Macs:
    """Whole products; planar lanes also multiply what falls outside the image, which is left out here."""
    counts = report.used
    if laid.planar and report.run_cycles and zeros.input_mask is not None:
        done, gated = round(mean_products(layer, known_weights(layer, zeros), zeros.input_mask)), 0
    elif laid.planar:
        scale = layer.macs / (laid.shape.macs * laid.times * laid.filled * laid.tapped)
        done, gated = (min(layer.macs, round(x * scale)) for x in (counts.macs_done, counts.macs_gated))
    else:
        done, gated = round(counts.macs_done), round(counts.macs_gated)
    done = min(layer.macs, done)
    gated = min(gated, layer.macs - done)
    return Macs(done, gated, layer.macs - done - gated)


def _blocks(run: LaneRun) -> Blocks:
    fp, laid = run.footprint, run.laid
    return Blocks(
        outputs=laid.output_blocks,
        pixels=laid.pixel_blocks,
        weight_block_bits=run.weights[run.accelerator.buffer("weight").name].block_bits,
        sum_bits=_sum_bits(run),
        reduction=run.gemm.k,
        image_rows=max(1, fp.rows),
        row_bits=run.images[run.accelerator.buffer("input").name][1],
        block_pixels=-(-run.gemm.m // laid.pixel_blocks)
        if laid.planar
        else laid.array.lane_pixels * laid.array.tile_pixels,
        all_pixels=run.gemm.m,
        unrolled=run.unrolled,
        out_width=fp.out_width,
        out_rows=run.gemm.m // (fp.out_width * fp.images),
        stride=min(fp.stride, fp.window),
        window=fp.window,
    )


def _sum_bits(run: LaneRun) -> int:
    """Partial sums of one pass."""
    gemm, laid = run.gemm, run.laid
    outputs = -(-gemm.n // laid.output_blocks)
    return outputs * -(-gemm.m // laid.pixel_blocks) * run.accelerator.pe_array.psum_bits


def _room(run: LaneRun) -> Room:
    machine, laid = run.accelerator, run.laid
    shared = {operand: _part(machine, machine.buffer(operand), True) for operand in OPERANDS}
    return Room(
        weight_bits=shared["weight"],
        input_bits=shared["input"],
        output_bits=shared["output"],
        lanes_keep_weights=_keeps(run, "weight", _lane_weight_bits(run)),
        lanes_keep_inputs=not laid.planar and _keeps(run, "input", _lane_input_bits(run)),
    )


def _keeps(run: LaneRun, operand: Operand, bits: int) -> bool:
    """Whether a lane has room for so many bits between passes."""
    inner = run.inner[operand]
    return inner is not None and bits <= _lane_part(run.accelerator, inner)


def _lane_part(machine: Accelerator, inner: Memory) -> int:
    """Bits that one lane has for each operand of a memory of the lanes."""
    assert machine.lanes is not None
    return _part(machine, inner, True) // machine.lanes.array.lanes


def _lane_weight_bits(run: LaneRun) -> int:
    """Weights of the tile of a lane, at most, in the memory of the lanes."""
    inner = run.inner["weight"]
    if inner is None:
        return 0
    array, gemm = run.laid.array, run.gemm
    rows = min(gemm.groups * gemm.n, array.lane_outputs * array.tile_outputs)
    return -(-run.weights[inner.name].block_bits * min(array.tile_outputs, rows) // rows)


def _lane_input_bits(run: LaneRun) -> int:
    return run.laid.array.tile_pixels * run.gemm.k * run.layer.bits.input


def _part(machine: Accelerator, memory: Memory, together: bool) -> int:
    """Bits that a memory, one instance of it or all together, has for each of its operands."""
    instances = machine.instances(memory) if together else 1
    return instances * 8 * (memory.capacity_bytes or 0) // len(memory.holds)


def _check_room(run: LaneRun, room: Room) -> None:
    """Both buffers hold twice what the lanes take in a cycle; gathering lanes their whole rows of inputs."""
    array, gemm = run.laid.array, run.gemm
    pixels = min(gemm.m, array.lane_pixels * array.tile_pixels)
    indices = gemm.k if array.gather_banks else min(gemm.k, max(array.vector_reduction, array.segment or 1))
    needs = {
        "weight": 2 * min(gemm.n, array.lane_outputs * array.vector_outputs) * array.vector_reduction,
        "input": (1 if array.gather_banks else 2) * min(pixels, array.lane_pixels * array.vector_pixels) * indices,
    }
    for operand, have in (("weight", room.weight_bits), ("input", room.input_bits)):
        memory = run.accelerator.buffer(operand)  # type: ignore[arg-type]
        missing = needs[operand] * getattr(run.layer.bits, operand) - have
        if missing > 0:
            more = -(-missing * len(memory.holds) // (8 * run.accelerator.instances(memory)))
            raise NoMappingError(
                f"no legal mapping of layer {run.layer.name!r} on accelerator {run.accelerator.name!r}: memory "
                f"{memory.name!r} has {memory.capacity_bytes} bytes, {more} less than the lanes need for {operand}s at "
                f"a time; set capacity_bytes to at least {(memory.capacity_bytes or 0) + more}",
                more,
            )


def _fixed(run: LaneRun) -> dict[str, Any]:
    """Fields of the activity that no plan of the traffic changes."""
    counts, pes, resident = run.report.used, run.accelerator.pe_array.pes, _resident(run)
    compute = max(1, math.ceil(counts.ideal_cycles + counts.fragmentation_cycles - 1e-6), -(-run.macs.done // pes))
    return {
        "macs": run.macs,
        "compute_cycles": compute,
        "vector_operations": 0,
        "utilization": run.macs.done / (pes * compute),
        "weight_bits": run.weights[run.accelerator.dram.name].stored.bits,
        "final_writes": run.layer.output_elements,
        "resident_bytes": resident,
        "resident_input_bytes": resident,
        "operations": _operations(run),
        "sparse": run.report,
    }


def _activity(run: LaneRun, plan: Plan, blocks: Blocks, goal: Goal, fixed: dict[str, Any]) -> Activity:
    accesses, counts = count_accesses(run, plan), run.report.used
    waits = {
        "imbalance": math.ceil(counts.imbalance_cycles - 1e-6),
        "bank_conflict": math.ceil(counts.bank_conflict_cycles - 1e-6),
        "metadata": math.ceil(counts.metadata_cycles - 1e-6),
        "array_fill": math.ceil(counts.fill_cycles - 1e-6),
    }
    busy = fixed["compute_cycles"] + sum(waits.values())
    return Activity(
        stall_cycles=waits | _memory_stalls(run, blocks, accesses, busy, goal),
        accesses=accesses,
        mapping=f"{blocks.outputs} x {blocks.pixels} passes; {plan.describe()}",
        final_write_bits=accesses[run.accelerator.dram.name]["output"].write_bits,
        **fixed,
    )


def _resident(run: LaneRun) -> int:
    """Of the memory that holds inputs: all of the input, or all of its part."""
    memory = run.accelerator.buffer("input")
    whole = -(-run.images[memory.name][0].bits // 8)
    return min(whole, _part(run.accelerator, memory, True) // 8)


def _operations(run: LaneRun) -> dict[str, int]:
    counts, array, machine = run.report.used, run.laid.array, run.accelerator
    found = {}
    if joined_width(array) > 1:
        found["intersection"] = round(counts.intersections)
    if selected_from(array) > 1:
        found["select_bit"] = (run.macs.done + run.macs.gated) * run.layer.bits.input
    if array.accumulator_banks > 1:
        found["scatter_bit"] = round(counts.output_updates) * machine.pe_array.psum_bits
    return found


def _memory_stalls(run: LaneRun, blocks: Blocks, accesses: Counts, busy: int, goal: Goal) -> dict[str, int]:
    """Ports of shared memories and DRAM beside the lanes; in mode `detailed` the first blocks and the last outputs."""
    machine = run.accelerator
    ports = 0
    for memory in machine.memories[1:]:
        if memory.kind == "sram":
            moved = sum(access.moved_bits for access in accesses.get(memory.name, {}).values())
            ports = max(ports, -(-moved // machine.port_bits(memory)))
    late = max(0, ports - busy)
    rate = 8.0 * (machine.dram.bandwidth_bytes_per_cycle or 0.0)
    dram = accesses[machine.dram.name]
    total = math.ceil(sum(access.moved_bits for access in dram.values()) / rate)
    fill = drain = 0
    if goal.mode == "detailed":
        first, last = _edge_bits(run, blocks, dram)
        fill = min(total, math.ceil(first / rate))
        drain = min(total - fill, math.ceil(last / rate))
    return {
        "dram_fill": fill,
        "dram_bandwidth": max(0, total - fill - drain - busy - late),
        "buffer_bandwidth": late,
        "dram_drain": drain,
    }


def _edge_bits(run: LaneRun, blocks: Blocks, dram: dict[Operand, Access]) -> tuple[int, int]:
    """What comes before the first pass and leaves after the last one."""
    gemm = run.gemm
    weights = run.weights[run.accelerator.dram.name].stored.bits
    first = -(-weights // (gemm.groups * blocks.outputs)) + blocks.rows(1) * blocks.row_bits
    last = -(-dram["output"].moved_bits // (gemm.groups * blocks.outputs * blocks.pixels))
    loaded = dram["weight"].moved_bits + dram["input"].moved_bits
    return min(first, loaded), last


def _notice(layer: Conv2d | Gemm, zeros: LayerZeros, run: LaneRun) -> str | None:
    """What the array cannot make of the zeros."""
    if zeros.weights is None:
        return None
    array, name = run.laid.array, run.accelerator.name
    known = zeros.weights
    what = f"{known.k} of {known.n} per {known.granularity} row" if isinstance(known, KofN) else f"density {known:.3g}"
    stored = run.weights[run.accelerator.dram.name].stored
    if array.skips("weight") and stored.compressed:
        return None
    if array.gates("weight"):
        return None
    reason = "its storage format cannot hold them" if array.skips("weight") else "its weights are not skipped"
    return f"{layer.name}: weights of {what} run at dense cycles on {name} ({reason})"
