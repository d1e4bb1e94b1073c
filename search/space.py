"""Parameters and the space they span."""

import difflib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.errors import InvalidProblemError

Value: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True)
class Categorical:
    """One of a few values without an order.

    Parameters
    ----------
    name : str
    choices : tuple of None, bool, int, float or str
        At least one, all different (1, 1.0 and True count as equal).
    """

    name: str
    choices: tuple[Value, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        _check_name(self.name)
        if not self.choices:
            raise InvalidProblemError(f"parameter {self.name!r} has no choices: pass at least one")
        for choice in self.choices:
            if not (choice is None or isinstance(choice, bool | int | float | str)) or _not_finite(choice):
                raise InvalidProblemError(
                    f"parameter {self.name!r}: choice {choice!r} is a {type(choice).__name__}; "
                    "pass None, bool, int, finite float or str"
                )
        if len(set(self.choices)) != len(self.choices):
            raise InvalidProblemError(
                f"parameter {self.name!r}: choices {self.choices} hold equal values; drop one of them"
            )

    @property
    def distribution(self) -> BaseDistribution:
        """The same parameter for Optuna."""
        return CategoricalDistribution(self.choices)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw a choice, all equally likely."""
        return self.choices[int(rng.integers(len(self.choices)))]

    def contains(self, value: object) -> bool:
        """Whether the value is one of the choices, type included."""
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def nearest(self, value: object) -> Value:
        """The closest choice: by number where both are numbers, else by spelling."""
        numbers = [choice for choice in self.choices if _is_number(choice)]
        if _is_number(value) and numbers:
            return min(numbers, key=lambda choice: abs(choice - value))  # type: ignore[operator]
        spelled = {str(choice): choice for choice in self.choices}
        return spelled[(difflib.get_close_matches(str(value), list(spelled), 1, 0.0) or list(spelled))[0]]


@dataclass(frozen=True)
class Integer:
    """An integer low, low + step, …, high; with ``log`` small values are drawn as often per octave as large ones.

    Parameters
    ----------
    name : str
    low, high : int
        Bounds, both included; high - low is a multiple of step. With ``log``: low >= 1 and step 1.
    step : int
        >= 1.
    log : bool
    """

    name: str
    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        for field in ("low", "high", "step"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidProblemError(f"parameter {self.name!r}: {field} is {value!r}; pass an int")
        _check_range(self.name, self.low, self.high, self.log)
        if self.step < 1 or (self.log and self.step != 1):
            raise InvalidProblemError(f"parameter {self.name!r}: step is {self.step}; pass 1 with log, else at least 1")
        if (self.high - self.low) % self.step:
            reached = self.low + (self.high - self.low) // self.step * self.step
            raise InvalidProblemError(
                f"parameter {self.name!r}: high {self.high} is not low {self.low} plus steps of {self.step}; "
                f"the nearest is {reached}"
            )

    @property
    def distribution(self) -> BaseDistribution:
        """The same parameter for Optuna."""
        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def sample(self, rng: np.random.Generator) -> int:
        """Draw a value, uniform over the grid or over the logarithm of the value."""
        if not self.log:
            return self.low + self.step * int(rng.integers((self.high - self.low) // self.step + 1))
        drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        return min(max(round(drawn), self.low), self.high)

    def contains(self, value: object) -> bool:
        """Whether the value is an int of the grid."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def nearest(self, value: object) -> int:
        """The closest value of the grid; ``low`` for what is not a number."""
        if not _is_number(value):
            return self.low
        steps = round((value - self.low) / self.step)  # type: ignore[operator]
        return min(max(self.low + steps * self.step, self.low), self.high)


@dataclass(frozen=True)
class Real:
    """A real number low ≤ x ≤ high; with ``log`` drawn uniformly in its logarithm (low > 0).

    Parameters
    ----------
    name : str
    low, high : float
        Bounds, both included, finite.
    log : bool
    """

    name: str
    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        for field in ("low", "high"):
            value = getattr(self, field)
            if not _is_number(value):
                raise InvalidProblemError(f"parameter {self.name!r}: {field} is {value!r}; pass a finite number")
            object.__setattr__(self, field, float(value))
        _check_range(self.name, self.low, self.high, self.log)

    @property
    def distribution(self) -> BaseDistribution:
        """The same parameter for Optuna."""
        return FloatDistribution(self.low, self.high, log=self.log)

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a value, uniform or uniform in the logarithm."""
        if not self.log:
            return float(rng.uniform(self.low, self.high))
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)

    def contains(self, value: object) -> bool:
        """Whether the value is a number within the bounds."""
        return _is_number(value) and self.low <= value <= self.high  # type: ignore[operator]

    def nearest(self, value: object) -> float:
        """The closest value within the bounds; ``low`` for what is not a number."""
        return min(max(float(value), self.low), self.high) if _is_number(value) else self.low  # type: ignore[arg-type]


Parameter: TypeAlias = Categorical | Integer | Real


@dataclass(frozen=True)
class SearchSpace:
    """Independent parameters, each with a name of its own.

    Parameters
    ----------
    parameters : sequence of Categorical, Integer, Real

    Raises
    ------
    InvalidProblemError
        No parameter, or two of one name.
    """

    parameters: tuple[Parameter, ...]

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        object.__setattr__(self, "parameters", tuple(parameters))
        names = self.names
        if not names:
            raise InvalidProblemError("a search space needs at least one parameter")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidProblemError(f"parameters {twice} are defined twice: give each a name of its own")

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of definition."""
        return tuple(parameter.name for parameter in self.parameters)

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Name → Optuna distribution."""
        return {parameter.name: parameter.distribution for parameter in self.parameters}

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw every parameter independently; the same generator state gives the same values."""
        return {parameter.name: parameter.sample(rng) for parameter in self.parameters}

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """Ask an Optuna trial for every parameter, in the order of definition."""
        return {parameter.name: _suggest(trial, parameter) for parameter in self.parameters}

    def validate(self, values: Mapping[str, Any]) -> None:
        """Check that the values name every parameter, nothing else, and lie in their ranges.

        Raises
        ------
        InvalidProblemError
            Names the parameter, its value and the nearest valid one.
        """
        self.validate_some(values)
        for parameter in self.parameters:
            if parameter.name not in values:
                raise InvalidProblemError(
                    f"parameter {parameter.name!r} has no value: pass one for each of {self.names}"
                )

    def validate_some(self, values: Mapping[str, Any]) -> None:
        """Check that the values name parameters of this space and lie in their ranges; the same errors."""
        for name in values:
            if name not in self.names:
                nearest = difflib.get_close_matches(str(name), self.names, 1, 0.0)
                raise InvalidProblemError(
                    f"no parameter {name!r} in this space; nearest: {(nearest or self.names)[0]!r}"
                )
        for parameter in self.parameters:
            if parameter.name not in values:
                continue
            value = values[parameter.name]
            if not parameter.contains(value):
                raise InvalidProblemError(
                    f"parameter {parameter.name!r} has value {value!r}, outside {parameter}; "
                    f"nearest valid: {parameter.nearest(value)!r}"
                )

    def describe(self) -> dict[str, str]:
        """Name → one line with kind and range, as compared on resume."""
        return {parameter.name: json.dumps(_plain(parameter), sort_keys=True) for parameter in self.parameters}

    def fingerprint(self) -> str:
        """Hex digest of the parameters with their order: equal for equal spaces, in every process."""
        text = json.dumps([_plain(parameter) for parameter in self.parameters], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _suggest(trial: optuna.trial.BaseTrial, parameter: Parameter) -> Any:
    match parameter:
        case Categorical():
            return trial.suggest_categorical(parameter.name, parameter.choices)
        case Integer():
            return trial.suggest_int(
                parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log
            )
        case Real():
            return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)


def _plain(parameter: Parameter) -> dict[str, Any]:
    return {"kind": type(parameter).__name__, **asdict(parameter)}


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidProblemError(f"a parameter is named {name!r}: pass a non-empty str")


def _check_range(name: str, low: float, high: float, log: bool) -> None:
    if not low <= high:
        raise InvalidProblemError(f"parameter {name!r}: low {low} is above high {high}; swap them")
    if log and low <= 0:
        raise InvalidProblemError(f"parameter {name!r}: low is {low}, but a log scale needs low > 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
