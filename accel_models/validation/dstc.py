"""Comparison with the dual-side sparse tensor core on a product of 4096 x 4096 matrices at 9 pairs of densities.

Mechanism: outer products of condensed vectors, 8 values of A by 16 of B a cycle (the array of 128 multipliers of the
reference). Vectors are condensed inside a tile of 128 B, 64 values of 16 bit, and a started vector takes a whole cycle;
every vector of B that meets a non-zero A takes one cycle more, in which it and its bitmap are fetched and latched
(assumed: the paper gives no such figure; dense matrices pay it too, as the reference's own time at density 1 is the
unit). Assumed as well: zeros are independent, tensor cores do not wait for each other or for memory.
"""

from __future__ import annotations

from pathlib import Path

from accel_models.sparse_array import SparseShape
from accel_models.sparse_expectation import expected_counts
from accel_models.sparse_machines import DSTC
from accel_models.validation.data import reference_file
from accel_models.validation.result import Figures, ValidationResult, summarize
from accel_models.validation.table import read_numbers

NAME = "dstc"
SOURCE = (
    "Wang et al., Dual-side Sparse Tensor Core, ISCA 2021, Fig. 21 (figures: "
    "Accelergy-Project/micro22-sparseloop-artifact, fig13_dstc_setup, read from the figure)"
)
BAR = 0.05
"""Mean error; Sparseloop has 0.068."""
SHAPE = SparseShape(outputs=4096, pixels=4096, reduction=4096)
COLUMNS = ("A_density", "B_density", "dstc_norm")


def validate(path: Path | None = None, cases: int | None = 20) -> ValidationResult:
    """Compare the time of every pair of densities, as a share of the dense time; the mean error must be within `BAR`.

    Parameters
    ----------
    path : Path, optional
        A CSV file with the columns `COLUMNS`; by default the one beside the project.
    cases : int or None
        Cases to keep, the worst first; None: all.

    Raises
    ------
    InvalidInputError
        No such file, or a missing or unreadable field; names file and line.
    """
    rows = read_numbers(reference_file("published/dstc_fig13.csv", SOURCE, path), None, COLUMNS)
    figures = Figures(
        quantity="latency_over_dense",
        cases=[name for name, _ in rows],
        reference=[row["dstc_norm"] for _, row in rows],
        model=[latency_over_dense(row["A_density"], row["B_density"]) for _, row in rows],
    )
    return summarize(NAME, SOURCE, [figures], passed=figures.compare().mean_abs_error <= BAR, cases=cases)


def latency_over_dense(a_density: float, b_density: float) -> float:
    """Time at these densities over the time of dense matrices; A is the input, B the weight."""
    dense = expected_counts(DSTC, SHAPE, 1.0, 1.0).counts.cycles
    return expected_counts(DSTC, SHAPE, b_density, a_density).counts.cycles / dense
