"""Problems with known fronts, to test searches with.

Sources: ZDT1, ZDT2: Zitzler, Deb, Thiele 2000 (Evolutionary Computation 8, 2); DTLZ2: Deb, Thiele, Laumanns, Zitzler
2002 (CEC). Hypervolumes are integrals of the fronts' formulas.
"""

import math
from dataclasses import dataclass
from typing import Any

from search.problem import Constraint, Evaluation, Objective, Problem
from search.space import Integer, Parameter, Real, SearchSpace

WORST = 11.0
"""Reference value of every objective here: above all values that the problems can take with up to 30 parameters."""


@dataclass(frozen=True)
class ZDT:
    """ZDT1 (convex front f2 = 1 - √f1) or ZDT2 (concave front f2 = 1 - f1²), 0 ≤ f1 ≤ 1.

    Parameters
    ----------
    exponent : float
        0.5 for ZDT1, 2 for ZDT2.
    parameters : int
        >= 2.
    levels : int or None
        Integers 0 … levels - 1 on an even grid instead of real parameters, so that designs repeat.
    least : float
        Constraint f1 >= least; designs below it are infeasible and have no objectives. 0: no constraint.
    """

    exponent: float = 0.5
    parameters: int = 5
    levels: int | None = None
    least: float = 0.0

    @property
    def problem(self) -> Problem:
        """The problem that this object evaluates."""
        objectives = [Objective(name, "minimize", "1", WORST) for name in ("f1", "f2")]
        constraints = [Constraint("f1", "1")] if self.least else []
        return Problem(SearchSpace([self._parameter(i) for i in range(self.parameters)]), objectives, constraints)

    def __call__(self, params: dict[str, Any]) -> Evaluation:
        """Evaluate the parameters."""
        scale = 1 if self.levels is None else self.levels - 1
        x = [params[f"x{i}"] / scale for i in range(self.parameters)]
        violations = (self.least - x[0],) if self.least else ()
        if self.least > x[0]:
            return Evaluation(None, violations)
        g = 1 + 9 * sum(x[1:]) / (self.parameters - 1)
        return Evaluation((x[0], g * (1 - (x[0] / g) ** self.exponent)), violations)

    def front_hypervolume(self) -> float:
        """Hypervolume of the whole front with real parameters below (WORST, WORST)."""
        e, a = self.exponent, self.least
        beyond = (WORST - 1) * WORST
        return beyond + (1 - a) * (WORST - 1) + (1 - a ** (e + 1)) / (e + 1)

    def _parameter(self, index: int) -> Parameter:
        name = f"x{index}"
        return Real(name, 0.0, 1.0) if self.levels is None else Integer(name, 0, self.levels - 1)


@dataclass(frozen=True)
class DTLZ2:
    """DTLZ2 with three objectives: the front is the part of the unit sphere with all coordinates >= 0."""

    parameters: int = 7

    @property
    def problem(self) -> Problem:
        """The problem that this object evaluates."""
        space = SearchSpace([Real(f"x{i}", 0.0, 1.0) for i in range(self.parameters)])
        return Problem(space, [Objective(name, "minimize", "1", WORST) for name in ("f1", "f2", "f3")])

    def __call__(self, params: dict[str, Any]) -> Evaluation:
        """Evaluate the parameters."""
        first, second, *rest = (params[f"x{i}"] for i in range(self.parameters))
        radius = 1 + sum((value - 0.5) ** 2 for value in rest)
        a, b = first * math.pi / 2, second * math.pi / 2
        values = (math.cos(a) * math.cos(b), math.cos(a) * math.sin(b), math.sin(a))
        return Evaluation(tuple(max(radius * value, 0.0) for value in values))

    def front_hypervolume(self) -> float:
        """Hypervolume of the whole front below (WORST, WORST, WORST): the cube without an eighth of the unit ball."""
        return WORST**3 - math.pi / 6
