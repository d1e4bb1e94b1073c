"""Numbers for people: a unit in which the values of a run read well, and three significant digits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

LADDERS: dict[str, tuple[tuple[str, float], ...]] = {
    "pJ": (("pJ", 1.0), ("nJ", 1e-3), ("µJ", 1e-6), ("mJ", 1e-9), ("J", 1e-12)),
    "ms": (("ns", 1e6), ("µs", 1e3), ("ms", 1.0), ("s", 1e-3)),
    "cycles": (("cycles", 1.0), ("thousand cycles", 1e-3), ("million cycles", 1e-6)),
    "B": (("B", 1.0), ("KiB", 2.0**-10), ("MiB", 2.0**-20), ("GiB", 2.0**-30)),
    "MAC": (("", 1.0), ("thousand", 1e-3), ("million", 1e-6), ("billion", 1e-9)),
}
"""Stored unit → units to show, small to large, each with shown = stored × factor."""


@dataclass(frozen=True)
class Scale:
    """A unit to show and the factor that leads to it from the stored unit."""

    unit: str
    factor: float = 1.0

    def text(self, value: float | None) -> str:
        """The value with its unit, "–" for None."""
        return "–" if value is None else f"{digits(value * self.factor)} {self.unit}".rstrip()


PERCENT = Scale("%", 100.0)
MM2 = Scale("mm²")


def scale_for(values: Iterable[float | None], stored: str) -> Scale:
    """The largest unit that suits the values; the stored unit where no ladder is known.

    A unit suits when the median is at least 1, or when the largest is and none is below 0.1: 0.5 to 2.6 µJ reads better
    than 504 to 2621 nJ.
    """
    known = sorted(value for value in values if value is not None and value > 0)
    ladder = LADDERS.get(stored, ((stored, 1.0),))
    if not known:
        return next(Scale(unit, factor) for unit, factor in ladder if factor == 1.0)
    low, middle, high = known[0], median(known), known[-1]
    fitting = [Scale(u, f) for u, f in ladder if middle * f >= 1.0 or (low * f >= 0.1 and high * f >= 1.0)]
    return fitting[-1] if fitting else Scale(*ladder[0])


def digits(value: float) -> str:
    """Three significant digits without an exponent between 0.001 and 10 million; thousands kept whole."""
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -4 < magnitude < 7:
        return f"{value:.2e}"
    if magnitude >= 3:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{max(0, 2 - magnitude)}f}"


def percent(value: float | None) -> str:
    """A share in [0, 1] as a percentage with one decimal, "–" for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def percent_sd(mean: float | None, sd: float | None) -> str:
    """Mean ± standard deviation of a share in [0, 1] as a percentage."""
    if mean is None or sd is None:
        return percent(mean)
    return f"{100 * mean:.1f} ± {100 * sd:.1f} %"
