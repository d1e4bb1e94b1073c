"""A design as text: parameters grouped by the part they belong to."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from html import escape

from cosim.report.axes import Axis, Quantity
from cosim.report.load import Point, Scalar, Trial
from cosim.report.units import percent, percent_sd

PLAN = ("keep", "mask", "bits")
"""First parts of the names of parameters that belong to the pruning plan: keep.conv1, mask.stage0, bits.stage0."""
HOVER_WIDTH = 66  # characters: two hovers fit beside each other on a 1280 px page


def shown(value: Scalar) -> str:
    """A parameter value as text; a choice that is a JSON object without its punctuation."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and value.startswith("{"):
        return re.sub(r'[{}"]', "", value).replace(": ", " ")
    return "–" if value is None else str(value)


def grouped(design: Mapping[str, Scalar]) -> dict[str, dict[str, str]]:
    """Parameters by the first part of their names: "memories.dram.banks" is "dram.banks" of "memories"."""
    groups: dict[str, dict[str, str]] = {}
    for name, value in design.items():
        group, _, parameter = name.partition(".")
        groups.setdefault(group, {})[parameter] = shown(value)
    return groups


def hover_of_point(point: Point, axes: Mapping[Quantity, Axis]) -> str:
    """Hover text of a front point: accuracies, costs and all parameters."""
    seeds = f"{len(point.test_accuracy)} seeds" if point.test_accuracy else "retrained"
    tested = (
        f"test {percent_sd(point.test_mean, point.test_sd)} ({seeds})" if point.test_mean is not None else "not tested"
    )
    lines = [
        f"<b>{escape(point.id, quote=False)}</b> (trial {point.trial}): {tested}, "
        f"validation {percent(point.validation_accuracy)}",
        " · ".join(_with_unit(axes[name], axes[name].of_point(point)) for name in ("energy", "latency")),
    ]
    return "<br>".join([*lines, *_compact(point.design)])


def hover_of_trial(trial: Trial, axes: Mapping[Quantity, Axis]) -> str:
    """Hover text of a trial that has objectives."""
    values = [_with_unit(axes[name], axes[name].of_trial(trial)) for name in ("accuracy", "energy", "latency")]
    head = f"trial {trial.number}, {trial.state}: validation {values[0]} · {values[1]} · {values[2]}"
    return "<br>".join([head, *_compact(trial.params)])


def _with_unit(axis: Axis, value: float) -> str:
    return f"{axis.quantity} {value:.3g} {axis.scale.unit}" if axis.quantity != "accuracy" else f"{value:.1f} %"


def _compact(design: Mapping[str, Scalar]) -> list[str]:
    lines: list[str] = []
    for group, parameters in grouped(design).items():
        text = f"{group}: " + ", ".join(f"{name} {value}".strip() for name, value in parameters.items())
        lines += textwrap.wrap(text, HOVER_WIDTH, subsequent_indent="   ")
    return [escape(line, quote=False) for line in lines]
