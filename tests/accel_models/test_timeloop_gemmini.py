"""Timeloop's conventions: its strings, a worked example, and all rows of the data set where it is at hand."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from accel_models.errors import InvalidInputError
from accel_models.importers.timeloop import DosaRow, format_mapping, parse_mapping, read_dosa
from accel_models.loopnest import count_accesses, count_batch
from accel_models.mapping import Loop, LoopShape
from accel_models.validation import timeloop_gemmini
from accel_models.validation.data import reference_folder
from accel_models.validation.result import Figures, rank_correlation, summarize

DATA = reference_folder() / "timeloop_gemmini" / "public.csv.gz"
present = pytest.mark.skipif(not DATA.exists(), reason=f"reference data absent: {DATA}")

EXAMPLE = "L3[WIO] P14 K16 C64 Q8 - L2[WI] N1 K4X - L1[O] K4 C2 Q7 P2 - L0[W] P2"
HEADER = (
    "target.cycle,target.energy,mapping.mapping,arch.meshX,arch.mem1_entries,arch.mem1_word-bits,"
    "arch.mem1_shared_bandwidth,arch.mem2_entries,arch.mem2_word-bits,arch.mem2_width,arch.mem2_shared_bandwidth,"
    "prob.N,prob.K,prob.C,prob.P,prob.Q,prob.R,prob.S,prob.Hstride,prob.Wstride,prob.Hdilation,prob.Wdilation"
)
ROW = f"32012288,11525.1,{EXAMPLE},32,128,32,2,2048,8,256,64,1,256,128,56,56,1,1,1,1,1,1"


def test_a_mapping_string_is_read_and_written_alike() -> None:
    mapping = parse_mapping(EXAMPLE)
    assert [sorted(level.holds) for level in mapping.levels] == [
        ["input", "output", "weight"],
        ["input", "weight"],
        ["output"],
        ["weight"],
    ]
    assert mapping.loops[1] == (Loop("N", 1), Loop("K", 4, True))
    assert format_mapping(mapping) == EXAMPLE


def test_timeloops_widths_are_not_taken_for_heights() -> None:
    assert parse_mapping("L[WIO] P2 Q3 R5 S7").loops[0] == (
        Loop("Q", 2),
        Loop("P", 3),
        Loop("S", 5),
        Loop("R", 7),
    )


def test_strides_and_non_square_layers_change_axes_together(tmp_path: Path) -> None:
    row = ROW.replace("56,56,1,1,1,1,1,1", "8,6,5,3,2,4,1,1").replace(EXAMPLE, "L3[WIO] P8 - L2[WI] - L1[O] - L0[W]")
    (read,) = read_dosa(write(tmp_path, row))
    assert read.shape == LoopShape(K=256, C=128, P=6, Q=8, R=3, S=5, stride=(2, 4))


def test_worked_example_of_an_accumulator() -> None:
    """558.25 words a tile and column: 224 updates, 222.25 reads, 112 fills; 14 x 16 x 64 x 8 tiles, 4 columns."""
    counts = count_accesses(LoopShape(K=256, C=128, P=56, Q=56), parse_mapping(EXAMPLE), "timeloop")
    sums = counts.level("L1").operands["output"]
    tiles, columns = 14 * 16 * 64 * 8, 4
    assert sums.updates == 224 * tiles * columns
    assert sums.sends == 222.25 * tiles * columns
    assert sums.fills == 112 * tiles * columns
    assert (counts.mac_units, counts.steps) == (columns, 224 * tiles)


def test_cycles_of_the_worked_example(tmp_path: Path) -> None:
    result = timeloop_gemmini.validate(write(tmp_path, ROW), cases=None)
    cycles, energy = sorted(result.cases, key=lambda case: case.quantity)
    assert (cycles.reference, cycles.model) == (32012288, 32012288)
    assert energy.model == pytest.approx(11525.1, rel=1e-5)
    assert result.passed
    assert json.loads(json.dumps(result.to_json()))["set"] == "timeloop_gemmini"


def test_the_default_convention_never_moves_more_partial_sums_than_timeloop() -> None:
    shape = LoopShape(K=256, C=128, P=56, Q=56)
    exact, theirs = (count_accesses(shape, parse_mapping(EXAMPLE), c) for c in ("exact", "timeloop"))
    a, b = exact.level("L1").operands["output"], theirs.level("L1").operands["output"]
    assert b.fills - a.fills == shape.words("output"), "the first fill of every output is free"
    assert (a.sends, a.updates) == (b.sends, b.updates)


def test_timeloop_counts_boxes_and_resets_a_window_that_paused() -> None:
    """P windows of 3 rows: in one run the overlap is kept; a loop over K inside resets it at every step."""
    shape = LoopShape(P=5, K=2, R=3)
    for text, fills in (("Q5", 3 + 4 * 1), ("Q5 K2", 5 * 3)):
        tail = "" if "K" in text else " K2"
        mapping = parse_mapping(f"L3[WIO] {text} - L2[WI] S3{tail} - L1[O] N1 - L0[W] N1")
        counts = count_accesses(shape, mapping, "timeloop")
        assert counts.level("L2").operands["input"].fills == fills
    strided = LoopShape(P=4, stride=(3, 1))
    boxed = count_accesses(strided, parse_mapping("L3[WIO] N1 - L2[WI] Q4 - L1[O] - L0[W]"), "timeloop")
    assert boxed.level("L2").operands["input"].tile_words == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("L3 P2", "'L3' is no level"),
        ("L3[WIO] Z2", "'Z2' is no loop"),
        ("L3[WIO] K", "'K' is no loop"),
        ("L3[WIO] K0", "factor of the loop over K = 0"),
        ("", "'' is no level"),
    ],
)
def test_a_mapping_that_cannot_be_read_names_the_part(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse_mapping(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("32012288", "many", r"line 2: target.cycle = 'many'"),
        ("11525.1", "nan", r"line 2: target.energy = 'nan'"),
        ("1,256,128", "1,-256,128", r"line 2: prob.K = '-256'"),
        (",56,56", ",56", r"line 2: 21 fields, the header has 22"),
        ("L2[WI]", "L2[WO]", r"line 2: mapping.mapping.*must hold WIO - WI - O - W"),
        ("K16", "K8", r"row 2: dimension K = 256 but its factors .* give 128"),
    ],
)
def test_a_row_that_cannot_be_used_names_file_line_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"rows\.csv.*{message}"):
        timeloop_gemmini.validate(write(tmp_path, ROW.replace(old, new, 1)))


def test_a_missing_column_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(HEADER.replace("prob.K,", "") + "\n")
    with pytest.raises(InvalidInputError, match=r"no column prob\.K"):
        read_dosa(path)
    with pytest.raises(InvalidInputError, match=r"absent\.csv: no such reference data; it comes from .*dosa"):
        timeloop_gemmini.validate(tmp_path / "absent.csv")
    path.write_text(HEADER + "\n")
    with pytest.raises(InvalidInputError, match="no rows"):
        timeloop_gemmini.validate(path)


@present
@pytest.mark.validation
def test_every_cycle_count_and_energy_of_the_public_rows() -> None:
    result = timeloop_gemmini.validate(DATA)
    assert result.rows == 34112
    assert result.exact_share == 1.0
    assert result.mean_abs_error <= 1e-6
    assert result.max_abs_error <= 1e-5, "the energy column is printed with six decimals"
    assert result.passed
    assert len(result.cases) == 20


@present
@pytest.mark.validation
def test_a_wrong_cycle_count_is_found(tmp_path: Path) -> None:
    with gzip.open(DATA, "rt") as file:
        lines = file.read().splitlines()[:51]
    first, rest = lines[1].split(",", 1)
    lines[1] = f"{int(first) + 1},{rest}"
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    result = timeloop_gemmini.validate(path, cases=1)
    assert result.exact_share == 0.98
    assert not result.passed


@present
@pytest.mark.validation
def test_a_batch_of_rows_counts_as_single_ones_do() -> None:
    rows = read_dosa(DATA)[::2000]
    batch = count_batch([row.shape for row in rows], [row.mapping for row in rows], "timeloop")
    for row, counts in zip(rows, batch, strict=True):
        dram = count_accesses(row.shape, row.mapping, "timeloop").level("L3").operands["input"]
        assert dram.sends == counts[0, 1, 1]


def test_rank_correlation_is_spearmans_with_ties() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 12, size=60)
    b = a + rng.integers(0, 9, size=60)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert np.isnan(rank_correlation([1, 1], [1, 2]))


def test_a_summary_shows_the_worst_of_its_quantities_and_the_worst_cases_first() -> None:
    counts = Figures(quantity="cycles", cases=["a", "b"], reference=[10, 20], model=[10, 21], exact=True)
    energy = Figures(quantity="energy_pj", cases=["a", "b"], reference=[1.0, 2.0], model=[1.5, 2.0])
    result = summarize("some", "paper", [counts, energy], passed=False, cases=2)
    assert (result.rows, result.exact_share) == (2, 0.5)
    assert (result.mean_abs_error, result.max_abs_error) == (0.25, 0.5)
    assert [(case.case, case.quantity) for case in result.cases] == [("a", "energy_pj"), ("b", "cycles")]
    assert len(summarize("some", "paper", [counts, energy], passed=True, cases=None).cases) == 4


def test_figures_of_different_length_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"cycles: \(2, 1, 2\) cases"):
        Figures(quantity="cycles", cases=["a", "b"], reference=[1], model=[1, 2])


def test_rows_are_values() -> None:
    row = DosaRow(
        shape=LoopShape(),
        mapping=parse_mapping(EXAMPLE),
        columns=1,
        accumulator_bytes=4,
        accumulator_word_bytes=4,
        accumulator_bandwidth=2,
        scratchpad_bytes=16,
        scratchpad_row_bytes=1,
        scratchpad_bandwidth=2,
        cycles=1,
        energy_uj=1.0,
    )
    assert row == replace(row)


def write(folder: Path, row: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(f"{HEADER}\n{row}\n")
    return path
