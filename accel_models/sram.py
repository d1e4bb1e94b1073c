"""SRAM: energy, leakage and area of a bank as a function of capacity and width.

At 65, 45, 32 and 22 nm the figures are CACTI 7's (`library/sram_cacti7.csv`), log-log between its points. At 16 and
7 nm, which CACTI does not know, they are scaled (`library/technology_scaling.yaml`): energies from 45 nm, where CACTI
agrees with the published ones, leakage and area from 22 nm.

CACTI's 32 and 22 nm are projections (ITRS), and an access to a small bank costs less there than what Jouppi et al.
publish for 7 nm. So compare designs at one node, or at 65, 45, 16 and 7 nm.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from accel_models.accelerator import LIBRARY, Accelerator, Memory
from accel_models.technology import BASE_NM, FAR_NM, node_factor, node_share, scaling

CACTI = "CACTI 7, library/sram_cacti7.csv"
_LAST_NM = 22
"""The smallest node that CACTI knows."""


@dataclass(frozen=True)
class Sram:
    """One bank: energy per access in pJ, standby leakage in mW, area in mm2."""

    read_pj: float
    write_pj: float
    leakage_mw: float
    area_mm2: float


@cache
def sram(capacity_bytes: int, width_bits: int, node_nm: int, device: str) -> Sram:
    """One SRAM bank, interpolated log-log in capacity and width between CACTI's points.

    On a point the result is CACTI's own; between points it was seen within 21 % of fresh CACTI runs (median 3 to 7 %),
    as CACTI's organisations jump. Outside the table the nearest two points are extended.
    """
    if node_nm < _LAST_NM:
        return _beyond_cacti(capacity_bytes, width_bits, node_nm, device)
    rows = _sram_rows(node_nm, device)
    widths = sorted({width for _, width in rows})
    low, high = _bracket(widths, width_bits)
    at = [_at_capacity(rows, capacity_bytes, width) for width in (low, high)]
    share = math.log(width_bits / low) / math.log(high / low)
    return _blend(at[0], at[1], share)


def bank_of(memory: Memory, accelerator: Accelerator) -> Sram:
    """One bank of an SRAM level."""
    return sram(bank_bytes(memory, accelerator), memory.width_bits, accelerator.node_nm, accelerator.sram_device)


def bank_bytes(memory: Memory, accelerator: Accelerator) -> int:
    """Capacity of one bank."""
    return max(1, (memory.capacity_bytes or 0) // accelerator.banks(memory))


def energy_source(capacity_bytes: int, node_nm: int) -> str:
    """Where the energy of a bank's access comes from."""
    if node_nm >= _LAST_NM:
        return CACTI
    factor = _energy_ratio(capacity_bytes) ** node_share(node_nm)
    far = scaling()[f"sram_energy_{FAR_NM}"]["source"]
    toward = "" if node_nm == FAR_NM else f"log-log in the node towards {FAR_NM} nm: "
    scaled = f"x {factor:.3g} at this capacity ({BASE_NM} -> {node_nm} nm; {toward}{far})"
    return f"{CACTI}, {BASE_NM} nm, {scaled}; never below a smaller bank"


def scaled_source(kind: str, node_nm: int) -> str:
    """Where leakage or area of a bank come from."""
    if node_nm >= _LAST_NM:
        return CACTI
    listed = scaling()[kind]
    reason = (listed.get(node_nm) or listed[FAR_NM])["source"]
    return f"{CACTI}, {_LAST_NM} nm, x {_from_last(kind, node_nm):.3g} ({_LAST_NM} -> {node_nm} nm; {reason})"


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


def _beyond_cacti(capacity_bytes: int, width_bits: int, node_nm: int, device: str) -> Sram:
    """Energies never fall with the capacity, though their factor does: a bank can do what a smaller one does."""
    tabled = sorted({capacity for capacity, _ in _sram_rows(BASE_NM, device)})
    smaller = [capacity for capacity in tabled if capacity < capacity_bytes]
    read = write = 0.0
    for capacity in (*smaller, capacity_bytes):
        bank, factor = sram(capacity, width_bits, BASE_NM, device), _energy_ratio(capacity) ** node_share(node_nm)
        read, write = max(read, bank.read_pj * factor), max(write, bank.write_pj * factor)
    last = sram(capacity_bytes, width_bits, _LAST_NM, device)
    leakage, area = _from_last("leakage", node_nm), _from_last("area", node_nm)
    return Sram(read, write, last.leakage_mw * leakage, last.area_mm2 * area)


def _from_last(kind: str, node_nm: int) -> float:
    return node_factor(kind, node_nm) / node_factor(kind, _LAST_NM)


def _energy_ratio(capacity_bytes: int) -> float:
    """Energy at 7 nm over 45 nm: log-log between the published capacities, that of the nearest one outside."""
    ratios: dict[int, float] = scaling()[f"sram_energy_{FAR_NM}"]["ratios"]
    points = sorted(ratios)
    inside = min(max(capacity_bytes, points[0]), points[-1])
    low, high = _bracket(points, inside)
    share = math.log(inside / low) / math.log(high / low)
    return ratios[low] ** (1 - share) * ratios[high] ** share


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
