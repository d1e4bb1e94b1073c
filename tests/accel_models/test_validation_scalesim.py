"""`cosim validate scalesim`: every reported figure equal, and no figure passes that is not."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from accel_models.errors import InvalidInputError
from accel_models.validation import SETS
from accel_models.validation.scalesim import NAME, validate

pytestmark = pytest.mark.validation
DENSE, SPARSE = "tiny__8x8_ws_calc4", "sparsity_conv__8x8_os_2to4_lw"


@pytest.fixture
def reference(shared: Path) -> Path:
    return shared / "reference" / "scalesim"


def test_all_layers_of_all_sets_are_exact(reference: Path):
    result = SETS[NAME](reference, cases=None)
    assert len([path for path in reference.iterdir() if path.is_dir()]) == 17
    assert result.rows == 42
    assert result.passed
    assert result.exact_share == 1.0
    assert result.max_abs_error == result.mean_abs_error == 0.0
    assert [quantity.exact_share for quantity in result.quantities] == [1.0] * 6
    assert {case.case.split("/")[0] for case in result.cases} == {path.name for path in reference.iterdir()}


def test_the_json_holds_every_field_of_the_contract(reference: Path):
    data = validate(reference).to_json()
    assert set(data) >= {
        "set", "source", "rows", "exact_share", "mean_abs_error", "median_abs_error", "max_abs_error",
        "rank_correlation", "passed", "cases",
    }  # fmt: skip
    assert set(data["cases"][0]) == {"case", "quantity", "reference", "model", "relative_error"}
    assert len(data["cases"]) == 20


def test_one_run_can_be_compared_alone(reference: Path):
    result = validate(reference / SPARSE)
    assert (result.rows, result.passed) == (1, True)


def copied(reference: Path, run: str, folder: Path) -> Path:
    shutil.copytree(reference / run, folder / run)
    return folder


def edit(path: Path, column: str, change) -> None:
    """Replace the first row's value of one column; `change` None drops the column."""
    with path.open(newline="") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    place = rows[0].index(column)
    for number, row in enumerate(rows):
        if change is None:
            del row[place]
        elif number == 1:
            row[place] = change(row[place])
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")


FIGURES = [
    (DENSE, "COMPUTE_REPORT.csv", "Total Cycles"),
    (DENSE, "COMPUTE_REPORT.csv", "Stall Cycles"),
    (DENSE, "COMPUTE_REPORT.csv", "Mapping Efficiency %"),
    (DENSE, "DETAILED_ACCESS_REPORT.csv", "SRAM IFMAP Reads"),
    (DENSE, "DETAILED_ACCESS_REPORT.csv", "SRAM Filter Reads"),
    (DENSE, "DETAILED_ACCESS_REPORT.csv", "SRAM OFMAP Writes"),
    (SPARSE, "SPARSE_REPORT.csv", "New Storage (Filter+Metadata)"),
]


@pytest.mark.parametrize(("run", "report", "column"), FIGURES)
def test_one_figure_off_by_one_does_not_pass(run: str, report: str, column: str, reference: Path, tmp_path: Path):
    root = copied(reference, run, tmp_path)
    assert validate(root).passed
    edit(root / run / report, column, lambda text: str(float(text) + 1))
    result = validate(root)
    assert not result.passed
    assert result.exact_share < 1
    assert result.cases[0].relative_error != 0
    assert result.cases[0].case.startswith(run)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_figure_that_is_no_number_does_not_pass(value: str, reference: Path, tmp_path: Path):
    root = copied(reference, DENSE, tmp_path)
    edit(root / DENSE / "COMPUTE_REPORT.csv", "Total Cycles", lambda _: value)
    assert not validate(root).passed


@pytest.mark.parametrize(("run", "report", "column"), FIGURES)
def test_a_missing_column_is_named_with_its_file(run: str, report: str, column: str, reference: Path, tmp_path: Path):
    root = copied(reference, run, tmp_path)
    edit(root / run / report, column, None)
    with pytest.raises(InvalidInputError) as caught:
        validate(root)
    assert str(root / run / report) in str(caught.value)
    assert repr(column) in str(caught.value)


@pytest.mark.parametrize(("run", "report", "column"), FIGURES)
def test_a_value_that_cannot_be_read_is_named(run: str, report: str, column: str, reference: Path, tmp_path: Path):
    root = copied(reference, run, tmp_path)
    edit(root / run / report, column, lambda _: "many")
    with pytest.raises(InvalidInputError) as caught:
        validate(root)
    assert all(word in str(caught.value) for word in (report, repr(column), "'many'"))


@pytest.mark.parametrize("report", ["COMPUTE_REPORT.csv", "DETAILED_ACCESS_REPORT.csv"])
def test_reports_and_layers_that_do_not_match_are_refused(report: str, reference: Path, tmp_path: Path):
    root = copied(reference, DENSE, tmp_path)
    path = root / DENSE / report
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(InvalidInputError, match=r"5 layers, .*report rows"):
        validate(root)


def test_a_sparse_report_of_other_rows_is_refused(reference: Path, tmp_path: Path):
    root = copied(reference, SPARSE, tmp_path)
    path = root / SPARSE / "SPARSE_REPORT.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(InvalidInputError, match=r"1 layers, 2 rows in SPARSE_REPORT\.csv"):
        validate(root)


def test_a_sparse_report_for_a_dense_layer_is_refused(reference: Path, tmp_path: Path):
    root = copied(reference, SPARSE, tmp_path)
    topology = root / SPARSE / "topology.csv"
    topology.write_text(topology.read_text().replace("2:4", ""))
    with pytest.raises(InvalidInputError, match=r"'CONV_1' .* has no sparsity"):
        validate(root)


@pytest.mark.parametrize("name", ["config.cfg", "topology.csv", "DETAILED_ACCESS_REPORT.csv"])
def test_an_absent_file_is_named(name: str, reference: Path, tmp_path: Path):
    root = copied(reference, DENSE, tmp_path)
    (root / DENSE / name).unlink()
    with pytest.raises(InvalidInputError, match=f"{name}: cannot be read"):
        validate(root)


def test_a_folder_without_runs_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"holds no folder with a COMPUTE_REPORT\.csv"):
        validate(tmp_path)
    with pytest.raises(InvalidInputError, match=r"no such reference data; .* name a copy with --data"):
        validate(tmp_path / "absent")
