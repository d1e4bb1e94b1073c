"""Activity of a layer on a row-stationary array: the mapping that `row_stationary.py` finds, its words and cycles.

A word of any memory holds one element, at the narrowest width that the array works at and that holds it: so many bits
move. Space is kept for words of the widest operand, and the network delivers so many of these in a cycle. A filter
whose row is longer than a PE's input scratchpad is cut along its width: each part is run as channels of its own, and
inputs that parts share are fetched for each. Partial sums stay on chip until they are complete, sets are as narrow as
on the chip (JSSC 2017, IV.A).

With `gate_inputs` a zero input spares its multiplication and the read of the weight (JSSC 2017, V.C). In a DRAM with
`formats` inputs and outputs of a known density are compressed; where that would not save bits, or no density is known,
they are stored dense, as the chip stores the input of its first layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from math import ceil, inf
from typing import TYPE_CHECKING

from accel_models.accelerator import Accelerator, Memory, Operand
from accel_models.activity import Access, Accesses, Activity, Macs, check_widths, count_macs, store_weights
from accel_models.energy import EnergyTable, input_share, multiplied_input_bits
from accel_models.goal import Goal
from accel_models.layer_zeros import LayerZeros
from accel_models.layers import Conv2d, Gemm
from accel_models.row_stationary import (
    RowStationaryArray,
    RowStationaryCounts,
    RowStationaryMapping,
    RowStationaryPrices,
    RowStationaryResult,
    RowStationarySpace,
    evaluate_mapping,
    optimal_mapping,
)
from accel_models.smooth import next_smooth

if TYPE_CHECKING:
    from accel_models.masks import Mask
    from accel_models.sparse_storage import Stored

SPACE = RowStationarySpace(narrow_strips=True)
_FOUND: dict[tuple[object, ...], tuple[Conv2d | Gemm, RowStationaryResult]] = {}
"""Mappings found by this process."""


def row_stationary_activity(
    layer: Conv2d | Gemm, zeros: LayerZeros, accelerator: Accelerator, table: EnergyTable, goal: Goal
) -> Activity:
    """Counts of a convolution or matrix product under its best mapping.

    Raises
    ------
    NoMappingError
        Even one row of one filter does not fit; the message names the buffer and the bytes.
    InvalidInputError
        An operand is wider than the array's.
    """
    check_widths(layer, accelerator)
    width = accelerator.multiplier_bits(layer.bits.weight)
    weights = store_weights(layer, zeros.of_dense_array(layer), accelerator)
    array, bits = array_of(accelerator), word_widths(layer, accelerator)
    whole = fold_filter(layer, accelerator)
    run, found = _best(whole, array, _prices(layer, accelerator, table), goal)
    macs = _gated(count_macs(layer, weights, accelerator), layer, zeros, accelerator)
    accesses = _compressed(_accesses(found.counts, macs, bits, accelerator), layer, zeros, accelerator)
    compute, stalls = _cycles(run, array, found, accesses[accelerator.dram.name], accelerator, goal)
    return Activity(
        macs=macs,
        compute_cycles=compute,
        stall_cycles=stalls,
        accesses=accesses,
        vector_operations=0,
        utilization=macs.done / (accelerator.pe_array.pes * compute),
        mapping=_describe(found.mapping, layer, whole, run),
        multiplier_bits=width,
        input_share=input_share(layer, accelerator),
        weight_bits=layer.weight_elements * bits["weight"],
        notice=weights.notice,
        final_writes=layer.output_elements,
        final_write_bits=accesses[accelerator.dram.name]["output"].write_bits,
        resident_bytes=accelerator.buffer("input").capacity_bytes or 0,
    )


def _gated(macs: Macs, layer: Conv2d | Gemm, zeros: LayerZeros, accelerator: Accelerator) -> Macs:
    """Products whose input is zero as well: counted where inputs were captured, else independently of the weight."""
    if not accelerator.gate_inputs or zeros.inputs is None:
        return macs
    done = round(macs.done * zeros.inputs)
    if zeros.input_mask is not None:
        from accel_models.captured_layers import mean_products  # kernels that dense traffic need not load

        if zeros.mask is not None and accelerator.weight_sparsity.action == "gate":
            done = round(mean_products(layer, zeros.mask, zeros.input_mask))
        else:  # of k of n without its mask independently
            done = round(macs.done * mean_products(layer, None, zeros.input_mask) / layer.macs)
    return replace(macs, done=done, gated=macs.gated + macs.done - done)


def _compressed(
    accesses: dict[str, Accesses], layer: Conv2d | Gemm, zeros: LayerZeros, accelerator: Accelerator
) -> dict[str, Accesses]:
    """DRAM traffic of inputs and outputs in their formats there."""
    from accel_models import captured_layers as captured  # kernels that dense traffic need not load
    from accel_models.sparse_storage import formats_of, store_activations

    dram, bits, gemm = accelerator.dram, word_widths(layer, accelerator), layer.as_gemm()
    fp, inputs, read_by = layer.footprint(), zeros.input_mask, zeros.read_by
    known: tuple[tuple[Operand, float | None, int, int, list[Mask]], ...] = (
        ("input", zeros.inputs, gemm.groups * fp.rows, max(1, fp.row_elements),
         captured.stored_inputs(layer, inputs) if inputs is not None else []),
        ("output", zeros.outputs, gemm.groups * gemm.n, gemm.m,
         captured.stored_outputs(layer, *read_by) if read_by is not None else []),
    )  # fmt: skip
    moved = dict(accesses[dram.name])
    for operand, density, rows, cols, runs in known:
        formats = formats_of(dram, operand)
        if not formats or density is None or not rows:
            continue
        word = bits[operand]
        stored, _ = store_activations(formats, rows, cols, word, density)
        stored = captured.stored_mean(formats, runs, word, stored)
        if stored.bits < rows * cols * word:
            moved[operand] = _scaled(moved[operand], stored, rows * cols)
    return accesses | {dram.name: moved}


def _scaled(access: Access, stored: Stored, elements: int) -> Access:
    """The same elements in as many bits as they take on average, rounded up."""

    def share(words: int, bits: int) -> int:
        return -(-words * bits // elements)

    return replace(
        access,
        read_bits=share(access.reads, stored.value_bits),
        write_bits=share(access.writes, stored.value_bits),
        metadata_read_bits=share(access.reads, stored.metadata_bits),
        metadata_write_bits=share(access.writes, stored.metadata_bits),
    )


def word_bits(accelerator: Accelerator) -> int:
    """Width of a word of a memory: the widest operand's."""
    array = accelerator.pe_array
    return max(array.input_bits, array.weight_bits[-1], array.psum_bits)


def word_widths(layer: Conv2d | Gemm, accelerator: Accelerator) -> dict[Operand, int]:
    """Bits that move with an element; of complete outputs, which the next layer reads as inputs."""
    outputs = layer.bits.output
    fits = outputs <= accelerator.pe_array.input_bits
    return {
        "weight": accelerator.multiplier_bits(layer.bits.weight),
        "input": multiplied_input_bits(layer.bits.input, accelerator),
        "output": multiplied_input_bits(outputs, accelerator) if fits else accelerator.pe_array.psum_bits,
    }


def array_of(accelerator: Accelerator) -> RowStationaryArray:
    """The array as the row-stationary model sees it, without limits of DRAM."""
    word, network = word_bits(accelerator), accelerator.pe_array.network
    glb, filters = accelerator.buffer("input"), accelerator.buffer("weight")
    pads = {operand: _registers(accelerator, operand) for operand in ("input", "weight", "output")}
    shared = pads["input"] == pads["weight"] == pads["output"]
    sizes = [pads[operand].capacity_bytes or 0 for operand in ("input", "weight", "output")]
    return RowStationaryArray(
        name=accelerator.name,
        rows=accelerator.pe_array.rows,
        cols=accelerator.pe_array.cols,
        rf_bytes=sizes[0] if shared else (sizes[0], sizes[1], sizes[2]),
        glb_bytes=glb.capacity_bytes or 0,
        filter_glb_bytes=None if filters == glb else filters.capacity_bytes,
        glb_bank_bytes=None if glb.banks is None else (glb.capacity_bytes or 0) // glb.banks,
        word_bits=word,
        noc_words_per_cycle=(inf, inf, inf)
        if network is None
        else (network.input / word, network.weight / word, network.output / word),
    )


def _registers(accelerator: Accelerator, operand: Operand) -> Memory:
    return next(m for m in accelerator.memories if m.kind == "registers" and operand in m.holds)


def fold_filter(layer: Conv2d | Gemm, accelerator: Accelerator) -> Conv2d | Gemm:
    """The layer, its filter rows cut so that one fits the input and weight registers of a PE."""
    if isinstance(layer, Gemm):
        return layer
    word = word_bits(accelerator)
    least = min((_registers(accelerator, o).capacity_bytes or 0) * 8 // word for o in ("input", "weight"))
    if layer.s <= least or least < 1:
        return layer
    parts = ceil(layer.s / least)
    return replace(layer, s=ceil(layer.s / parts), c=layer.c * parts, padding=(0, 0), input_size=None)


def _prices(layer: Conv2d | Gemm, accelerator: Accelerator, table: EnergyTable) -> RowStationaryPrices:
    """Of a whole word; a multiply-accumulate reads input, weight and partial sum from registers and writes one."""
    word, width = word_bits(accelerator), accelerator.multiplier_bits(layer.bits.weight)

    def of(memory: Memory, access: str) -> float:
        return table[f"{memory.name}.{access}_bit"].value * word

    pads = [_registers(accelerator, operand) for operand in ("input", "weight", "output")]
    glb = accelerator.buffer("input")
    return RowStationaryPrices(
        mac=table.mac_pj(width, input_share(layer, accelerator)),
        rf=(sum(of(pad, "read") for pad in pads) + of(pads[2], "write")) / 4,
        noc=table["network.bit"].value * word,
        glb=(of(glb, "read") + of(glb, "write")) / 2,
        dram=of(accelerator.dram, "read"),
        idle=table.leakage_pj_per_cycle(accelerator.clock_mhz),
    )


def _best(
    layer: Conv2d | Gemm, array: RowStationaryArray, prices: RowStationaryPrices, goal: Goal
) -> tuple[Conv2d | Gemm, RowStationaryResult]:
    """The layer, or the padded one that is cheaper, and its mapping."""
    key = replace(layer, name="-"), array, prices, goal.objective
    if key not in _FOUND:
        runs = [(run, optimal_mapping(run, array, prices, goal.objective, SPACE)) for run in padded(layer)]
        _FOUND[key] = min(runs, key=lambda run: _worth(run[1], goal))
    return _FOUND[key]


def padded(layer: Conv2d | Gemm) -> list[Conv2d | Gemm]:
    """The layer and, where its filters or channels have a large prime factor, those with more of them.

    Sets are folded by divisors: 31 filters would run one by one, or all at once. A padded layer counts as the larger
    layer that it is.
    """
    if isinstance(layer, Gemm):
        return [replace(layer, n=n, k=k) for n, k in product(_extents(layer.n), _extents(layer.k))]
    filters, channels = (_extents(size // layer.groups) for size in (layer.k, layer.c))
    return [replace(layer, k=k * layer.groups, c=c * layer.groups) for k, c in product(filters, channels)]


def _extents(extent: int) -> list[int]:
    return sorted({extent, next_smooth(extent)})


def _worth(found: RowStationaryResult, goal: Goal) -> float:
    energy, cycles = found.total_energy, found.latency_cycles
    return {"energy": energy, "latency": cycles, "edp": energy * cycles}[goal.objective]


def _cycles(
    layer: Conv2d | Gemm,
    array: RowStationaryArray,
    found: RowStationaryResult,
    dram: Accesses,
    accelerator: Accelerator,
    goal: Goal,
) -> tuple[int, dict[str, int]]:
    """Cycles of the PEs alone, and what network and DRAM add; in mode `detailed` the first tile of inputs comes in and
    the last outputs leave while the array waits."""
    free = replace(array, noc_words_per_cycle=(inf, inf, inf))
    nothing = RowStationaryPrices(mac=0, rf=0, noc=0, glb=0, dram=0)
    compute = evaluate_mapping(layer, free, nothing, found.mapping).latency_cycles
    rate = 8.0 * (accelerator.dram.bandwidth_bytes_per_cycle or 0.0)
    bits = word_widths(layer, accelerator)
    moved, fill, drain = sum(access.moved_bits for access in dram.values()) / rate, 0.0, 0.0
    stalls = {"network": found.latency_cycles - compute}
    if goal.mode == "detailed":
        first, last = _edge_words(layer, found.mapping)
        fill = min(first * bits["input"] / rate, dram["input"].moved_bits / rate)
        drain = min(last * bits["output"] / rate, dram["output"].moved_bits / rate)
        stalls |= {"dram_fill": ceil(fill) + accelerator.dram.latency_cycles, "dram_drain": ceil(drain)}
    return compute, stalls | {"dram_bandwidth": max(0, ceil(moved - fill - drain) - found.latency_cycles)}


def _edge_words(layer: Conv2d | Gemm, mapping: RowStationaryMapping) -> tuple[int, int]:
    """Words of an input tile and of an output tile."""
    if isinstance(layer, Gemm):
        return mapping.n * mapping.c, mapping.n * mapping.m
    rows = (mapping.e - 1) * layer.stride[0] + layer.dilation[0] * (layer.r - 1) + 1
    columns = (layer.q - 1) * layer.stride[1] + layer.dilation[1] * (layer.s - 1) + 1
    return mapping.n * mapping.c * rows * columns, mapping.n * mapping.m * mapping.e * layer.q


def _accesses(
    counts: RowStationaryCounts, macs: Macs, bits: Mapping[Operand, int], accelerator: Accelerator
) -> dict[str, Accesses]:
    """Words of all memories; gated products of zero inputs read no weight, and partial sums stay on chip."""
    used = macs.done if accelerator.gate_inputs else counts.macs
    psum = accelerator.pe_array.psum_bits

    def access(reads: int, writes: int, width: int) -> Access:
        return Access(reads, writes, reads * width, writes * width)

    c, weight, inputs = counts, bits["weight"], bits["input"]
    glb, filters = accelerator.buffer("input"), accelerator.buffer("weight")
    in_glb: dict[Operand, Access] = {
        "input": access(c.glb_input_reads, c.dram_input_reads, inputs),
        "output": access(c.glb_output_reads + c.dram_output_writes, c.glb_output_writes + c.dram_output_reads, psum),
    }
    of_filters: dict[Operand, Access] = {"weight": access(c.glb_weight_reads, c.dram_weight_reads, weight)}
    found: dict[str, Accesses] = {
        accelerator.dram.name: {
            "input": access(c.dram_input_reads, 0, inputs),
            "weight": access(c.dram_weight_reads, 0, weight),
            "output": access(c.dram_output_reads, c.dram_output_writes, bits["output"]),
        },
        glb.name: in_glb | of_filters if filters == glb else in_glb,
        "network": {
            "input": access(c.noc_input, 0, inputs),
            "weight": access(c.noc_weight, 0, weight),
            "output": access(c.noc_output, 0, psum),
        },
    }
    if filters != glb:
        found[filters.name] = of_filters
    in_pads = {
        "input": access(c.macs, c.noc_input, inputs),
        "weight": access(used, c.noc_weight, weight),
        "output": access(c.macs, c.macs, psum),
    }
    for operand, value in in_pads.items():
        name = _registers(accelerator, operand).name  # type: ignore[arg-type]
        found[name] = {**found.get(name, {}), operand: value}  # type: ignore[dict-item]
    return found


def _describe(mapping: RowStationaryMapping, layer: Conv2d | Gemm, whole: Conv2d | Gemm, run: Conv2d | Gemm) -> str:
    """The mapping, and what the array runs instead of the layer: its filter rows cut (`whole`), then padded."""
    letters = " ".join(f"{name}{getattr(mapping, name)}" for name in "mnecpqrt")
    told = f"row stationary {letters}, {mapping.held} held"
    if isinstance(layer, Conv2d) and isinstance(whole, Conv2d) and whole != layer:
        told += f"; filter rows of {layer.s} cut to {whole.s}"
    if run != whole:
        filters, channels = (run.k, run.c) if isinstance(run, Conv2d) else (run.n, run.k)
        told += f"; padded to {filters} filters and {channels} channels"
    return told
