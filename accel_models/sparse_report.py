"""Mask-exact figures of a layer on a sparse array, beside those that its densities let expect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from accel_models.sparse_array import SparseCounts


@dataclass(frozen=True)
class SparseReport:
    """Counts of the lanes.

    Attributes
    ----------
    exact
        From the masks of weights and inputs (what has a density alone is drawn), the mean over captured runs; None: no
        mask is known that the lanes could make something of.
    expected
        Mean over random masks of the same structure or density.
    standard_error
        Of the expected cycles; 0: closed form.
    run_cycles
        Mask-exact cycles of every captured run; empty without captured inputs.
    """

    exact: SparseCounts | None
    expected: SparseCounts
    standard_error: float
    run_cycles: tuple[float, ...] = ()

    @property
    def used(self) -> SparseCounts:
        """What the layer costs: the exact counts where there are any."""
        return self.expected if self.exact is None else self.exact

    @property
    def balanced_cycles(self) -> float:
        """What densities alone tell: every lane with its fair share, no conflicts, no metadata."""
        return self.expected.ideal_cycles + self.expected.fragmentation_cycles

    @property
    def over_balanced_cycles(self) -> float:
        """Cycles beyond those of perfect balance: imbalance, bank conflicts, metadata and fill."""
        return self.used.cycles - self.balanced_cycles

    @property
    def over_expected_cycles(self) -> float | None:
        """What the actual mask costs beyond the mean of random ones; None without a mask."""
        return None if self.exact is None else self.exact.cycles - self.expected.cycles

    def to_dict(self) -> dict[str, Any]:
        return {
            "exact": None if self.exact is None else _counts(self.exact),
            "expected": {**_counts(self.expected), "standard_error": self.standard_error},
            "run_cycles": list(self.run_cycles),
            "balanced_cycles": self.balanced_cycles,
            "imbalance_cycles": self.used.imbalance_cycles,
            "over_balanced_cycles": self.over_balanced_cycles,
            "over_expected_cycles": self.over_expected_cycles,
        }


def _counts(counts: SparseCounts) -> dict[str, float]:
    return {"cycles": counts.cycles, **asdict(counts)}
