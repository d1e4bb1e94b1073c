"""The charts of one design: energy by component and latency by cause, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

from cosim.report import palette
from cosim.report.figures import base_layout
from cosim.report.load import Layer, Point
from cosim.report.units import Scale, digits, scale_for

ROUNDING = 1e-6  # share of a layer's cycles below which a remainder is rounding and not shown
Parts = Mapping[str, float]


def energy_parts(layer: Layer) -> Parts:
    """Energy of a layer by component, in pJ."""
    return layer.energy_pj


def cycle_parts(layer: Layer) -> Parts:
    """Cycles of a layer by cause: compute, every stall, and what the stalls leave unexplained."""
    parts = {"compute": layer.compute_cycles, **layer.stall_cycles}
    left = layer.latency_cycles - sum(parts.values())
    return {**parts, "unattributed": left} if left > ROUNDING * layer.latency_cycles else parts


def totals(point: Point, parts: Callable[[Layer], Parts]) -> dict[str, float]:
    """Sum over the layers of a point, by part, largest first."""
    sums: dict[str, float] = {}
    for layer in point.layers:
        for name, value in parts(layer).items():
            sums[name] = sums.get(name, 0.0) + value
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def part_names(points: Iterable[Point], parts: Callable[[Layer], Parts]) -> list[str]:
    """The parts that are not 0 in every point, in one order for every chart: largest family first, its parts together.

    Reads and writes of a memory are one family, as are the stalls that it causes.
    """
    sums: dict[str, float] = {}
    for point in points:
        for name, value in totals(point, parts).items():
            sums[name] = sums.get(name, 0.0) + value
    families: dict[str, float] = {}
    for name, value in sums.items():
        families[palette.family(name)] = families.get(palette.family(name), 0.0) + value
    order = sorted(sums, key=lambda name: (-families[palette.family(name)], palette.family(name), name))
    return [name for name in order if sums[name] > 0]


def layer_charts(points: tuple[Point, ...]) -> dict[str, Any]:
    """Traces per point and the shared layout of both charts.

    Returns
    -------
    dict
        "energy" and "latency": {"traces": {point id: traces}, "layout", "widest": largest layer total in the unit
        shown, "keys": [(name, colour), …]}
    """
    milliseconds = [layer.latency_cycles * _ms_per_cycle(point) for point in points for layer in point.layers]
    energies = [sum(layer.energy_pj.values()) for point in points for layer in point.layers]
    energy = scale_for([max(energies, default=None)], "pJ")
    latency = scale_for([max(milliseconds, default=None)], "ms")
    return {
        "energy": _chart(points, energy_parts, energy, lambda point: 1.0, "energy"),
        "latency": _chart(points, cycle_parts, latency, _ms_per_cycle, "latency"),
    }


def _ms_per_cycle(point: Point) -> float:
    return point.latency_ms / point.latency_cycles


def _chart(
    points: tuple[Point, ...],
    parts: Callable[[Layer], Parts],
    scale: Scale,
    price: Callable[[Point], float],
    title: str,
) -> dict[str, Any]:
    names = part_names(points, parts)
    colours = palette.colours_of(names)
    factor = {point.id: price(point) * scale.factor for point in points}
    widest = [factor[point.id] * sum(parts(layer).values()) for point in points for layer in point.layers]
    layout = base_layout() | {
        "barmode": "stack",
        "bargap": 0.28,
        "xaxis": {"title": {"text": f"{title} ({scale.unit})"}, "gridcolor": "#e6eaee", "zeroline": False},
        "yaxis": {"autorange": "reversed", "automargin": True, "ticksuffix": " ", "type": "category"},
    }
    traces = {
        point.id: [_bars(point, name, parts, factor[point.id], scale.unit, colours[name]) for name in names]
        for point in points
    }
    return {"traces": traces, "layout": layout, "widest": max(widest, default=0.0), "keys": _keys(names, parts)}


def _keys(names: list[str], parts: Callable[[Layer], Parts]) -> list[tuple[str, str]]:
    colours = palette.colours_of(names)
    return [(_legend_name(name, parts), colours[name]) for name in names]


def _bars(
    point: Point, name: str, parts: Callable[[Layer], Parts], factor: float, unit: str, colour: str
) -> dict[str, Any]:
    stored = [parts(layer).get(name, 0.0) for layer in point.layers]
    whole = [sum(parts(layer).values()) or 1.0 for layer in point.layers]
    detail = [f"{100 * value / total:.0f} % of the layer" for value, total in zip(stored, whole, strict=True)]
    if parts is cycle_parts:
        detail = [f"{digits(value)} cycles, {text}" for value, text in zip(stored, detail, strict=True)]
    return {
        "type": "bar",
        "orientation": "h",
        "name": escape(_legend_name(name, parts), quote=False),
        "y": [escape(layer.name, quote=False) for layer in point.layers],
        "x": [value * factor for value in stored],
        "customdata": detail,
        "hovertemplate": "<b>%{y}</b>: %{fullData.name} %{x:.3g} " + unit + " (%{customdata})<extra></extra>",
        "marker": {"color": colour},
    }


def _legend_name(name: str, parts: Callable[[Layer], Parts]) -> str:
    stall = parts is cycle_parts and name not in ("compute", "unattributed")
    return f"stall: {palette.label(name)}" if stall else palette.label(name)
