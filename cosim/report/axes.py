"""The three quantities that the charts show, accuracy, energy and latency: for trials, points and the dense network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cosim.report.load import Measured, Point, Run, Trial
from cosim.report.units import PERCENT, Scale, scale_for

LOG_SPAN = 6.0  # a ratio of largest to smallest value from which a logarithmic axis reads better

Quantity = Literal["accuracy", "energy", "latency"]


@dataclass(frozen=True)
class Axis:
    """One quantity: where it stands and how it is shown.

    Parameters
    ----------
    quantity : "accuracy", "energy" or "latency"
    field : str
        Attribute of `Measured` that holds it.
    objective : int
        Its index in `Trial.objectives`.
    trial_factor : float
        From the unit of the objective to the unit of the field.
    scale : Scale
        From the unit of the field to the unit shown.
    log : bool
        Logarithmic axis.
    """

    quantity: Quantity
    field: str
    objective: int
    trial_factor: float
    scale: Scale
    log: bool = False

    @property
    def title(self) -> str:
        """Name and unit, such as "energy (µJ)"."""
        return f"{self.quantity} ({self.scale.unit})"

    @property
    def better(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.quantity == "accuracy" else "lower is better"

    def of(self, design: Measured) -> float | None:
        """The value of a point or of the dense network, in the unit shown; accuracy is the tested one if any."""
        value: float | None = getattr(design, self.field)
        return None if value is None else value * self.scale.factor

    def of_point(self, point: Point) -> float:
        """The value of a front point in the unit shown."""
        value = self.of(point)
        if value is None:
            raise AssertionError(f"point {point.id} without {self.field}: load_run requires it")
        return value

    def of_trial(self, trial: Trial) -> float:
        """The value of a trial that has objectives, in the unit shown."""
        if trial.objectives is None:
            raise AssertionError(f"trial {trial.number} has no objectives: ask Run.scored for trials")
        return trial.objectives[self.objective] * self.trial_factor * self.scale.factor


def axes_of(run: Run) -> dict[Quantity, Axis]:
    """The three axes of a run, with units that suit its values."""
    accuracy = Axis("accuracy", "accuracy", run.front.objective("accuracy"), 1.0, PERCENT)
    return {"accuracy": accuracy, "energy": _energy(run), "latency": _latency(run)}


def _energy(run: Run) -> Axis:
    index = run.front.objective("energy")
    factor = {"pJ": 1.0, "nJ": 1e3, "uJ": 1e6, "µJ": 1e6, "mJ": 1e9}.get(run.front.objectives[index].unit, 1.0)
    return _scaled(run, "energy", "energy_pj", factor, "pJ")


def _latency(run: Run) -> Axis:
    """In ms where the trials are, or where one clock serves every point; else in cycles."""
    index = run.front.objective("latency")
    objective = run.front.objectives[index]
    if objective.unit != "cycles" and not objective.name.endswith("cycles"):
        factor = {"s": 1e3, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}.get(objective.unit, 1.0)
        return _scaled(run, "latency", "latency_ms", factor, "ms")
    clocks = [point.latency_ms / point.latency_cycles for point in run.front.points]
    if clocks and max(clocks) <= min(clocks) * (1 + 1e-6):
        return _scaled(run, "latency", "latency_ms", clocks[0], "ms")
    return _scaled(run, "latency", "latency_cycles", 1.0, "cycles")


def _scaled(run: Run, quantity: Quantity, field: str, factor: float, stored: str) -> Axis:
    index = run.front.objective(quantity)
    trials = [trial.objectives[index] * factor for trial in run.scored("complete") if trial.objectives is not None]
    points: list[float] = [getattr(point, field) for point in run.front.points]
    dense: float | None = getattr(run.front.dense, field, None)
    shown = [value for value in [*trials, *points, dense or 0.0] if value > 0]
    log = bool(shown) and max(shown) > LOG_SPAN * min(shown)
    return Axis(quantity, field, index, factor, scale_for(points or shown, stored), log)
