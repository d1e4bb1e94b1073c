"""cosim accelerators."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from accel_models.accelerator import Accelerator, Memory, describe, library_names, load_accelerator
from accel_models.energy import area_by_part, area_mm2, energy_table
from cosim.commands.show import save, table


def run_accelerators_command(name: str | None, json_path: Path | None, console: Console) -> None:
    """List the library, or show one accelerator in full."""
    if name is None:
        _list(json_path, console)
    else:
        _card(load_accelerator(name), json_path, console)


def _list(json_path: Path | None, console: Console) -> None:
    machines = [load_accelerator(name) for name in library_names()]
    rows = [[m.name, describe(m), f"{m.node_nm}", f"{m.clock_mhz:g}", f"{area_mm2(m):.3g}"] for m in machines]
    console.print(table("accelerators that ship", ["name", "array", "nm", "MHz", "mm2"], rows, left=2))
    save(json_path, [m.model_dump(mode="json") for m in machines], console)


def _memory_row(memory: Memory, machine: Accelerator) -> list[str]:
    """What one instance has; registers have neither banks nor a port that limits."""
    rate, banks = "-", "-"
    if memory.kind == "dram":
        rate = f"{memory.bandwidth_bytes_per_cycle:g}"
    if memory.kind == "sram":
        rate = f"{machine.port_bits(memory) / 8:g}"
        banks = f"{machine.banks(memory)} x {memory.width_bits} bits"
    capacity = "-" if memory.capacity_bytes is None else f"{memory.capacity_bytes:,}"
    return [memory.name, ", ".join(memory.holds), str(machine.instances(memory)), capacity, rate, banks]


def _card(machine: Accelerator, json_path: Path | None, console: Console) -> None:
    console.print(f"{machine.name}: {machine.description}", style="bold", markup=False, soft_wrap=True)
    console.print(f"source: {machine.source}", markup=False, soft_wrap=True)
    console.print(
        f"{describe(machine)}, {machine.clock_mhz:g} MHz, {machine.node_nm} nm, {machine.sram_device}", soft_wrap=True
    )
    memories = [_memory_row(memory, machine) for memory in machine.memories]
    columns = ["name", "holds", "instances", "bytes", "bytes per cycle", "banks"]
    console.print(table("memories", columns, memories, left=2))
    prices = energy_table(machine).prices
    rows = [[name, p.source, f"{p.value:.4g}", p.unit] for name, p in prices.items()]
    console.print(table("prices", ["entry", "source", "value", "unit"], rows, left=2))
    parts = area_by_part(machine)
    console.print(table("area", ["part", "mm2"], [[part, f"{area:.4g}"] for part, area in parts.items()]))
    console.print(f"total area: {area_mm2(machine):.4g} mm2")
    data = {
        "accelerator": machine.model_dump(mode="json"),
        "prices": {name: {"value": p.value, "unit": p.unit, "source": p.source} for name, p in prices.items()},
        "area_mm2": parts,
    }
    save(json_path, data, console)
