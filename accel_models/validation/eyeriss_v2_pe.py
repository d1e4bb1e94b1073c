"""Comparison with the cycles of an Eyeriss v2 PE on point-wise layers of MobileNet, from densities.

The PE walks, for every non-zero input, the non-zeros of its column of weights, one a cycle; both operands are in CSC
and cost no cycle of their own. On the masks of the reference this gives its cycles exactly, layer by layer; from
densities alone the model knows no correlation between busy channels of inputs and of weights, which is what its error
is. Nothing is fitted to rows.
"""

from __future__ import annotations

from pathlib import Path

from accel_models.sparse_array import SparseShape
from accel_models.sparse_expectation import expected_counts
from accel_models.sparse_machines import EYERISS_V2_PE
from accel_models.validation.data import reference_file
from accel_models.validation.result import Figures, ValidationResult, summarize
from accel_models.validation.table import read_numbers

NAME = "eyeriss_v2_pe"
SOURCE = (
    "Wu et al., Sparseloop, MICRO 2022, Fig. 12 (figures: Accelergy-Project/micro22-sparseloop-artifact, "
    "fig12_eyerissv2_pe_setup; cycle-level counts on actual masks)"
)
BAR = 0.035
"""Mean error, that of Sparseloop on these layers."""
SIZES = ("M", "C", "E", "F", "R", "S", "N", "G")
COLUMNS = (*SIZES, "density_inputs", "density_weights", "ground_truth_cycles")


def validate(path: Path | None = None, cases: int | None = 20) -> ValidationResult:
    """Compare the cycles of every layer; the mean error must not exceed `BAR`.

    Parameters
    ----------
    path : Path, optional
        A CSV file with the columns layer and `COLUMNS`; by default the one beside the project.
    cases : int or None
        Cases to keep, the worst first; None: all.

    Raises
    ------
    InvalidInputError
        No such file, or a missing or unreadable field; names file and line.
    """
    rows = read_numbers(reference_file("published/eyeriss_v2_pe_mobilenet.csv", SOURCE, path), "layer", COLUMNS)
    figures = Figures(
        quantity="cycles",
        cases=[name for name, _ in rows],
        reference=[row["ground_truth_cycles"] for _, row in rows],
        model=[layer_cycles(row) for _, row in rows],
    )
    return summarize(NAME, SOURCE, [figures], passed=figures.compare().mean_abs_error <= BAR, cases=cases)


def layer_cycles(row: dict[str, float]) -> float:
    """Expected cycles of one layer; M, C per group, E x F outputs, R x S filters, N images, G groups."""
    size = {name: int(row[name]) for name in SIZES}
    shape = SparseShape(
        outputs=size["M"],
        pixels=size["N"] * size["E"] * size["F"],
        reduction=size["C"] * size["R"] * size["S"],
        groups=size["G"],
    )
    return expected_counts(EYERISS_V2_PE, shape, row["density_weights"], row["density_inputs"]).counts.cycles
