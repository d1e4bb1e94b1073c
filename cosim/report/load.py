"""The run directory of a search, read and checked: front.json and trials.json as frozen values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from statistics import fmean, stdev
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from cosim.errors import ConfigError

REMEDY = "write the directory again with `cosim search`"
State = Literal["complete", "duplicate", "infeasible", "crashed"]
Accuracy = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Scalar = str | int | float | bool | None
Value = TypeVar("Value")


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{path!r} leads out of the run directory; name a file inside it")
    return path


RelativePath = Annotated[str, Field(min_length=1), AfterValidator(_inside)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Objective(_Frozen):
    """One quantity that was searched for; the order is the order of `Trial.objectives`."""

    name: str
    direction: Literal["minimize", "maximize"]
    unit: str = ""


class Constraint(_Frozen):
    """A limit that every design had to keep."""

    name: str
    limit: float
    unit: str = ""


class Measured(_Frozen):
    """What a design reaches: accuracies in [0, 1], energy in pJ, latency in cycles and ms, area in mm²."""

    validation_accuracy: Accuracy | None = None
    """What the search saw."""
    test_accuracy: tuple[Accuracy, ...] = ()
    """One value per seed, of networks trained again after the search."""
    test_accuracy_mean: Accuracy | None = None
    test_accuracy_sd: NotNegative | None = None
    energy_pj: Positive
    latency_cycles: Positive | None = None
    latency_ms: Positive | None = None
    area_mm2: NotNegative | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.test_accuracy and self.test_accuracy_mean is not None:
            mean = fmean(self.test_accuracy)
            if abs(mean - self.test_accuracy_mean) > 1e-6:
                raise ValueError(
                    f"test_accuracy_mean is {self.test_accuracy_mean}, the mean of test_accuracy is {mean}"
                )
        return self

    @property
    def test_mean(self) -> float | None:
        """Mean test accuracy in [0, 1]; None where nothing was tested."""
        if self.test_accuracy_mean is None and self.test_accuracy:
            return fmean(self.test_accuracy)
        return self.test_accuracy_mean

    @property
    def test_sd(self) -> float | None:
        """Standard deviation of the test accuracy over seeds; None where it is not known."""
        if self.test_accuracy_sd is None and len(self.test_accuracy) > 1:
            return stdev(self.test_accuracy)
        return self.test_accuracy_sd

    @property
    def accuracy(self) -> float | None:
        """Test accuracy where there is one, else the validation accuracy."""
        return self.validation_accuracy if self.test_mean is None else self.test_mean


class Dense(Measured):
    """The network before pruning, for comparison."""

    accelerator: str | None = None


class Layer(_Frozen):
    """Cycles by cause and energy by component (pJ) of one layer."""

    name: str
    latency_cycles: NotNegative
    compute_cycles: NotNegative
    stall_cycles: dict[str, NotNegative] = {}
    energy_pj: dict[str, NotNegative] = {}
    utilization: NotNegative | None = None


class Point(Measured):
    """One design of the front."""

    id: Annotated[str, Field(min_length=1)]
    trial: Annotated[int, Field(ge=0)]
    validation_accuracy: Accuracy
    latency_cycles: Positive
    latency_ms: Positive
    dram_bytes: NotNegative | None = None
    macs: NotNegative | None = None
    weight_bytes: NotNegative | None = None
    utilization: NotNegative | None = None
    design: dict[str, Scalar]
    plan_summary: str = ""
    plan: RelativePath | None = None
    accelerator: RelativePath | None = None
    weights: RelativePath | None = None
    layers: tuple[Layer, ...] = ()
    notices: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    """Of seeds that could not be trained."""


class Front(_Frozen):
    """front.json: what ran and the designs that no other design beats."""

    version: Literal[1]
    name: str
    network: str
    dataset: str
    sampler: str
    seed: int
    counts: dict[State, Annotated[int, Field(ge=0)]]
    objectives: Annotated[tuple[Objective, ...], Field(min_length=3)]
    constraints: tuple[Constraint, ...] = ()
    reference: tuple[float, ...] = ()
    hypervolume: dict[str, tuple[NotNegative, ...]] = {}
    dense: Dense | None = None
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for quantity in ("accuracy", "energy", "latency"):
            found = [objective.name for objective in self.objectives if objective.name.startswith(quantity)]
            if len(found) != 1:
                raise ValueError(f"objectives: {found or 'none'} named {quantity}…; the report needs exactly one")
        ids = [point.id for point in self.points]
        if len(set(ids)) < len(ids):
            raise ValueError(f"points: ids {ids} are not all different")
        return self

    def objective(self, quantity: str) -> int:
        """Index of the objective whose name starts with `quantity` ("accuracy", "energy" or "latency")."""
        return next(i for i, objective in enumerate(self.objectives) if objective.name.startswith(quantity))


class Trial(_Frozen):
    """One trial of the search; objectives in the order and units of `Front.objectives`."""

    number: Annotated[int, Field(ge=0)]
    state: State
    params: dict[str, Scalar] = {}
    objectives: tuple[float, ...] | None
    """None where nothing was scored."""
    error: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _lift_evaluation(cls, data: Any) -> Any:
        """Take the objectives out of "evaluation", where a search keeps them."""
        if not isinstance(data, dict) or "objectives" in data or "evaluation" not in data:
            return data
        evaluation = data["evaluation"]
        return {**data, "objectives": evaluation.get("objectives") if isinstance(evaluation, dict) else evaluation}


@dataclass(frozen=True)
class Run:
    """A run directory, read."""

    folder: Path
    front: Front
    trials: tuple[Trial, ...]

    def scored(self, state: State) -> tuple[Trial, ...]:
        """The trials in this state that have objectives, by number."""
        return tuple(trial for trial in self.trials if trial.state == state and trial.objectives is not None)

    @property
    def tested(self) -> bool:
        """Whether any point of the front has a test accuracy."""
        return any(point.test_mean is not None for point in self.front.points)


def load_run(folder: Path) -> Run:
    """Read and check front.json and trials.json of a run directory; points by falling accuracy, tested where it is.

    Raises
    ------
    ConfigError
        A file is missing, is not JSON, or a field is missing or has a value that cannot be; names file and field.
    """
    front = _read(folder / "front.json", Front.model_validate)
    trials = _read(folder / "trials.json", TypeAdapter(tuple[Trial, ...]).validate_python)
    for index, trial in enumerate(trials):
        if trial.objectives is not None and len(trial.objectives) != len(front.objectives):
            raise ConfigError(
                f"{folder / 'trials.json'}: [{index}].objectives has {len(trial.objectives)} values, front.json names "
                f"{len(front.objectives)} objectives; the two files are not of one run: {REMEDY}"
            )
    ordered = sorted(front.points, key=lambda point: -(point.accuracy or 0.0))
    return Run(folder, front.model_copy(update={"points": tuple(ordered)}), trials)


def _read(path: Path, validate: Callable[[Any], Value]) -> Value:
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=partial(_not_finite, path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; pass the directory that `cosim search` wrote") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not JSON ({error}); {REMEDY}") from error
    try:
        return validate(data)
    except ValidationError as error:
        raise ConfigError(_first_fault(path, error)) from error


def _not_finite(path: Path, constant: str) -> float:
    raise ConfigError(f"{path}: holds the number {constant}; every number must be finite: {REMEDY}")


def _first_fault(path: Path, error: ValidationError) -> str:
    fault = error.errors()[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    given = fault.get("input")
    value = "" if isinstance(given, dict | list) or fault["type"] == "missing" else f" (it is {given!r:.80})"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}: {field or 'the file'}: {fault['msg']}{value}{more}; {REMEDY}"
