"""The charts over the whole run, as plotly.js figures (plain dictionaries): projections, 3-D view, hypervolume.

Every trace says in ``meta`` which role it plays (trials, infeasible, validation, front, best, dense, chosen): the page
switches roles on and off and moves the trace "chosen". Hover texts are long and the same in every chart, so a trace
names its list of texts and the page fills it in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cosim.report import palette
from cosim.report.axes import Axis, Quantity
from cosim.report.design import hover_of_point, hover_of_trial
from cosim.report.load import Run
from cosim.report.units import percent, percent_sd

Figure = dict[str, Any]
PAIRS: tuple[tuple[Quantity, Quantity], ...] = (
    ("energy", "accuracy"),
    ("latency", "accuracy"),
    ("latency", "energy"),
)
"""x and y of the projections."""
LEAST_MARGIN = 4.0  # percentage points below a front that is flat
FRAME_MARGIN = 0.15  # of the span of the front's accuracies shown below the front; trials further down lie outside
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"


def hover_texts(run: Run, axes: Mapping[Quantity, Axis]) -> dict[str, list[str]]:
    """Hover texts by the name under which traces refer to them."""
    return {
        "complete": [hover_of_trial(trial, axes) for trial in run.scored("complete")],
        "infeasible": [hover_of_trial(trial, axes) for trial in run.scored("infeasible")],
        "front": [hover_of_point(point, axes) for point in run.front.points],
    }


def projection(run: Run, axes: Mapping[Quantity, Axis], pair: tuple[Quantity, Quantity]) -> Figure:
    """Two of the three quantities, with all trials behind the front."""
    x, y = axes[pair[0]], axes[pair[1]]
    coloured = "accuracy" not in pair
    traces = [
        _trials(run, (x, y), "complete", _mark("circle", palette.TRIAL, 6, opacity=0.45)),
        _trials(run, (x, y), "infeasible", _mark("x-thin", palette.INFEASIBLE, 7, line=(1.5, palette.INFEASIBLE))),
    ]
    if not coloured:
        traces += [_best(run, x, y), *([_validation(run, x, y)] if run.tested else [])]
    marker = _front_marker(run, axes, 9) if coloured else _mark("circle", palette.ACCENT, 8, line=(1, "white"))
    front = _front(run, (x, y), marker)
    if not coloured:
        front["error_y"] = _error_bars(run)
    traces += [
        front,
        *_dense(run, (x, y)),
        _chosen(2, _mark("circle-open", palette.CHOSEN, 18, line=(3, palette.CHOSEN))),
    ]
    layout = base_layout() | {"xaxis": _axis(x), "yaxis": _axis(y)}
    if y.quantity == "accuracy" and (frame := accuracy_frame(run, y)):
        layout["yaxis"]["range"] = list(frame)
    return {"data": traces, "layout": layout}


def space(run: Run, axes: Mapping[Quantity, Axis]) -> Figure:
    """All three quantities: energy and latency on the floor, accuracy upwards."""
    triple = (axes["latency"], axes["energy"], axes["accuracy"])
    traces = [
        _trials(run, triple, "complete", _mark("circle", palette.TRIAL, 2.5, opacity=0.5)),
        _front(run, triple, _front_marker(run, axes, 6, bar=False)),
        *_dense(run, triple),
        _chosen(3, _mark("circle-open", palette.CHOSEN, 13, line=(3, palette.CHOSEN))),
    ]
    scene = {f"{name}axis": _space_axis(run, axis) for name, axis in zip("xyz", triple, strict=True)}
    if frame := accuracy_frame(run, axes["accuracy"]):
        scene["zaxis"]["range"] = list(frame)
    scene["camera"] = {"eye": {"x": 1.4, "y": 1.4, "z": 0.6}, "center": {"x": 0, "y": 0, "z": -0.15}}
    layout = base_layout() | {"scene": scene, "margin": {"l": 0, "r": 0, "t": 0, "b": 0}}
    return {"data": traces, "layout": layout}


def hypervolume(run: Run) -> Figure:
    """Hypervolume after each trial, of the sampler and of random search."""
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": list(range(1, len(values) + 1)),
            "y": list(values),
            "line": {"shape": "hv", **_hypervolume_line(name)},
            "hovertemplate": "trial %{x}: %{y:.4g}",
        }
        for name, values in run.front.hypervolume.items()
    ]
    layout = base_layout() | {
        "xaxis": _plain_axis("trials"),
        "yaxis": _plain_axis("hypervolume (higher is better)") | {"rangemode": "tozero"},
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hovermode": "x unified",
    }
    return {"data": traces, "layout": layout}


def _hypervolume_line(name: str) -> Figure:
    if name == "random":
        return {"color": palette.RANDOM, "dash": "dash", "width": 2}
    return {"color": palette.ACCENT, "width": 3}


def accuracy_frame(run: Run, axis: Axis) -> tuple[float, float] | None:
    """Lowest and highest accuracy of the frame in percent, so that the front fills it; None without a front.

    Trials below the frame stay in the chart: a double click shows them.
    """
    factor = axis.scale.factor
    low = [factor * (axis.of_point(p) / factor - (p.test_sd or 0.0)) for p in run.front.points]
    high = [factor * (axis.of_point(p) / factor + (p.test_sd or 0.0)) for p in run.front.points]
    if not low:
        return None
    seen = [factor * point.validation_accuracy for point in run.front.points]
    if run.front.dense is not None and (dense := axis.of(run.front.dense)) is not None:
        seen.append(dense)
    bottom, top = min(low + seen), max(high + seen)
    top = max([top, *(axis.of_trial(trial) for trial in run.scored("complete"))])
    room = max(FRAME_MARGIN * (top - bottom), LEAST_MARGIN)
    return max(0.0, bottom - room), min(102.0, top + 0.25 * room)


def base_layout() -> Figure:
    """Fonts, colours and margins that every chart shares."""
    return {
        "font": {"family": FONT, "size": 13, "color": "#1c2733"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 64, "r": 16, "t": 30, "b": 52},
        "hovermode": "closest",
        "hoverlabel": {
            "align": "left",
            "bgcolor": "white",
            "bordercolor": "#5d6b7a",
            "font": {"size": 12, "color": "#1c2733"},
        },
        "showlegend": False,
    }


def _axis(axis: Axis) -> Figure:
    log = (
        {"type": "log", "dtick": "D2", "minorloglabels": "complete", "exponentformat": "none"}
        if axis.log
        else {"type": "linear"}
    )
    return _plain_axis(axis.title) | log


def _space_axis(run: Run, axis: Axis) -> Figure:
    """A 3-D axis; plotly.js labels no 2 and 5 of a logarithmic one in full, so they are named here."""
    found = _axis(axis) | {"showbackground": False}
    values = [axis.of_trial(t) for t in run.scored("complete")] + [axis.of_point(p) for p in run.front.points]
    if axis.log:
        positive = [value for value in values if value > 0]
        ticks = one_two_five(min(positive), max(positive))
        found |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return found


def one_two_five(low: float, high: float) -> list[float]:
    """The numbers 1, 2, 5 × 10ⁿ from just below `low` to just above `high`, both > 0."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [float(f"{mantissa}e{decade}") for decade in decades for mantissa in (1, 2, 5)]
    return [step for step in steps if low / 2 <= step <= high * 2]


def _plain_axis(title: str) -> Figure:
    return {
        "title": {"text": title},
        "gridcolor": "#e6eaee",
        "linecolor": "#9aa5b1",
        "zeroline": False,
        "automargin": True,
    }


def _mark(symbol: str, colour: str, size: float, opacity: float = 1.0, line: tuple[float, str] = (0, "")) -> Figure:
    marker: Figure = {"symbol": symbol, "color": colour, "size": size, "opacity": opacity}
    return marker | ({"line": {"width": line[0], "color": line[1]}} if line[0] else {})


def _scatter(role: str, values: list[list[float]], marker: Figure, texts: str | None = None) -> Figure:
    """Markers in two or three dimensions; `values` has one list per dimension."""
    trace: Figure = {
        "type": "scatter" if len(values) == 2 else "scatter3d",
        "mode": "markers",
        "name": role,
        "meta": {"role": role, "texts": texts},
        "marker": marker,
        "hoverinfo": "text" if texts else "skip",
    }
    return trace | dict(zip("xyz", values, strict=False))


def _trials(run: Run, axes: tuple[Axis, ...], state: str, marker: Figure) -> Figure:
    trials = run.scored("complete" if state == "complete" else "infeasible")
    role = "trials" if state == "complete" else "infeasible"
    return _scatter(role, [[axis.of_trial(trial) for trial in trials] for axis in axes], marker, state)


def _front(run: Run, axes: tuple[Axis, ...], marker: Figure) -> Figure:
    trace = _scatter("front", [[axis.of_point(p) for p in run.front.points] for axis in axes], marker, "front")
    trace["customdata"] = [point.id for point in run.front.points]
    return trace


def _front_marker(run: Run, axes: Mapping[Quantity, Axis], size: float, bar: bool = True) -> Figure:
    """Markers coloured by accuracy, for charts in which accuracy is no axis of its own."""
    marker = _mark("circle", "", size, line=(1, "white")) | {
        "color": [axes["accuracy"].of_point(point) for point in run.front.points],
        "colorscale": [list(stop) for stop in palette.ACCURACY_SCALE],
        "showscale": bar and len(run.front.points) > 1,
    }
    return marker | {
        "colorbar": {"title": {"text": "accuracy (%)", "side": "right"}, "thickness": 12, "outlinewidth": 0}
    }


def _error_bars(run: Run) -> Figure:
    spread = [100.0 * (point.test_sd or 0.0) for point in run.front.points]
    return {"type": "data", "array": spread, "visible": True, "color": palette.ACCENT, "thickness": 1.4, "width": 4}


def _validation(run: Run, x: Axis, y: Axis) -> Figure:
    """The front as the search saw it: hollow marks at the validation accuracy."""
    seen = [point.validation_accuracy * y.scale.factor for point in run.front.points]
    marker = _mark("circle-open", palette.ACCENT, 7, opacity=0.75, line=(1.3, palette.ACCENT))
    trace = _scatter("validation", [[x.of_point(point) for point in run.front.points], seen], marker, "front")
    trace["customdata"] = [point.id for point in run.front.points]
    return trace


def _best(run: Run, x: Axis, y: Axis) -> Figure:
    """Steps through the points that nothing beats in these two quantities alone."""
    steps = staircase([(x.of_point(point), y.of_point(point)) for point in run.front.points])
    trace = _scatter("best", [[step[0] for step in steps], [step[1] for step in steps]], {})
    return trace | {"mode": "lines", "line": {"shape": "hv", "color": palette.ACCENT, "width": 1.2, "dash": "dot"}}


def staircase(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points with the highest y so far, by rising x (x is minimized, y maximized)."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or y > kept[-1][1]:
            kept.append((x, y))
    return kept


def _dense(run: Run, axes: tuple[Axis, ...]) -> list[Figure]:
    """The dense network, where it is known in all of these quantities."""
    dense = run.front.dense
    values = [axis.of(dense) for axis in axes] if dense is not None else []
    known = [[value] for value in values if value is not None]
    if dense is None or len(known) < len(axes):
        return []
    marker = _mark("diamond", palette.DENSE, 12 if len(axes) == 2 else 6, line=(1, "white"))
    trace = _scatter("dense", known, marker)
    tested = f"test {percent_sd(dense.test_mean, dense.test_sd)}, validation {percent(dense.validation_accuracy)}"
    costs = " · ".join(
        f"{a.quantity} {v[0]:.3g} {a.scale.unit}" for a, v in zip(axes, known, strict=True) if a.quantity != "accuracy"
    )
    return [trace | {"hoverinfo": "text", "hovertext": [f"<b>dense network</b>: {tested}<br>{costs}"]}]


def _chosen(dimensions: int, marker: Figure) -> Figure:
    return _scatter("chosen", [[] for _ in range(dimensions)], marker)
