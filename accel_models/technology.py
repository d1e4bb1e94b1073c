"""Prices and areas of logic, wires and DRAM at a technology node, each with its source.

Figures of 45 nm come from `library/technology_45nm.yaml`. At another node an entry's own figure
(`technology_<node>nm.yaml`) goes first; else the 45 nm one is scaled by `technology_scaling.yaml`, and the source says
by how much and why. DRAM (`technology_dram.yaml`) hangs on no node of the chip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from accel_models.accelerator import LIBRARY
from accel_models.config_files import read_yaml

BASE_NM = 45
FAR_NM = 7
"""Between these two nodes energies and leakage lie on the line, log-log in the node."""

_KINDS = {
    "pJ": "energy",
    "pJ/bit": "energy",
    "pJ/bit/mm": "energy",
    "mW": "leakage",
    "mW/bit": "leakage",
    "um2": "area",
    "um2/bit": "area",
}


@dataclass(frozen=True)
class Price:
    """One price: value, unit and where it comes from."""

    value: float
    unit: str
    source: str


@cache
def technology(node_nm: int = BASE_NM) -> dict[str, Price]:
    """Entry -> Price of logic, wires and DRAM at a node of 65, 45, 32, 22, 16 or 7 nm."""
    base = _entries(f"technology_{BASE_NM}nm.yaml")
    own = {} if node_nm == BASE_NM else _own(node_nm)
    chip = {name: own.get(name) or _scaled(name, price, node_nm) for name, price in base.items()}
    return {**chip, **_entries("technology_dram.yaml")}


@cache
def scaling() -> dict[str, Any]:
    """`library/technology_scaling.yaml`."""
    return read_yaml(LIBRARY / "technology_scaling.yaml")


def node_share(node_nm: int) -> float:
    """How far a node lies on the way from 45 nm (0) to 7 nm (1), by the logarithm of the node."""
    return math.log(BASE_NM / node_nm) / math.log(BASE_NM / FAR_NM)


def node_factor(kind: str, node_nm: int) -> float:
    """Energy, leakage or area of a cell without figures of its own at a node, over 45 nm."""
    if node_nm == BASE_NM:
        return 1.0
    factors = scaling()[kind]
    if node_nm in factors:
        return float(factors[node_nm]["factor"])
    return float(factors[FAR_NM]["factor"]) ** node_share(node_nm)


def _entries(file: str) -> dict[str, Price]:
    return {
        name: Price(float(entry["value"]), str(entry["unit"]), str(entry["source"]))
        for name, entry in read_yaml(LIBRARY / file)["entries"].items()
    }


@cache
def _own(node_nm: int) -> dict[str, Price]:
    """Figures that a node has of its own; most nodes have none."""
    file = f"technology_{node_nm}nm.yaml"
    return _entries(file) if (LIBRARY / file).exists() else {}


def _scaled(name: str, base: Price, node_nm: int) -> Price:
    """A 45 nm price at another node, with factor and reason in its source."""
    if node_nm == BASE_NM:
        return base
    listed = scaling()[_KINDS[base.unit]]
    if node_nm in listed:
        factor, reason = float(listed[node_nm]["factor"]), str(listed[node_nm]["source"])
    else:
        far = _own(FAR_NM).get(name)
        end = float(listed[FAR_NM]["factor"]) if far is None else far.value / base.value
        factor = end ** node_share(node_nm)
        why = str(listed[FAR_NM]["source"]) if far is None else far.source
        reason = f"log-log in the node towards x {end:.3g} at {FAR_NM} nm: {why}"
    source = f"{base.source}, x {factor:.3g} ({BASE_NM} -> {node_nm} nm; {reason})"
    return Price(base.value * factor, base.unit, source)
