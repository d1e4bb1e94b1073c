"""One colour and one readable name per component, the same in every chart.

A memory has one hue in the energy chart (reads dark, writes light) and in the latency chart (stalls it causes). Hues
after Okabe and Ito, "Color Universal Design" (2008): told apart with every common colour vision.
"""

from __future__ import annotations

from collections.abc import Iterable

ACCENT = "#0b5fa5"
TRIAL = "#9aa5b1"
INFEASIBLE = "#c97b6b"
CHOSEN = "#d6246e"
DENSE = "#1c2733"
RANDOM = "#8a94a0"
ACCURACY_SCALE = ((0.0, "#f0b429"), (0.5, "#c8553d"), (1.0, "#3b1c6e"))
"""Colour of the accuracy where it is not an axis: light is low, dark is high."""

_HUES: dict[str, tuple[str, str, str]] = {
    "dram": ("#0072b2", "#5aaedd", "#00466e"),
    "input_buffer": ("#009e73", "#6fd0b3", "#00674b"),
    "weight_buffer": ("#7a9a01", "#b9cf6a", "#55690b"),
    "output_buffer": ("#e69f00", "#f5cb73", "#a87400"),
    "glb": ("#009e73", "#6fd0b3", "#00674b"),
    "buffer": ("#009e73", "#6fd0b3", "#00674b"),
    "register": ("#cc79a7", "#e6b8d2", "#96507a"),
    "rf": ("#cc79a7", "#e6b8d2", "#96507a"),
    "noc": ("#56b4e9", "#a9daf4", "#2b7fae"),
}
_FIXED = {
    "mac": "#d55e00",
    "compute": "#d55e00",
    "vector": "#f0956a",
    "gather": "#8c564b",
    "metadata": "#7b61c4",
    "imbalance": "#7b61c4",
    "leakage": "#8a94a0",
    "idle": "#8a94a0",
    "control": "#5d6b7a",
    "unattributed": "#d3d9df",
}
_SPARE = ("#17becf", "#bcbd22", "#e377c2", "#8c6d31", "#637939", "#843c39", "#3182bd", "#7b4173", "#a55194", "#6b6ecf")
_SHADES = {"read": 0, "write": 1, "bandwidth": 0, "fill": 1, "drain": 2}
_UPPER = {"mac", "dram", "sram", "glb", "rf", "noc", "pe"}


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour per component or stall cause; unknown ones take spare colours in the order of their names."""
    ordered = sorted(set(names))
    unknown = [name for name in ordered if _known(name) is None]
    spare = {name: _SPARE[index % len(_SPARE)] for index, name in enumerate(unknown)}
    return {name: _known(name) or spare[name] for name in ordered}


def label(name: str) -> str:
    """A component as a person writes it: "dram.read" is "DRAM read"."""
    words = name.replace(".", " ").replace("_", " ").split()
    return " ".join(word.upper() if word in _UPPER else word for word in words)


def family(name: str) -> str:
    """The memory of a component ("dram" of "dram.read" and "dram_fill"), else the component itself."""
    known = [memory for memory in _HUES if name == memory or name.startswith((f"{memory}.", f"{memory}_"))]
    return known[0] if known else name.partition(".")[0]


def _known(name: str) -> str | None:
    if name in _FIXED:
        return _FIXED[name]
    shades = _HUES.get(family(name))
    return shades[_SHADES.get(name[len(family(name)) + 1 :], 0)] if shades else None
