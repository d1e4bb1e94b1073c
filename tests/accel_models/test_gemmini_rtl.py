"""The comparison with RTL: how rows are read, what the measuring program runs, and the bars where the data is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from accel_models.errors import InvalidInputError
from accel_models.tile_pipeline import TILE_DIMS
from accel_models.validation import gemmini_rtl
from accel_models.validation.data import reference_folder
from accel_models.validation.gemmini_rtl import order_figures, read_rtl, tile_plan, validate

DATA = reference_folder() / "gemmini_rtl" / "public.csv"
present = pytest.mark.skipif(not DATA.exists(), reason=f"reference data absent: {DATA}")

HEADER = (
    "mapping.mapping,prob.C,prob.Hstride,prob.K,prob.N,prob.P,prob.Q,prob.R,prob.S,prob.Wstride,target.gemmini_cycle"
)
CONVOLUTION = "L3[WIO] Q2 P2 - L2[WI] K16X - L1[O] R3 S3 P4 C16X - L0[W] Q8,16,1,16,1,8,16,3,3,1,9000.0"
PRODUCT = "L3[WIO] K8 - L2[WI] N1 K16X - L1[O] C4 P8 C16X - L0[W] P16,64,1,128,1,128,1,1,1,1,8874.0"


def write(folder: Path, *rows: str) -> Path:
    path = folder / "rows.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def test_convolutions_run_on_a_padded_square_of_the_output_width(tmp_path: Path) -> None:
    (row,) = read_rtl(write(tmp_path, CONVOLUTION))
    plan = tile_plan(row)
    sizes = dict(zip(TILE_DIMS, plan.extents, strict=True))
    assert (row.shape.P, row.shape.Q) == (16, 8)  # Timeloop's P is a width
    assert (sizes["P"], sizes["Q"]) == (8, 8)
    assert plan.input_size == (8, 8)
    assert plan.padding == (1, 1)
    assert plan.order[-2:] == ("P", "Q")


def test_an_even_filter_makes_one_output_more(tmp_path: Path) -> None:
    text = CONVOLUTION.replace("R3 S3", "R2 S2").replace(",3,3,1,9000.0", ",2,2,1,9000.0")
    plan = tile_plan(read_rtl(write(tmp_path, text))[0])
    assert dict(zip(TILE_DIMS, plan.extents, strict=True))["Q"] == 9
    assert plan.tiles == 3 * 2


def test_one_output_row_with_a_1x1_filter_runs_as_a_matrix_product_in_whole_blocks(tmp_path: Path) -> None:
    plan = tile_plan(read_rtl(write(tmp_path, PRODUCT.replace("P8 C16X", "P8 C8X")))[0])
    assert plan.matrix
    assert dict(zip(TILE_DIMS, plan.tile, strict=True))["C"] == 32
    assert plan.tiles == 8 * 2


def test_the_order_of_pairs_counts_only_mappings_of_one_layer_that_differ(tmp_path: Path) -> None:
    rows = read_rtl(
        write(tmp_path, CONVOLUTION, CONVOLUTION.replace("9000", "9100"), CONVOLUTION.replace("9000", "18000"), PRODUCT)
    )
    order = order_figures(rows, [1.0, 2.0, 1.5, 9.0])
    assert order is not None
    assert list(order.cases) == ["lines 2 and 4", "lines 3 and 4"]
    assert np.asarray(order.model).tolist() == [1.0, 0.0]
    assert order_figures(rows[:2], [1.0, 2.0]) is None


def test_a_file_of_one_row_is_compared_without_pairs(tmp_path: Path) -> None:
    result = validate(write(tmp_path, PRODUCT))
    assert result.rows == 1
    assert [q.quantity for q in result.quantities] == ["cycles"]
    assert 0 < result.cases[0].model < 20_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PRODUCT.replace("8874.0", "-1"), "line 2: target.gemmini_cycle = '-1'"),
        (PRODUCT.replace("8874.0", "nan"), "line 2: target.gemmini_cycle"),
        (PRODUCT.replace(",64,1,", ",0,1,"), "line 2: prob.C = '0'"),
        (PRODUCT.replace("C4 P8", "C4 ?"), "line 2: mapping"),
        (PRODUCT + ",1", "line 2: the number of fields"),
        (PRODUCT.rsplit(",", 1)[0], "line 2: the number of fields"),
    ],
)
def test_rows_that_cannot_be_read_name_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message.replace("?", r"\?")):
        validate(write(tmp_path, text))


def test_a_missing_column_and_an_empty_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no rows"):
        validate(write(tmp_path))
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInputError, match=r"no column mapping\.mapping"):
        validate(path)
    with pytest.raises(InvalidInputError, match=r"absent\.csv"):
        validate(tmp_path / "absent.csv")


@present
@pytest.mark.validation
@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="too slow without compilation")
def test_the_public_rows_meet_the_bars() -> None:
    result = validate()
    assert result.rows == 99
    assert result.passed
    cycles, order = result.quantities
    assert cycles.mean_abs_error <= gemmini_rtl.ERROR_BAR
    assert cycles.rank_correlation >= gemmini_rtl.RANK_BAR
    assert order.exact_share >= gemmini_rtl.ORDER_BAR
    assert len(result.cases) == 20
