"""What a comparison with a reference set says: the same form for every set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel_models.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class Case:
    """One figure of the reference and the model's."""

    case: str
    quantity: str
    reference: float
    model: float
    relative_error: float
    """(model - reference) / reference."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One quantity over all rows of a set: errors are relative, of the absolute value."""

    quantity: str
    exact_share: float
    mean_abs_error: float
    median_abs_error: float
    max_abs_error: float
    rank_correlation: float
    """Spearman's; NaN where all values are equal."""


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """A set in one line, its quantities in one line each, and cases.

    The line of a set shows, for each statistic, the worst of its quantities; `exact_share` looks only at those of which
    equality is expected (counts), NaN where there are none.
    """

    set: str
    source: str
    rows: int
    exact_share: float
    mean_abs_error: float
    median_abs_error: float
    max_abs_error: float
    rank_correlation: float
    passed: bool
    quantities: tuple[Comparison, ...]
    cases: tuple[Case, ...]
    """The worst first, at most as many as asked for."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Reference and model values of one quantity, one of each for every named case."""

    quantity: str
    cases: Sequence[str]
    reference: ArrayLike
    model: ArrayLike
    exact: bool = False
    """Whether equality is expected."""

    def __post_init__(self) -> None:
        sizes = len(self.cases), np.size(self.reference), np.size(self.model)
        if len(set(sizes)) > 1 or sizes[0] == 0:
            raise InvalidInputError(f"{self.quantity}: {sizes} cases, reference and model values; give one each")

    @property
    def relative_errors(self) -> NDArray[np.float64]:
        """Signed; 0 where both are 0, infinite where only the reference is."""
        reference, model = np.asarray(self.reference, np.float64), np.asarray(self.model, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = (model - reference) / np.abs(reference)
        return np.where(model == reference, 0.0, errors)

    def compare(self) -> Comparison:
        errors = np.abs(self.relative_errors)
        return Comparison(
            quantity=self.quantity,
            exact_share=float(np.mean(np.asarray(self.reference) == np.asarray(self.model))),
            mean_abs_error=float(errors.mean()),
            median_abs_error=float(np.median(errors)),
            max_abs_error=float(errors.max()),
            rank_correlation=rank_correlation(self.reference, self.model),
        )

    def case(self, i: int) -> Case:
        return Case(
            case=self.cases[i],
            quantity=self.quantity,
            reference=np.asarray(self.reference)[i].item(),
            model=np.asarray(self.model)[i].item(),
            relative_error=float(self.relative_errors[i]),
        )


def summarize(
    name: str, source: str, figures: Sequence[Figures], *, passed: bool, cases: int | None = 20
) -> ValidationResult:
    """The result of a set from its quantities; `cases` limits how many are kept, None keeps all."""
    quantities = tuple(f.compare() for f in figures)
    counted = [q.exact_share for q, f in zip(quantities, figures, strict=True) if f.exact]
    return ValidationResult(
        set=name,
        source=source,
        rows=max(len(f.cases) for f in figures),
        exact_share=min(counted, default=float("nan")),
        mean_abs_error=max(q.mean_abs_error for q in quantities),
        median_abs_error=max(q.median_abs_error for q in quantities),
        max_abs_error=max(q.max_abs_error for q in quantities),
        rank_correlation=min(q.rank_correlation for q in quantities),
        passed=passed,
        quantities=quantities,
        cases=_worst(figures, cases),
    )


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation, ties sharing their mean rank."""
    a, b = (_ranks(np.asarray(values, np.float64)) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0 else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2.0)[group]


def _worst(figures: Sequence[Figures], limit: int | None) -> tuple[Case, ...]:
    owners = [(f, i) for f in figures for i in range(len(f.cases))]
    errors = np.concatenate([np.abs(f.relative_errors) for f in figures])
    order = np.argsort(-errors, kind="stable")[:limit]
    return tuple(owners[i][0].case(owners[i][1]) for i in order)
