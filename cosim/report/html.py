"""report.html: one file that opens offline, with charts, designs and the table of the front."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from cosim.report import figures, fragments, sentences
from cosim.report.axes import Axis, Quantity, axes_of
from cosim.report.front_table import front_table
from cosim.report.layers import layer_charts
from cosim.report.load import Point, Run

Axes = Mapping[Quantity, Axis]


def page(run: Run) -> str:
    """The whole page. The same run gives the same text."""
    axes = axes_of(run)
    front, layers = run.front, layer_charts(run.front.points)
    parts = {
        "title": escape(f"{front.name}: Pareto front"),
        "css": _asset("report.css"),
        "kicker": fragments.kicker(front),
        "heading": escape(f"{front.name}: {front.network} on {front.dataset}"),
        "headline": escape(sentences.headline(run, axes)),
        "dense": escape(sentences.against_dense(run, axes)),
        "counts": fragments.counts(run),
        "chooser": fragments.chooser(run, axes),
        "legend": fragments.legend(run),
        "projections": _charts(run, axes),
        "design_section": _design_section(run, axes, layers),
        "table": front_table(front.points, axes),
        "search": escape(sentences.search_gain(run)),
        "hypervolume": _hypervolume(run),
        "footnotes": fragments.footnotes(run, axes),
        "data": embedded_json(_data(run, axes, layers)),
        "plotly": get_plotlyjs(),
        "script": _asset("report.js"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("template.html"))


def embedded_json(data: Any) -> str:
    """JSON that cannot end or open an element of the page it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return files("cosim.report").joinpath(name).read_text(encoding="utf-8")


def _data(run: Run, axes: Axes, layers: dict[str, Any]) -> dict[str, Any]:
    """What the page's script draws."""
    charts = {chart_name(pair): figures.projection(run, axes, pair) for pair in figures.PAIRS}
    charts["space"] = figures.space(run, axes)
    if run.front.hypervolume:
        charts["hypervolume"] = figures.hypervolume(run)
    points = run.front.points
    return {
        "charts": charts,
        "texts": figures.hover_texts(run, axes),
        "layers": layers,
        "order": [point.id for point in points],
        "chosen": chosen.id if (chosen := _first_shown(run)) is not None else None,
    }


def chart_name(pair: tuple[Quantity, Quantity]) -> str:
    """Name of a projection, such as "accuracy-energy"."""
    return f"{pair[1]}-{pair[0]}"


def _first_shown(run: Run) -> Point | None:
    """The design shown at first: the leanest near the dense network, else the most accurate."""
    near = sentences.leanest_near_dense(run)
    return near or next(iter(run.front.points), None)


def _charts(run: Run, axes: Axes) -> str:
    parts = []
    for pair in figures.PAIRS:
        x, y = axes[pair[0]], axes[pair[1]]
        title = f"{y.quantity.capitalize()} against {x.quantity}"
        parts.append(fragments.figure(f"chart-{chart_name(pair)}", title, _caption(run, x, y)))
    text = "Drag to turn. Height and colour are the accuracy."
    return "".join([*parts, fragments.figure("chart-space", "All three objectives", text)])


def _caption(run: Run, x: Axis, y: Axis) -> str:
    if y.quantity != "accuracy":
        return "Lower left is better. Colour is the accuracy, dark is high."
    frame = figures.accuracy_frame(run, y)
    below = sum(y.of_trial(trial) < frame[0] for trial in run.scored("complete")) if frame else 0
    hidden = f" {below} trials lie below the frame: double click to see them." if below else ""
    return f"Upper left is better.{hidden}"


def _design_section(run: Run, axes: Axes, layers: dict[str, Any]) -> str:
    if not run.front.points:
        return ""
    switch = (
        '<p class="needs-script"><label><input type="checkbox" id="same-scale"> same scale for every design</label></p>'
    )
    texts = {
        "energy": ("Energy by layer", "Stacked by component; a memory has the same hue in both charts."),
        "latency": ("Latency by layer", "Computing, and waiting by cause."),
    }
    charts = "".join(
        fragments.figure(f"layers-{name}", *text, kind="layers", keys=layers[name]["keys"])
        for name, text in texts.items()
    )
    return (
        '<section aria-labelledby="design-heading"><h2 id="design-heading">The chosen design</h2>'
        f'{fragments.designs(run, axes)}{switch}<div class="grid needs-script">{charts}</div>'
        f"{fragments.parameters(run)}</section>"
    )


def _hypervolume(run: Run) -> str:
    if not run.front.hypervolume:
        return ""
    text = "Volume of objective space that the designs found so far beat, by validation accuracy."
    return fragments.figure("chart-hypervolume", "Hypervolume over the trials", text, "wide")
