"""Which groups bear pruning: accuracy against the share of channels kept, one group at a time."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.apply import prunable_groups, remove_filters
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.criteria import group_score
from cosim.pruning.selection import select_plan, uniform_widths

Judge = Callable[[nn.Module], float]
"""Pruned network, which it may change (recalibrate) -> accuracy in [0, 1], or another number that falls with damage."""


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


def calibrated_scores(
    groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor], sensitivity: Sensitivity
) -> dict[str, Tensor]:
    """Scores in units of measured damage: those of a group's lowest channels add up to what it was seen to lose.

    The order within a group stays; between groups, a criterion's scores say little (a mean of 1 in every layer makes
    one of 64 channels worth as much as one of 16). For `worth_widths(..., how="none")`. Between the measured shares the
    loss is a straight line, and only its convex part counts: losses that grow ever slower would call for all or nothing
    of a group, which so few points do not carry. Losses of several groups are taken to add up (an assumption).

    Parameters
    ----------
    groups, scores : as for `measure_sensitivity`, whose result `sensitivity` is

    Returns
    -------
    dict of layer name to Tensor [output channels], float64, >= 0

    Raises
    ------
    PruningError
        A group that can lose channels was not measured, or has no scores.
    """
    found = {name: torch.zeros(len(score), dtype=torch.float64) for name, score in scores.items()}
    for group in prunable_groups(groups):
        if group.name not in sensitivity.accuracy:
            raise PruningError(f"group {group.name}: its sensitivity was not measured; measure all groups")
        order = group_score(group, scores).argsort(stable=True)
        worth = torch.empty(group.size, dtype=torch.float64)
        worth[order] = torch.from_numpy(np.diff(_losses(group, groups, sensitivity)))
        for part in group.slices:
            layer = part.name.rpartition(".")[0]
            if part.role == "out" and part.name == f"{layer}.weight" and layer in found:
                for value, positions in zip(worth, part.indices, strict=True):
                    found[layer][list(positions)] = value
    return found


def _losses(group: ChannelGroup, groups: Sequence[ChannelGroup], sensitivity: Sensitivity) -> NDArray[np.float64]:
    """What a group loses with its j lowest channels, j = 0 … size: convex, each step more than the one before."""
    known = [(0, 0.0)]
    for share, accuracy in sorted(zip(sensitivity.keep, sensitivity.accuracy[group.name], strict=True), reverse=True):
        lost = group.size - uniform_widths(groups, {group.name: share})[group.name]
        known.append((lost, max(known[-1][1], sensitivity.dense - accuracy)))
    hull: list[tuple[int, float]] = []
    for lost, damage in known:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], (lost, damage)):
            hull.pop()
        if not hull or lost > hull[-1][0]:
            hull.append((lost, damage))
    beyond = max(group.size, hull[-1][0] + 1)
    steepest = _slope(hull[-2], hull[-1]) if len(hull) > 1 else 0.0
    hull.append((beyond, hull[-1][1] + steepest * (beyond - hull[-1][0])))
    places = np.arange(group.size + 1)
    losses = np.interp(places, [lost for lost, _ in hull], [damage for _, damage in hull])
    return losses + places**2 * 1e-12 * max(losses[-1], 1e-12)  # of equal steps, the order of the scores decides


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0]) if other[0] > one[0] else float("inf")


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
