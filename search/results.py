"""What a search found: every trial, the front, the hypervolume over the trials."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from search.pareto import hypervolume_history, non_dominated
from search.problem import Evaluation, Problem

State: TypeAlias = Literal["complete", "duplicate", "infeasible", "crashed"]


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Parameters
    ----------
    number : int
        From 0, in the order of asking.
    params : mapping
        Values of the space's parameters.
    key : str
        Content key of the design.
    state : str
        "complete", "infeasible" or "crashed" after an evaluation of its own; "duplicate" when an earlier trial had the
        key.
    evaluation : Evaluation or None
        None when the evaluation of this key crashed.
    error : str or None
        Traceback of a crash; for the duplicate of a crashed design, the number of that trial.
    seconds : float
        Wall time of the evaluation; 0 for a duplicate; not compared.
    """

    number: int
    params: Mapping[str, Any]
    key: str
    state: State
    evaluation: Evaluation | None
    error: str | None = None
    seconds: float = field(default=0.0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        evaluation = None if self.evaluation is None else self.evaluation.to_json()
        return {
            "number": self.number,
            "params": dict(self.params),
            "key": self.key,
            "state": self.state,
            "evaluation": evaluation,
            "error": self.error,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TrialRecord":
        """Inverse of `to_json`."""
        evaluation = data["evaluation"]
        return cls(**{**data, "evaluation": None if evaluation is None else Evaluation.from_json(evaluation)})


@dataclass(frozen=True)
class SearchResult:
    """All trials of one search, by number."""

    problem: Problem
    sampler: str
    seed: int
    trials: tuple[TrialRecord, ...]

    def counts(self) -> dict[str, int]:
        """Number of trials per state, every state named."""
        found = Counter(record.state for record in self.trials)
        return {state: found[state] for state in get_args(State)}

    def front(self) -> tuple[TrialRecord, ...]:
        """Feasible, non-dominated, distinct designs, ascending in the first objective.

        Of designs with equal objectives the earliest is kept.
        """
        candidates = [record for record in self.trials if record.state == "complete"]
        mask = non_dominated([_objectives(record) for record in candidates], self.problem.directions)
        kept = [record for record, keep in zip(candidates, mask, strict=True) if keep]
        return tuple(sorted(kept, key=lambda record: (_objectives(record), record.number)))

    def hypervolume_history(self) -> NDArray[np.float64]:
        """Hypervolume after each trial, below the objectives' ``worst``; infeasible and crashed trials add nothing.

        Returns
        -------
        float64 array [trials]
            In the product of the objectives' units, decades for objectives with ``log``.
        """
        reference = self.problem.reference
        points = np.full((len(self.trials), len(reference)), np.nan)
        for index, record in enumerate(self.trials):
            if record.state == "complete":
                points[index] = self.problem.minimized(_objectives(record))
        return hypervolume_history(points, reference)


def _objectives(record: TrialRecord) -> tuple[float, ...]:
    if record.evaluation is None or record.evaluation.objectives is None:
        raise AssertionError(f"complete trial {record.number} without objectives")
    return record.evaluation.objectives
