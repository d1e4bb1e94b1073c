"""Activity of a layer on a flexible array: the loop nest that the mapper finds, its exact traffic, its cycles by cause.

**Latency**, mode `ideal`: everything overlaps, so the slowest of the multipliers and the memories counts. Mode
`detailed` adds what cannot overlap: the first tiles come in (`dram_fill`) and the last outputs leave (`dram_drain`)
while nothing is computed; every tile is one request to DRAM, and as two tiles are in flight, one at work and one on its
way, requests follow each other (`dram_latency`); what a memory without double buffering receives is exposed
(`single_buffer`). An accelerator with a `tile_machine` is timed by `tile_pipeline.py` instead.

Left out: padded iterations of a dimension are counted as work (traffic and cycles), padding of the image as input.
"""

from __future__ import annotations

from math import ceil, inf, prod

from accel_models.accelerator import OPERANDS, Accelerator, Memory, Operand
from accel_models.activity import Access, Accesses, Activity, check_widths, count_macs, store_weights
from accel_models.energy import EnergyTable, input_share
from accel_models.goal import Goal, Mode, Objective
from accel_models.layer_zeros import Unstructured
from accel_models.layers import Conv2d, Gemm
from accel_models.loopnest import LevelCounts, NestCounts, count_accesses
from accel_models.mapper import Hierarchy, MapperResult, SpatialAxis, find_mapping
from accel_models.mapping import LoopShape, StorageLevel, tile_words
from accel_models.mapping_cost import LevelPrices
from accel_models.sparsity import KofN
from accel_models.tile_pipeline import load_tile_machine, plan_tiles, stall_causes

MAX_PADDING = 0.25
"""Share by which a dimension may grow to fill an axis."""


def nest_activity(
    layer: Conv2d | Gemm,
    structure: KofN | Unstructured | None,
    accelerator: Accelerator,
    table: EnergyTable,
    goal: Goal,
) -> Activity:
    """Counts of a convolution or matrix product under its best mapping.

    Raises
    ------
    NoMappingError
        Even one element of each operand does not fit; the message names the buffer and the bytes.
    InvalidInputError
        An operand is wider than the array's, or the layer is too large to be counted.
    """
    check_widths(layer, accelerator)
    width = accelerator.multiplier_bits(layer.bits.weight)
    weights = store_weights(layer, structure, accelerator)
    found = best_mapping(loop_shape(layer), hierarchy_of(layer, accelerator, table), goal)
    counts = count_accesses(found.padded, found.mapping)
    accesses = {
        memory.name: _level_accesses(memory, level, layer, found.padded, accelerator)
        for memory, level in zip(accelerator.memories, counts.levels, strict=True)
    }
    accesses["network"] = _network_accesses(counts, layer, accelerator)
    macs = count_macs(layer, weights, accelerator)
    level = counts.level(accelerator.buffer("input").name)
    return Activity(
        macs=macs,
        compute_cycles=counts.steps,
        stall_cycles=_stalls(layer, found, counts, accesses, accelerator, goal.mode),
        accesses=accesses,
        vector_operations=0,
        utilization=macs.done / (accelerator.pe_array.pes * counts.steps),
        mapping=_describe(found),
        multiplier_bits=width,
        input_share=input_share(layer, accelerator),
        weight_bits=layer.weight_elements * layer.bits.weight,
        notice=weights.notice,
        final_writes=found.padded.words("output"),
        final_write_bits=found.padded.words("output") * layer.bits.output,
        resident_bytes=sum(_tile_bytes(level, layer, accelerator).values()),
        resident_input_bytes=_tile_bytes(level, layer, accelerator)["input"],
    )


def loop_shape(layer: Conv2d | Gemm) -> LoopShape:
    """The eight loops of a layer; of a matrix product P = M, C = K, K = N."""
    if isinstance(layer, Gemm):
        return LoopShape(G=layer.groups, P=layer.m, C=layer.k, K=layer.n)
    return LoopShape(
        N=layer.n,
        G=layer.groups,
        K=layer.k // layer.groups,
        C=layer.c // layer.groups,
        P=layer.p,
        Q=layer.q,
        R=layer.r,
        S=layer.s,
        stride=layer.stride,
        dilation=layer.dilation,
    )


def word_bits(layer: Conv2d | Gemm, accelerator: Accelerator) -> dict[Operand, int]:
    """Width of a stored word on chip; outputs are partial sums there."""
    return {"weight": layer.bits.weight, "input": layer.bits.input, "output": accelerator.pe_array.psum_bits}


def hierarchy_of(layer: Conv2d | Gemm, accelerator: Accelerator, table: EnergyTable) -> Hierarchy:
    """What the mapper sees: levels, axes, and prices of a word."""
    bits = word_bits(layer, accelerator)
    widths = bits["weight"], bits["input"], bits["output"]
    return Hierarchy(
        levels=tuple(
            StorageLevel(
                name=memory.name,
                holds=frozenset(memory.holds),
                capacity_bytes=memory.capacity_bytes,
                word_bits=widths,
                fanout=memory.fanout,
            )
            for memory in accelerator.memories
        ),
        prices=tuple(_level_prices(memory, layer, accelerator, table) for memory in accelerator.memories),
        axes=tuple(
            SpatialAxis(level=memory.name, size=axis.size, dims=frozenset(axis.dims))
            for memory in accelerator.memories
            for axis in memory.axes
        ),
        mac_pj=table.mac_pj(accelerator.multiplier_bits(layer.bits.weight), input_share(layer, accelerator)),
        double_buffered=frozenset(m.name for m in accelerator.memories if m.kind == "sram" and m.double_buffered),
        temporal={m.name: frozenset(m.temporal) for m in accelerator.memories if m.temporal is not None},
    )


def _level_prices(memory: Memory, layer: Conv2d | Gemm, accelerator: Accelerator, table: EnergyTable) -> LevelPrices:
    bits = word_bits(layer, accelerator)
    read, write = (table[f"{memory.name}.{access}_bit"].value for access in ("read", "write"))
    read_pj: dict[str, float] = {operand: read * bits[operand] for operand in memory.holds}
    write_pj: dict[str, float] = {operand: write * bits[operand] for operand in memory.holds}
    for operand in memory.holds:
        if operand != "output" and memory == accelerator.first_inside(operand):
            write_pj[operand] += table["network.bit"].value * bits[operand]
    if memory.kind == "dram":
        # Every output is written once at its own width; what is read back was written as a partial sum before.
        write_pj["output"] = write * layer.bits.output
        read_pj["output"] += write * (bits["output"] - layer.bits.output)
    rate = bits_per_cycle(memory, accelerator)
    return LevelPrices(read_pj=read_pj, write_pj=write_pj, bandwidth=rate / max(_widths(memory, layer, bits)))


def _widths(memory: Memory, layer: Conv2d | Gemm, bits: dict[Operand, int]) -> list[int]:
    return [layer.bits.output if o == "output" and memory.kind == "dram" else bits[o] for o in memory.holds]


def bits_per_cycle(memory: Memory, accelerator: Accelerator) -> float:
    """What one instance of a memory moves in a cycle; registers never limit."""
    if memory.kind == "dram":
        return 8.0 * (memory.bandwidth_bytes_per_cycle or 0.0)
    return float("inf") if memory.kind == "registers" else float(accelerator.port_bits(memory))


_FOUND: dict[tuple[LoopShape, str, Objective, int], MapperResult] = {}
"""Mappings found by this process: layers repeat within a network, and networks within a search."""


def best_mapping(shape: LoopShape, hierarchy: Hierarchy, goal: Goal) -> MapperResult:
    """The mapper's result, remembered."""
    key = shape, repr(hierarchy), goal.objective, goal.search_nodes
    if key not in _FOUND:
        _FOUND[key] = find_mapping(
            shape, hierarchy, goal.objective, max_padding=MAX_PADDING, max_nodes=goal.search_nodes
        )
    return _FOUND[key]


def _level_accesses(
    memory: Memory, level: LevelCounts, layer: Conv2d | Gemm, padded: LoopShape, accelerator: Accelerator
) -> Accesses:
    """Words and bits of one memory; complete outputs reach DRAM at their own width, partial sums at theirs."""
    bits = word_bits(layer, accelerator)
    accesses = {}
    for operand in memory.holds:
        counts = level.operands[operand]
        read_bits, write_bits = counts.reads * bits[operand], counts.writes * bits[operand]
        if memory.kind == "dram" and operand == "output":
            write_bits -= padded.words("output") * (bits["output"] - layer.bits.output)
        accesses[operand] = Access(counts.reads, counts.writes, read_bits, write_bits)
    return accesses


def _network_accesses(counts: NestCounts, layer: Conv2d | Gemm, accelerator: Accelerator) -> Accesses:
    """Words that cross the axes of the array: inputs and weights as often as they are received, partial sums as they
    leave (added up on the way) and return."""
    inside = accelerator.inside_axes()
    bits = word_bits(layer, accelerator)
    accesses = {}
    for operand in OPERANDS:
        holders = [level for level in counts.levels if operand in level.operands]
        within = [level for level in holders if level.name in inside]
        if operand == "output":
            parent = next(level for level in reversed(holders) if level.name not in inside).operands[operand]
            words = parent.updates + parent.sends
        else:
            words = within[0].operands[operand].fills if within else counts.macs
        accesses[operand] = Access(reads=words, read_bits=words * bits[operand])
    return accesses


def _tile_bytes(level: LevelCounts, layer: Conv2d | Gemm, accelerator: Accelerator) -> dict[Operand, int]:
    """Bytes of the tiles in the memory that holds inputs, the ones on their way included."""
    memory, bits = accelerator.buffer("input"), word_bits(layer, accelerator)
    copies = 2 if memory.kind == "sram" and memory.double_buffered else 1
    return {o: copies * -(-level.operands[o].tile_words * bits[o] // 8) for o in memory.holds}


def _stalls(
    layer: Conv2d | Gemm,
    found: MapperResult,
    counts: NestCounts,
    accesses: dict[str, Accesses],
    accelerator: Accelerator,
    mode: Mode,
) -> dict[str, int]:
    """Cycles by cause, beside computing."""
    busy = _busy_cycles(counts, accesses, accelerator)
    if mode == "ideal":
        return _bandwidth_stalls(busy, counts.steps)
    if accelerator.tile_machine is not None and found.padded.G == 1 and found.padded.dilation == (1, 1):
        machine = load_tile_machine(accelerator.tile_machine)
        padding = layer.padding if isinstance(layer, Conv2d) else (0, 0)
        return stall_causes(plan_tiles(found.padded, found.mapping, padding), machine, counts.steps)
    return _detailed_stalls(layer, found, busy, accesses, accelerator)


def _busy_cycles(counts: NestCounts, accesses: dict[str, Accesses], accelerator: Accelerator) -> dict[str, float]:
    """Memory name -> cycles that its traffic takes by itself, all instances at work."""
    busy = {}
    for memory, level in zip(accelerator.memories, counts.levels, strict=True):
        moved = sum(access.read_bits + access.write_bits for access in accesses[memory.name].values())
        busy[memory.name] = moved / (bits_per_cycle(memory, accelerator) * level.instances)
    return busy


def _bandwidth_stalls(busy: dict[str, float], steps: int) -> dict[str, int]:
    """What the slowest memory adds to computing; 0 for all others."""
    worst = max(busy, key=lambda name: busy[name])
    late = max(0, ceil(busy[worst]) - steps)
    return {f"{name}_bandwidth": late if name == worst else 0 for name in busy}


def _detailed_stalls(
    layer: Conv2d | Gemm,
    found: MapperResult,
    busy: dict[str, float],
    accesses: dict[str, Accesses],
    accelerator: Accelerator,
) -> dict[str, int]:
    """First tiles, last outputs, requests and what is not double buffered are exposed; the rest overlaps."""
    dram, steps = accelerator.dram, found.padded.macs // found.mapping.instances(len(found.mapping.levels))
    rate, moved = bits_per_cycle(dram, accelerator), busy[dram.name]
    first, last = _edge_bits(layer, found)
    fill, drain = min(first / rate, moved), min(last / rate, moved)
    exposed = _exposed_share(accesses[dram.name], accelerator) * max(0.0, moved - fill - drain)
    between = {**busy, dram.name: max(0.0, moved - fill - drain - exposed)}
    stalls = _bandwidth_stalls(between, steps)
    tiles = prod(loop.factor for loop in found.mapping.loops[0] if not loop.spatial)
    requested = between[dram.name] + (tiles - 1) * dram.latency_cycles
    return {
        "dram_fill": ceil(fill) + dram.latency_cycles,
        **stalls,
        "dram_latency": max(0, ceil(requested) - steps - sum(stalls.values())),
        "single_buffer": ceil(exposed),
        "dram_drain": ceil(drain),
    }


def _edge_bits(layer: Conv2d | Gemm, found: MapperResult) -> tuple[int, int]:
    """Bits of the inputs and weights of the first tile, and of the outputs of the last one."""
    tile = found.mapping.tile_extents(1)
    words = {operand: tile_words(found.padded, tile, operand) for operand in ("weight", "input", "output")}
    first = words["weight"] * layer.bits.weight + words["input"] * layer.bits.input
    return first, words["output"] * layer.bits.output


def _exposed_share(dram: Accesses, accelerator: Accelerator) -> float:
    """Share of the DRAM traffic that goes to or comes from memories without double buffering."""
    moved = {operand: access.read_bits + access.write_bits for operand, access in dram.items()}
    single = [o for o in moved if accelerator.buffer(o).kind == "sram" and not accelerator.buffer(o).double_buffered]
    return sum(moved[operand] for operand in single) / max(1, sum(moved.values()))


def _describe(found: MapperResult) -> str:
    words = [str(found.mapping)]
    words += [f"{dim} padded by {extra}" for dim, extra in found.padding.items()]
    if not found.complete:
        gap = found.value / found.lower_bound - 1.0 if found.lower_bound > 0 else inf
        words.append(f"search cut short, {found.objective} at most {100 * gap:.0f} % above the optimum")
    return "; ".join(words)
