"""Which groups bear pruning: accuracy against the share of channels kept, one group at a time."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.apply import prunable_groups, remove_filters
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.selection import select_plan, uniform_widths

Judge = Callable[[nn.Module], float]
"""Pruned network, which it may change (recalibrate) -> accuracy in [0, 1]."""


@dataclass(frozen=True)
class Sensitivity:
    """Accuracies of a network that has lost channels of one group only."""

    dense: float
    """Accuracy of the whole network."""
    keep: tuple[float, ...]
    """Shares of channels that stay, ascending."""
    accuracy: Mapping[str, tuple[float, ...]]
    """Name of the group -> accuracy at each share."""

    def drop(self, name: str) -> float:
        """Mean loss of accuracy of a group over the shares."""
        return self.dense - sum(self.accuracy[name]) / len(self.keep)


def measure_sensitivity(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, Tensor],
    judge: Judge,
    keep: Sequence[float] = (0.25, 0.5, 0.75),
) -> Sensitivity:
    """Remove the lowest scores of one group at a time and judge what remains.

    Parameters
    ----------
    groups : of `trace_channel_groups(model, example)`; those that can lose channels are measured
    scores : layer name -> Tensor [output channels]
    judge
        Called once for the whole network, and once a group and share.
    keep : shares in (0, 1]

    Raises
    ------
    PruningError
        No share, one outside (0, 1], or a group without scores.
    """
    if not keep:
        raise PruningError("keep names no share of channels; give at least one in (0, 1]")
    shares = tuple(sorted(keep))
    found = {}
    for group in prunable_groups(groups):
        accuracies = []
        for share in shares:
            widths = {group.name: uniform_widths(groups, {group.name: share})[group.name]}
            plan = select_plan(type(model).__name__, groups, scores, widths)
            accuracies.append(judge(remove_filters(model, example, plan, groups, verify=False)))
        found[group.name] = tuple(accuracies)
    whole = remove_filters(model, example, select_plan(type(model).__name__, groups, scores, {}), groups, verify=False)
    return Sensitivity(judge(whole), shares, found)


def write_sensitivity_figure(result: Sensitivity, path: Path) -> None:
    """A PNG: a row a group, in the order in which they run, coloured by the accuracy it loses at each share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(result.accuracy)
    loss = [[100 * (result.dense - value) for value in result.accuracy[name]] for name in names]
    figure = Figure(figsize=(2.5 + 0.9 * len(result.keep), 1.2 + 0.26 * len(names)), layout="constrained")
    canvas, panel = FigureCanvasAgg(figure), figure.subplots()
    largest = max((max(row) for row in loss), default=1.0)
    image = panel.imshow(loss, aspect="auto", cmap="Reds", vmin=0.0, vmax=max(largest, 1e-9))
    panel.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names], fontsize=9)
    panel.set_xticks(range(len(result.keep)), [f"{100 * share:.0f} %" for share in result.keep])
    panel.set_xlabel("channels kept")
    for row, values in enumerate(loss):
        for column, value in enumerate(values):
            colour = "white" if value > 0.6 * largest else "black"
            panel.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, ax=panel, label=f"accuracy lost (points of {100 * result.dense:.1f} %)")
    buffer = io.BytesIO()
    canvas.print_figure(buffer, format="png", dpi=150)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
