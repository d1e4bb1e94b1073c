"""front.png: the front in two projections and the hypervolume, for a README or a slide."""

from __future__ import annotations

import io
from collections.abc import Mapping

from matplotlib.axes import Axes as Panel
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from cosim.report import palette
from cosim.report.axes import Axis, Quantity, axes_of
from cosim.report.figures import accuracy_frame, staircase
from cosim.report.load import Run

SIZE_INCHES = (13.0, 4.4)
DPI = 150
HEADROOM = 0.15


def front_png(run: Run) -> bytes:
    """The figure as PNG, 1950 × 660 pixels."""
    axes = axes_of(run)
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    _projection(left, run, axes, "energy")
    _projection(middle, run, axes, "latency")
    _hypervolume(right, run)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=11)
    name = _literal(f"{run.front.name}: {run.front.network} on {run.front.dataset}")
    figure.suptitle(name, fontsize=14, fontweight="bold", x=0.01, ha="left")
    buffer = io.BytesIO()
    canvas.print_figure(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _literal(text: str) -> str:
    """Text in which $ starts no formula."""
    return text.replace("$", r"\$")


def _projection(panel: Panel, run: Run, axes: Mapping[Quantity, Axis], cost: Quantity) -> None:
    x, y = axes[cost], axes["accuracy"]
    for state, marker, colour in (("complete", "o", palette.TRIAL), ("infeasible", "x", palette.INFEASIBLE)):
        trials = run.scored("complete" if state == "complete" else "infeasible")
        if trials:
            xs, ys = ([axis.of_trial(trial) for trial in trials] for axis in (x, y))
            words = "trials (validation accuracy)" if state == "complete" else "infeasible trials"
            panel.scatter(xs, ys, s=16, marker=marker, color=colour, alpha=0.55, linewidths=1, zorder=1, label=words)
    if run.front.points:
        _front(panel, run, x, y)
    _dense(panel, run, x, y)
    if frame := accuracy_frame(run, y):
        panel.set_ylim(frame)
    name = f"{x.quantity.capitalize()} ({x.scale.unit}{', log scale' if x.log else ''})"
    _dress(panel, name, "Accuracy (%)")
    if x.log:
        _log_axis(panel)


def _front(panel: Panel, run: Run, x: Axis, y: Axis) -> None:
    points = run.front.points
    places = [(x.of_point(point), y.of_point(point)) for point in points]
    steps_x, steps_y = zip(*staircase(places), strict=True)
    panel.step(steps_x, steps_y, where="post", color=palette.ACCENT, linewidth=1, linestyle=":", zorder=2)
    spread = [y.scale.factor * (point.test_sd or 0.0) for point in points]
    label = "front (test accuracy, mean ± sd)" if run.tested else "front (validation)"
    xs, ys = zip(*places, strict=True)
    panel.errorbar(
        xs, ys, yerr=spread, fmt="o", color=palette.ACCENT, markersize=7, markeredgecolor="white", elinewidth=1.4,
        capsize=3, zorder=4, label=label,
    )  # fmt: skip


def _dense(panel: Panel, run: Run, x: Axis, y: Axis) -> None:
    dense = run.front.dense
    if dense is None or (cost := x.of(dense)) is None or (accuracy := y.of(dense)) is None:
        return
    panel.scatter([cost], [accuracy], s=80, marker="D", color=palette.DENSE, zorder=3, label="dense network")


def _hypervolume(panel: Panel, run: Run) -> None:
    for name, values in run.front.hypervolume.items():
        line = ("--", palette.RANDOM) if name == "random" else ("-", palette.ACCENT)
        panel.step(
            range(1, len(values) + 1), values, linestyle=line[0], color=line[1], linewidth=2, label=_literal(name)
        )
    if run.front.hypervolume:
        panel.set_ylim(
            bottom=0, top=(1 + HEADROOM) * max(max(v, default=0.0) for v in run.front.hypervolume.values()) or 1
        )
        panel.legend(frameon=False, fontsize=11, loc="lower right")
    else:
        panel.text(0.5, 0.5, "not recorded", ha="center", transform=panel.transAxes, fontsize=11)
    _dress(panel, "Trials", "Hypervolume")


def _dress(panel: Panel, x: str, y: str) -> None:
    panel.set_xlabel(x, fontsize=12)
    panel.set_ylabel(y, fontsize=12)
    panel.tick_params(labelsize=11)
    panel.grid(color="#e6eaee")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _log_axis(panel: Panel) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
