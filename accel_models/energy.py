"""Prices and areas, each with its source.

Operations come from `library/technology_45nm.yaml`, SRAM energies, leakage and areas from `library/sram_cacti7.csv`
(interpolated log-log in capacity and width). An accelerator replaces any entry with `energy: {entry: {value, source}}`.

Left out: clock tree, control and the network between buffers and array; DRAM background power.
"""

from __future__ import annotations

import csv
import difflib
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from accel_models.accelerator import LIBRARY, Accelerator, Memory, read_yaml
from accel_models.errors import InvalidInputError
from accel_models.kernels.systolic import Prices

CACTI = "CACTI 7, library/sram_cacti7.csv"


@dataclass(frozen=True)
class Price:
    """One price: value, unit and where it comes from."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class EnergyTable:
    """Entry -> Price. Entries: `multiply_<bits>`, `add`, `register_bit`, `gather_bit`, `<memory>.read_bit`,
    `<memory>.write_bit`, `leakage`."""

    prices: Mapping[str, Price]

    def __getitem__(self, entry: str) -> Price:
        return self.prices[entry]

    def mac_pj(self, weight_bits: int) -> float:
        """One multiplication at this weight width and one addition to the partial sum, in pJ."""
        return self[f"multiply_{weight_bits}"].value + self["add"].value

    def array_pj(self, macs: int, weight_bits: int, held_bits: int, selected_bits: int) -> float:
        """Multiply-accumulates, registers and gathering of a layer, in pJ."""
        registers = held_bits * self["register_bit"].value + selected_bits * self["gather_bit"].value
        return macs * self.mac_pj(weight_bits) + registers

    def leakage_pj_per_cycle(self, clock_mhz: float) -> float:
        """mW over one cycle."""
        return self["leakage"].value * 1e3 / clock_mhz

    def schedule_prices(self, accelerator: Accelerator, fixed_pj: float) -> Prices:
        """What the choice of a schedule weighs."""

        def per_bit(memory: Memory, access: str) -> float:
            return self[f"{memory.name}.{access}_bit"].value

        inputs, weights, outputs = (accelerator.buffer(operand) for operand in ("input", "weight", "output"))
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


@dataclass(frozen=True)
class Sram:
    """One bank: energy per access in pJ, standby leakage in mW, area in mm2."""

    read_pj: float
    write_pj: float
    leakage_mw: float
    area_mm2: float


@cache
def technology() -> dict[str, Price]:
    """Entries of `library/technology_45nm.yaml`."""
    path = LIBRARY / "technology_45nm.yaml"
    return {
        name: Price(float(entry["value"]), str(entry["unit"]), str(entry["source"]))
        for name, entry in read_yaml(path)["entries"].items()
    }


@cache
def _sram_rows(node_nm: int, device: str) -> dict[tuple[int, int], Sram]:
    lines = (LIBRARY / "sram_cacti7.csv").read_text().splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {
        (int(row["capacity_bytes"]), int(row["width_bits"])): Sram(
            float(row["read_pj"]), float(row["write_pj"]), float(row["leakage_mw"]), float(row["area_mm2"])
        )
        for row in rows
        if int(row["node_nm"]) == node_nm and row["device"] == device
    }


@cache
def sram(capacity_bytes: int, width_bits: int, node_nm: int, device: str) -> Sram:
    """One SRAM bank, interpolated log-log in capacity and width between CACTI's points.

    On a point the result is CACTI's own; between points it was seen within 21 % of fresh CACTI runs (median 3 to 7 %),
    as CACTI's organisations jump. Outside the table the nearest two points are extended.
    """
    rows = _sram_rows(node_nm, device)
    widths = sorted({width for _, width in rows})
    low, high = _bracket(widths, width_bits)
    at = [_at_capacity(rows, capacity_bytes, width) for width in (low, high)]
    share = math.log(width_bits / low) / math.log(high / low)
    return _blend(at[0], at[1], share)


def _at_capacity(rows: Mapping[tuple[int, int], Sram], capacity_bytes: int, width: int) -> Sram:
    capacities = sorted(capacity for capacity, w in rows if w == width)
    low, high = _bracket(capacities, capacity_bytes)
    share = math.log(capacity_bytes / low) / math.log(high / low)
    return _blend(rows[low, width], rows[high, width], share)


def _bracket(points: list[int], x: float) -> tuple[int, int]:
    """The two neighbouring points that enclose x, or the two nearest."""
    i = min(max(bisect_left(points, x), 1), len(points) - 1)
    return points[i - 1], points[i]


def _blend(a: Sram, b: Sram, share: float) -> Sram:
    def mix(x: float, y: float) -> float:
        return math.exp(math.log(x) * (1 - share) + math.log(y) * share)

    return Sram(
        mix(a.read_pj, b.read_pj),
        mix(a.write_pj, b.write_pj),
        mix(a.leakage_mw, b.leakage_mw),
        mix(a.area_mm2, b.area_mm2),
    )


def bank_of(memory: Memory, accelerator: Accelerator) -> Sram:
    """One bank of an SRAM level."""
    capacity = max(1, (memory.capacity_bytes or 0) // accelerator.banks(memory))
    return sram(capacity, memory.width_bits, accelerator.node_nm, accelerator.sram_device)


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
    prices["leakage"] = Price(
        sum(leakage_by_part(accelerator).values()), "mW", f"{technology()['multiply_leakage'].source}; {CACTI}"
    )
    for name, override in accelerator.energy.items():
        if name not in prices:
            near = difflib.get_close_matches(name, list(prices), n=1, cutoff=0.0)[0]
            raise InvalidInputError(f"{accelerator.name}: energy.{name}: no such entry; nearest: {near!r}")
        prices[name] = Price(override.value, prices[name].unit, override.source)
    return EnergyTable(prices)


def _operation_prices(accelerator: Accelerator) -> dict[str, Price]:
    """A multiplier's energy grows with the product of its widths, an adder's with its width (Horowitz' own ratios)."""
    array, tech = accelerator.pe_array, technology()
    prices = {
        f"multiply_{bits}": Price(
            tech["multiply_8x8"].value * bits * array.input_bits / 64,
            "pJ",
            f"{tech['multiply_8x8'].source} x {bits} x {array.input_bits} / 64",
        )
        for bits in array.weight_bits
    }
    prices["add"] = Price(tech["add_32"].value * array.psum_bits / 32, "pJ", tech["add_32"].source)
    prices["register_bit"] = tech["register_bit"]
    prices["gather_bit"] = _gather_price(accelerator)
    return prices


def _gather_price(accelerator: Accelerator) -> Price:
    """Selecting one input bit from a tile of n: a tree of ceil(log2 n) 2-to-1 multiplexers toggles along its path."""
    tech, gather = technology()["mux2_toggle"], accelerator.weight_sparsity.gather
    return Price(tech.value * ((gather or 1) - 1).bit_length(), "pJ/bit", tech.source)


def _memory_prices(memory: Memory, accelerator: Accelerator) -> dict[str, Price]:
    read, write = f"{memory.name}.read_bit", f"{memory.name}.write_bit"
    if memory.kind == "dram":
        entry = f"dram_{memory.dram_type}"
        if entry not in technology():
            kinds = sorted(name.removeprefix("dram_") for name in technology() if name.startswith("dram_"))
            raise InvalidInputError(
                f"{accelerator.name}: memories.{memory.name}.dram_type: {memory.dram_type!r} is none of {kinds}"
            )
        return {read: technology()[entry], write: technology()[entry]}
    bank = bank_of(memory, accelerator)
    return {
        read: Price(bank.read_pj / memory.width_bits, "pJ/bit", CACTI),
        write: Price(bank.write_pj / memory.width_bits, "pJ/bit", CACTI),
    }


def leakage_by_part(accelerator: Accelerator) -> dict[str, float]:
    """Standby power of the PEs (multiplier, adder, registers), the vector lanes and every SRAM, in mW."""
    array, tech = accelerator.pe_array, technology()
    multiplier = tech["multiply_leakage"].value * array.weight_bits[-1] * array.input_bits / 64
    adder = tech["add_leakage"].value * array.psum_bits / 32
    registers = tech["register_leakage"].value * _register_bits(accelerator)
    lane = adder + tech["register_leakage"].value * array.psum_bits
    parts = {"pe_array": array.pes * (multiplier + adder + registers), "vector_unit": accelerator.vector_lanes * lane}
    for memory in accelerator.memories:
        if memory.kind == "sram":
            parts[memory.name] = accelerator.banks(memory) * bank_of(memory, accelerator).leakage_mw
    return parts


def area_by_part(accelerator: Accelerator) -> dict[str, float]:
    """Area of the PEs, of the vector lanes (an adder and a result register each) and of every SRAM in mm2.

    DRAM and pads are outside the chip model.
    """
    array, tech = accelerator.pe_array, technology()
    multiplier = tech["multiply_area"].value * array.weight_bits[-1] * array.input_bits / 64
    adder = tech["add_area"].value * array.psum_bits / 32
    registers = tech["register_area"].value * _register_bits(accelerator)
    gather = (accelerator.weight_sparsity.gather or 1) - 1
    mux = tech["mux2_area"].value * gather * array.input_bits
    lane = adder + tech["register_area"].value * array.psum_bits
    parts = {
        "pe_array": array.pes * (multiplier + adder + registers + mux) * 1e-6,
        "vector_unit": accelerator.vector_lanes * lane * 1e-6,
    }
    for memory in accelerator.memories:
        if memory.kind == "sram":
            parts[memory.name] = accelerator.banks(memory) * bank_of(memory, accelerator).area_mm2
    return parts


def _register_bits(accelerator: Accelerator) -> int:
    """Bits a PE holds: input, weight (twice: the next one is loaded behind it), partial sum; a gathering PE holds
    a whole tile of inputs and an index."""
    array, gather = accelerator.pe_array, accelerator.weight_sparsity.gather
    bits = array.input_bits + 2 * array.weight_bits[-1] + array.psum_bits
    if gather is None:
        return bits
    return bits + (gather - 1) * array.input_bits + (gather - 1).bit_length()


def area_mm2(accelerator: Accelerator) -> float:
    """Area of the on-chip parts in mm2, at the accelerator's node."""
    return sum(area_by_part(accelerator).values())
