"""Area and standby power of the parts of a chip.

Left out: clock tree, control, the network's wires and the vector unit's own buffers. DRAM and pads are not on the chip.
"""

from __future__ import annotations

import difflib

from accel_models.accelerator import Accelerator, Memory
from accel_models.errors import InvalidInputError
from accel_models.sparse_prices import lane_area_um2
from accel_models.sram import bank_of
from accel_models.technology import technology


def leakage_by_part(accelerator: Accelerator) -> dict[str, float]:
    """Standby power of the PEs (multiplier, adder, registers), the vector lanes and every memory, in mW.

    Of the multiplexers that read registers no leakage is known; it is left out.
    """
    tech = {name: price.value for name, price in technology(accelerator.node_nm).items()}
    array = accelerator.pe_array
    multiplier = tech["multiply_leakage"] * array.weight_bits[-1] * array.input_bits / 64
    adder = tech["add_leakage"] * array.psum_bits / 32
    registers = tech["register_leakage"] * _register_bits(accelerator)
    lane = adder + tech["register_leakage"] * array.psum_bits
    parts = {"pe_array": array.pes * (multiplier + adder + registers), "vector_unit": accelerator.vector_lanes * lane}
    for memory in accelerator.memories:
        one = tech["register_leakage"] * capacity_bits(memory)
        if memory.kind == "sram":
            one = accelerator.banks(memory) * bank_of(memory, accelerator).leakage_mw
        if memory.kind != "dram":
            parts[memory.name] = accelerator.instances(memory) * one
    return parts


def area_by_part(accelerator: Accelerator) -> dict[str, float]:
    """Area of the PEs, of the vector lanes (an adder and a result register each) and of every memory in mm2.

    A memory's figure holds for all its instances. DRAM and pads are outside the chip model.
    """
    tech = {name: price.value for name, price in technology(accelerator.node_nm).items()}
    array = accelerator.pe_array
    multiplier = tech["multiply_area"] * array.weight_bits[-1] * array.input_bits / 64
    adder = tech["add_area"] * array.psum_bits / 32
    registers = tech["register_area"] * _register_bits(accelerator)
    gather = (accelerator.weight_sparsity.gather or 1) - 1
    mux = tech["mux2_area"] * gather * array.input_bits
    lane = adder + tech["register_area"] * array.psum_bits
    parts = {
        "pe_array": array.pes * (multiplier + adder + registers + mux) * 1e-6,
        "vector_unit": accelerator.vector_lanes * lane * 1e-6,
    }
    if accelerator.lanes is not None:
        parts["pe_array"] += lane_area_um2(accelerator.lanes.array, tech, array.input_bits, array.psum_bits) * 1e-6
    for memory in accelerator.memories:
        one = _register_file_um2(memory, accelerator, tech) * 1e-6
        if memory.kind == "sram":
            one = accelerator.banks(memory) * bank_of(memory, accelerator).area_mm2
        if memory.kind != "dram":
            parts[memory.name] = accelerator.instances(memory) * one
    for part, override in accelerator.area.items():
        if part not in parts:
            near = difflib.get_close_matches(part, list(parts), n=1, cutoff=0.0)[0]
            raise InvalidInputError(f"{accelerator.name}: area.{part}: no such part; nearest: {near!r}")
        parts[part] = override.value
    return parts


def area_mm2(accelerator: Accelerator) -> float:
    """Area of the on-chip parts in mm2, at the accelerator's node."""
    return sum(area_by_part(accelerator).values())


def array_area_mm2(accelerator: Accelerator) -> float:
    """Area of the PEs and of the memories among them: registers, and whatever is there more than once."""
    parts = area_by_part(accelerator)
    inside = [m.name for m in accelerator.memories if m.kind == "registers" or accelerator.instances(m) > 1]
    return parts["pe_array"] + sum(parts.get(name, 0.0) for name in inside)


def capacity_bits(memory: Memory) -> int:
    return 8 * (memory.capacity_bytes or 0)


def register_words(memory: Memory, accelerator: Accelerator) -> int:
    """Words from which a read of a register memory selects one: of the narrowest operand that it holds."""
    array = accelerator.pe_array
    widths = {"weight": array.weight_bits[-1], "input": array.input_bits, "output": array.psum_bits}
    return max(1, capacity_bits(memory) // min(widths[operand] for operand in memory.holds))


def _register_file_um2(memory: Memory, accelerator: Accelerator, tech: dict[str, float]) -> float:
    """Flip-flops, and a tree of 2-to-1 multiplexers for a read port, one fewer a bit of a word than there are words."""
    bits = capacity_bits(memory)
    multiplexers = bits - bits // register_words(memory, accelerator)
    return bits * tech["register_area"] + multiplexers * tech["mux2_area"]


def _register_bits(accelerator: Accelerator) -> int:
    """Bits a PE holds beside the memories: input, weight and partial sum at the multiplier.

    A systolic PE holds the weight twice (the next one is loaded behind it); a gathering one a whole tile of inputs and
    an index.
    """
    array, gather = accelerator.pe_array, accelerator.weight_sparsity.gather
    weights = 2 if accelerator.systolic else 1
    bits = array.input_bits + weights * array.weight_bits[-1] + array.psum_bits
    if gather is None:
        return bits
    return bits + (gather - 1) * array.input_bits + (gather - 1).bit_length()
