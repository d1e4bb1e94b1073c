"""Figures of a pruning run: accuracy by stage, and what stays of every layer."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cosim.files import replace_file
from cosim.report import palette

DPI = 150
_MANY = 9
"""Stages above which their names stand upright, and steps have no figure."""
_COLOURS = {"validation": palette.RANDOM, "test": palette.ACCENT}


def accuracy_png(accuracy: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """Accuracy on each split, from the dense network through every stage to the fine-tuned one."""
    stages, splits = list(accuracy), list(accuracy["dense"])
    many = len(stages) > _MANY
    figure = Figure(figsize=(max(5.0, 1.2 + (0.3 if many else 0.75) * len(stages)), 3.6), layout="constrained")
    panel = figure.subplots()
    for split in splits:
        values = [100 * accuracy[stage][split] for stage in stages]
        colour = _COLOURS[split]
        panel.plot(range(len(stages)), values, "o-", color=colour, linewidth=1.5, markersize=6, label=split)
        panel.axhline(values[0], color=colour, linewidth=1, linestyle=":")
    for place, stage in enumerate(stages):
        if many and stage.startswith("step"):
            continue
        value = 100 * accuracy[stage]["test"]
        panel.annotate(
            f"{value:.1f}", (place, value), (0, 9), textcoords="offset points", ha="center",
            bbox={"boxstyle": "square,pad=0.1", "color": "white", "alpha": 0.8},
        )  # fmt: skip
    panel.set_xticks(range(len(stages)), stages, rotation=90 if many else 0)
    panel.margins(y=0.15)
    panel.set_ylabel("accuracy (%); test in figures")
    figure.legend(*panel.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    _finish(figure, panel, title, path)


def kept_png(layers: Mapping[str, Mapping[str, int]], title: str, path: Path) -> None:
    """A row a layer: bar = weights that stay, diamond = output channels that stay, in % of the dense layer."""
    names = list(layers)
    figure = Figure(figsize=(7.0, 1.5 + 0.24 * len(names)), layout="constrained")
    panel, rows = figure.subplots(), range(len(names))
    weights = [100 * layers[name]["weights_kept"] / layers[name]["weights"] for name in names]
    channels = [100 * layers[name]["channels_kept"] / layers[name]["channels"] for name in names]
    panel.barh(rows, weights, color=palette.ACCENT, height=0.62, label="weights that are not 0")
    panel.plot(channels, rows, "D", color=palette.CHOSEN, markersize=5, label="output channels", clip_on=False)
    for row, name in enumerate(names):
        found = layers[name]
        panel.text(103, row, f"{found['channels_kept']} of {found['channels']}", va="center", fontsize=8)
    panel.set_yticks(rows, [name.replace("$", r"\$") for name in names], fontsize=8)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.set_xlim(0, 120)
    panel.set_xticks(range(0, 101, 20))
    panel.set_xlabel("share of the dense layer (%); right: output channels")
    figure.legend(*panel.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    _finish(figure, panel, title, path)


def _finish(figure: Figure, panel: Axes, title: str, path: Path) -> None:
    panel.set_title(title.replace("$", r"\$"), loc="left")
    panel.grid(color="#e6eaee")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=DPI)
    replace_file(path, lambda target: target.write_bytes(buffer.getvalue()))
