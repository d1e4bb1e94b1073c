"""What is searched for: objectives, constraints, and the value of one design."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search.errors import InvalidProblemError
from search.pareto import DIRECTIONS
from search.space import SearchSpace

Direction: TypeAlias = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Objective:
    """One quantity to minimize or maximize.

    Parameters
    ----------
    name, unit : str
    direction : "minimize" or "maximize"
    worst : float
        In ``unit``: the reference point of the hypervolume (a design no better than this adds nothing) and the value
        told for an infeasible design that has none.
    log : bool
        Measure the hypervolume in log10 of the value, so that halving an energy counts the same at every scale; values
        and ``worst`` must be > 0.
    """

    name: str
    direction: Direction
    unit: str
    worst: float
    log: bool = False

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise InvalidProblemError(
                f"objective {self.name!r}: direction {self.direction!r}; pass one of {DIRECTIONS}"
            )
        if not math.isfinite(self.worst) or (self.log and self.worst <= 0):
            raise InvalidProblemError(
                f"objective {self.name!r}: worst is {self.worst} {self.unit}; pass a finite number, > 0 with log"
            )

    def minimized(self, value: float) -> float:
        """The value on the scale of the hypervolume: log10 with ``log``, negated when maximized."""
        measured = math.log10(value) if self.log else float(value)
        return -measured if self.direction == "maximize" else measured


@dataclass(frozen=True)
class Constraint:
    """A limit every design has to keep; a violation is what exceeds it, in ``unit``, and ≤ 0 when kept."""

    name: str
    unit: str


@dataclass(frozen=True)
class Evaluation:
    """The value of one design.

    Parameters
    ----------
    objectives : tuple of float, or None
        One finite value per objective; None only for an infeasible design that was not scored.
    violations : tuple of float
        One finite value per constraint, in its unit; > 0 makes the design infeasible.
    info : mapping of str to JSON values
        Whatever else is worth keeping; stored as JSON (tuples become lists).

    Raises
    ------
    InvalidProblemError
        Values that are not finite; no objectives on a feasible design; info that is not JSON.
    """

    objectives: tuple[float, ...] | None
    violations: tuple[float, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.objectives is not None:
            object.__setattr__(self, "objectives", _finite("objectives", self.objectives))
        object.__setattr__(self, "violations", _finite("violations", self.violations))
        if self.objectives is None and self.feasible:
            raise InvalidProblemError(
                f"objectives are None with violations {self.violations}: only a violation > 0 allows that"
            )
        try:
            object.__setattr__(self, "info", json.loads(json.dumps(dict(self.info), allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise InvalidProblemError(
                f"info holds what JSON cannot ({error}): pass numbers, str, lists, dicts"
            ) from error

    @property
    def feasible(self) -> bool:
        """Whether no constraint is violated."""
        return all(violation <= 0 for violation in self.violations)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        objectives = None if self.objectives is None else list(self.objectives)
        return {"objectives": objectives, "violations": list(self.violations), "info": dict(self.info)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Evaluation":
        """Inverse of `to_json`."""
        objectives = data["objectives"]
        return cls(None if objectives is None else tuple(objectives), tuple(data["violations"]), data["info"])


def sorted_json(params: Mapping[str, Any]) -> str:
    """Default content key: the parameters as JSON with sorted names."""
    return json.dumps(dict(params), sort_keys=True)


@dataclass(frozen=True)
class Problem:
    """A space with objectives and constraints.

    Parameters
    ----------
    space : SearchSpace
    objectives : sequence of Objective
        At least one; names differ.
    constraints : sequence of Constraint
    canonical : callable, params → str, or None
        Content key of the design: parameter sets of one key are one evaluation. Default: the parameters themselves.
    identity : str
        What the evaluation depends on besides the parameters (data, fidelity, versions; for example a digest); compared
        on resume.
    initial : sequence of mapping
        Some or all parameters of the first trials, for what is known to be worth trying; others are drawn at random.
        The sampler "random" does without.
    improve : callable, (params, numpy Generator) → params, or None
        Genetic samplers pass every child through it before it is asked: a cheap local search over what needs no
        evaluation. It must depend on its arguments alone, and return parameters of the space.
    """

    space: SearchSpace
    objectives: Sequence[Objective]
    constraints: Sequence[Constraint] = ()
    canonical: Callable[[dict[str, Any]], str] | None = None
    identity: str = ""
    initial: Sequence[Mapping[str, Any]] = ()
    improve: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", tuple(dict(params) for params in self.initial))
        for params in self.initial:
            self.space.validate_some(params)
        object.__setattr__(self, "objectives", tuple(self.objectives))
        object.__setattr__(self, "constraints", tuple(self.constraints))
        if not self.objectives:
            raise InvalidProblemError("a problem needs at least one objective")
        for kind, names in (
            ("objectives", [objective.name for objective in self.objectives]),
            ("constraints", [constraint.name for constraint in self.constraints]),
        ):
            if len(set(names)) != len(names):
                raise InvalidProblemError(f"{kind} are named {names}: give each a name of its own")

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Direction of each objective."""
        return tuple(objective.direction for objective in self.objectives)

    @property
    def reference(self) -> NDArray[np.float64]:
        """Reference point [objectives] on the scale of the hypervolume (minimized, log10 where asked)."""
        return np.array([objective.minimized(objective.worst) for objective in self.objectives])

    def key(self, params: Mapping[str, Any]) -> str:
        """Content key of the design with these parameters."""
        return (self.canonical or sorted_json)(dict(params))

    def minimized(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Objective values [objectives] on the scale of the hypervolume (minimized, log10 where asked)."""
        return np.array([o.minimized(value) for o, value in zip(self.objectives, values, strict=True)])

    def told(self, evaluation: Evaluation) -> list[float]:
        """Objective values for the sampler: as evaluated, or the worst of each where there are none."""
        if evaluation.objectives is not None:
            return list(evaluation.objectives)
        return [float(objective.worst) for objective in self.objectives]

    def check(self, evaluation: object) -> None:
        """Check that a value is an Evaluation of this problem.

        Raises
        ------
        InvalidProblemError
            Another type, another number of objectives or constraints, or a value ≤ 0 of an objective with ``log``.
        """
        if not isinstance(evaluation, Evaluation):
            raise InvalidProblemError(f"evaluate returned a {type(evaluation).__name__}: return an Evaluation")
        if len(evaluation.violations) != len(self.constraints):
            raise InvalidProblemError(
                f"evaluation has {len(evaluation.violations)} violations for {len(self.constraints)} constraints "
                f"{[constraint.name for constraint in self.constraints]}: return one each"
            )
        if evaluation.objectives is None:
            return
        if len(evaluation.objectives) != len(self.objectives):
            raise InvalidProblemError(
                f"evaluation has {len(evaluation.objectives)} values for {len(self.objectives)} objectives "
                f"{[objective.name for objective in self.objectives]}: return one each"
            )
        for objective, value in zip(self.objectives, evaluation.objectives, strict=True):
            if objective.log and value <= 0:
                raise InvalidProblemError(
                    f"objective {objective.name!r} is {value} {objective.unit}, but log needs > 0: correct the value, "
                    "or measure this objective without log"
                )


def _finite(what: str, values: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not all(math.isfinite(number) for number in numbers):
        raise InvalidProblemError(f"{what} are {numbers}: every value must be finite")
    return numbers
