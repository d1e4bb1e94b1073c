"""Prices of an accelerator, each with its source.

Operations and registers come from `technology.py`, SRAM from `sram.py`, areas from `area.py`. An accelerator replaces
any entry with `energy: {entry: {value, source}}`.

Left out: clock tree and control; the network of a systolic array (neighbours only) and the routers of the others; of a
register memory the write decoder and the clock of words at rest; DRAM background power.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accel_models.accelerator import Accelerator, Memory
from accel_models.area import (
    area_by_part,
    area_mm2,
    array_area_mm2,
    leakage_by_part,
    register_words,
)
from accel_models.errors import InvalidInputError
from accel_models.layers import Conv2d, Gemm
from accel_models.sparse_prices import lane_prices
from accel_models.sram import Sram, bank_bytes, bank_of, energy_source, scaled_source, sram
from accel_models.technology import Price, technology

if TYPE_CHECKING:
    from accel_models.kernels.systolic import Prices

__all__ = [
    "EnergyTable",
    "Price",
    "Sram",
    "area_by_part",
    "area_mm2",
    "bank_of",
    "energy_table",
    "leakage_by_part",
    "sram",
    "technology",
]


@dataclass(frozen=True)
class EnergyTable:
    """Entry -> Price. Entries: `multiply_<bits>`, `add`, `<memory>.read_bit`, `<memory>.write_bit`, `leakage`; of a
    systolic array `register_bit` and `gather_bit`, of any other `network.bit` (a bit received by a PE); of a sparse
    array `select_bit`, `scatter_bit` and `intersection`."""

    prices: Mapping[str, Price]

    def __getitem__(self, entry: str) -> Price:
        return self.prices[entry]

    def mac_pj(self, weight_bits: int, input_share: float = 1.0) -> float:
        """One multiplication at this weight width and one addition to the partial sum, in pJ.

        `input_share` is the width of the input over that of the array: the price is proportional to it.
        """
        return self[f"multiply_{weight_bits}"].value * input_share + self["add"].value

    def array_pj(self, mac_pj: float, held_bits: int, selected_bits: int) -> float:
        """Multiply-accumulates, registers and gathering of a layer, in pJ."""
        return mac_pj + held_bits * self["register_bit"].value + selected_bits * self["gather_bit"].value

    def leakage_pj_per_cycle(self, clock_mhz: float) -> float:
        """mW over one cycle."""
        return self["leakage"].value * 1e3 / clock_mhz

    def schedule_prices(self, accelerator: Accelerator, fixed_pj: float) -> Prices:
        """What the choice of a schedule weighs."""

        def per_bit(memory: Memory, access: str) -> float:
            return self[f"{memory.name}.{access}_bit"].value

        inputs, weights, outputs = (accelerator.buffer(operand) for operand in ("input", "weight", "output"))
        from accel_models.kernels.systolic import Prices  # numba: half a second that a list of prices need not pay

        return Prices(
            fixed_pj=fixed_pj,
            leakage_pj_per_cycle=self.leakage_pj_per_cycle(accelerator.clock_mhz),
            dram_read_pj_per_bit=per_bit(accelerator.dram, "read"),
            input_fill_pj_per_bit=per_bit(inputs, "write"),
            weight_fill_pj_per_bit=per_bit(weights, "write"),
            weight_read_pj_per_bit=per_bit(weights, "read"),
            input_read_pj_per_bit=per_bit(inputs, "read"),
            output_read_pj_per_bit=per_bit(outputs, "read"),
            output_write_pj_per_bit=per_bit(outputs, "write"),
            dram_write_pj_per_bit=per_bit(accelerator.dram, "write"),
        )


def energy_table(accelerator: Accelerator) -> EnergyTable:
    """The prices of an accelerator, with its own entries on top.

    Raises
    ------
    InvalidInputError
        The accelerator replaces an entry that does not exist; the message names the nearest one.
    """
    prices = _operation_prices(accelerator)
    for memory in accelerator.memories:
        prices.update(_memory_prices(memory, accelerator))
    prices["leakage"] = _leakage_price(accelerator)
    for name, override in accelerator.energy.items():
        if name not in prices:
            near = difflib.get_close_matches(name, list(prices), n=1, cutoff=0.0)[0]
            raise InvalidInputError(f"{accelerator.name}: energy.{name}: no such entry; nearest: {near!r}")
        prices[name] = Price(override.value, prices[name].unit, override.source)
    return EnergyTable(prices)


def multiplied_input_bits(input_bits: int, accelerator: Accelerator) -> int:
    """The width at which an input of `input_bits` is multiplied."""
    array = accelerator.pe_array
    return next((width for width in array.weight_bits if input_bits <= width < array.input_bits), array.input_bits)


def input_share(layer: Conv2d | Gemm, accelerator: Accelerator) -> float:
    """Width at which the inputs of a layer are multiplied, over the array's."""
    return multiplied_input_bits(layer.bits.input, accelerator) / accelerator.pe_array.input_bits


def _operation_prices(accelerator: Accelerator) -> dict[str, Price]:
    """A multiplier's energy grows with the product of its widths, an adder's with its width (Horowitz' own ratios).

    So do the narrow multipliers that a wide one is made of: 8 x 8 takes 16 of 2 x 2, 8 x 2 takes 4 (Bit Fusion).
    """
    array, tech = accelerator.pe_array, technology(accelerator.node_nm)
    prices = {
        f"multiply_{bits}": Price(
            tech["multiply_8x8"].value * bits * array.input_bits / 64,
            "pJ",
            f"{tech['multiply_8x8'].source} x {bits} x {array.input_bits} / 64",
        )
        for bits in array.weight_bits
    }
    prices["add"] = Price(tech["add_32"].value * array.psum_bits / 32, "pJ", tech["add_32"].source)
    if accelerator.systolic:
        prices["register_bit"] = tech["register_bit"]
        prices["gather_bit"] = _gather_price(accelerator)
    else:
        prices["network.bit"] = _network_price(accelerator)
    if accelerator.lanes is not None:
        prices.update(lane_prices(accelerator.lanes.array, tech))
    return prices


def _gather_price(accelerator: Accelerator) -> Price:
    """Selecting one input bit from a tile of n: a tree of ceil(log2 n) 2-to-1 multiplexers toggles along its path."""
    tech, gather = technology(accelerator.node_nm)["mux2_toggle"], accelerator.weight_sparsity.gather
    return Price(tech.value * ((gather or 1) - 1).bit_length(), "pJ/bit", tech.source)


def _network_price(accelerator: Accelerator) -> Price:
    """A bit that a PE receives: a repeated wire as long as half the edge of the array, taken as a square."""
    wire, area = technology(accelerator.node_nm)["wire_bit_mm"], array_area_mm2(accelerator)
    length = math.sqrt(area) / 2
    assumption = f"x {length:.3g} mm, half the edge of the array of {area:.3g} mm2 (an assumption); routers left out"
    return Price(wire.value * length, "pJ/bit", f"{wire.source}; {assumption}")


def _memory_prices(memory: Memory, accelerator: Accelerator) -> dict[str, Price]:
    read, write = f"{memory.name}.read_bit", f"{memory.name}.write_bit"
    if memory.kind == "dram":
        price = _dram_price(memory, accelerator)
        return {read: price, write: price}
    if memory.kind == "registers":
        return {read: _register_read_price(memory, accelerator), write: technology(accelerator.node_nm)["register_bit"]}
    bank = bank_of(memory, accelerator)
    source = energy_source(bank_bytes(memory, accelerator), accelerator.node_nm)
    return {
        read: Price(bank.read_pj / memory.width_bits, "pJ/bit", source),
        write: Price(bank.write_pj / memory.width_bits, "pJ/bit", source),
    }


def _dram_price(memory: Memory, accelerator: Accelerator) -> Price:
    entry, tech = f"dram_{memory.dram_type}", technology(accelerator.node_nm)
    if entry not in tech:
        kinds = sorted(name.removeprefix("dram_") for name in tech if name.startswith("dram_"))
        raise InvalidInputError(
            f"{accelerator.name}: memories.{memory.name}.dram_type: {memory.dram_type!r} is none of {kinds}"
        )
    return tech[entry]


def _register_read_price(memory: Memory, accelerator: Accelerator) -> Price:
    """The flip-flop, and the path of a tree of 2-to-1 multiplexers that selects one of the words."""
    tech, words = technology(accelerator.node_nm), register_words(memory, accelerator)
    flipflop, mux, levels = tech["register_bit"], tech["mux2_toggle"], (words - 1).bit_length()
    if levels == 0:
        return flipflop
    source = f"{flipflop.source}; plus {levels} multiplexers to select one of {words} words: {mux.source}"
    return Price(flipflop.value + levels * mux.value, "pJ/bit", source)


def _leakage_price(accelerator: Accelerator) -> Price:
    logic = technology(accelerator.node_nm)["multiply_leakage"].source
    source = f"{logic}; {scaled_source('leakage', accelerator.node_nm)}"
    return Price(sum(leakage_by_part(accelerator).values()), "mW", source)
