"""Comparison with RTL simulation (FireSim) of a 16x16 Gemmini: data set of ucb-bar/dosa.

The rows were measured by the programs of ucb-bar/gemmini-rocc-tests, branch dosa, and their habits are part of what
was measured: convolutions run on a square of the output width, padded by half the filter on every side; rows with one
output row and a 1x1 filter run as matrix products, whose tiles are whole blocks of the array.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from accel_models.errors import InvalidInputError
from accel_models.importers.timeloop import HERE, format_mapping, parse_mapping
from accel_models.mapping import LoopShape, Mapping
from accel_models.tile_pipeline import TILE_DIMS, TilePlan, load_tile_machine, tile_latency, tile_order
from accel_models.validation.data import reference_file
from accel_models.validation.result import Figures, ValidationResult, summarize

NAME = "gemmini_rtl"
SOURCE = "RTL simulation (FireSim) of Gemmini: ucb-bar/dosa, data/firesim_test_data (BSD-2)"
MACHINE = "gemmini_16x16"

ERROR_BAR = 0.08
RANK_BAR = 0.99
ORDER_BAR = 0.75
DISTINCT = 0.05
"""Pairs of mappings of one layer count where the slower one takes longer by more than this."""

_DIMS = ("N", "K", "C", "P", "Q", "R", "S")
_FIELDS = (
    "mapping.mapping",
    *(f"prob.{name}" for name in _DIMS),
    "prob.Hstride",
    "prob.Wstride",
    "target.gemmini_cycle",
)


@dataclass(frozen=True, kw_only=True)
class RtlRow:
    """One measured run: layer, mapping, cycles."""

    line: int
    shape: LoopShape
    mapping: Mapping
    cycles: float

    @property
    def matrix(self) -> bool:
        return self.shape.P == self.shape.R == self.shape.S == 1


def validate(path: Path | None = None, cases: int | None = 20) -> ValidationResult:
    """Compare the cycles of every row, and the order of mappings of one layer.

    Parameters
    ----------
    path : Path, optional
        A CSV file in the columns of the data set; by default the public rows beside the project.
    cases : int or None
        Cases to keep, the worst first; None: all.

    Raises
    ------
    InvalidInputError
        No such file, or a row that cannot be read; names file, line and field.
    """
    path = reference_file("gemmini_rtl/public.csv", SOURCE, path)
    rows = read_rtl(path)
    if not rows:
        raise InvalidInputError(f"{path}: no rows")
    reference, model = np.array([row.cycles for row in rows]), np.array([model_cycles(row) for row in rows])
    names = [f"line {row.line}: {format_mapping(row.mapping)}" for row in rows]
    cycles = Figures(quantity="cycles", cases=names, reference=reference, model=model)
    seen = cycles.compare()
    passed = seen.mean_abs_error <= ERROR_BAR and not seen.rank_correlation < RANK_BAR
    order = order_figures(rows, model)
    if order is None:
        return summarize(NAME, SOURCE, [cycles], passed=passed, cases=cases)
    share = order.compare()
    result = summarize(NAME, SOURCE, [cycles], passed=passed and share.exact_share >= ORDER_BAR, cases=cases)
    return replace(result, quantities=(*result.quantities, share))


def model_cycles(row: RtlRow) -> float:
    """Cycles of the tile pipeline on the machine of the data set."""
    return tile_latency(tile_plan(row), load_tile_machine(MACHINE)).cycles


def tile_plan(row: RtlRow, edge: int = 16) -> TilePlan:
    """The tiles that the measuring program runs for a mapping; `edge`: rows and columns of the array."""
    tile = row.mapping.tile_extents(1)
    shape = row.shape
    if row.matrix:
        blocks = {dim: max(1, tile[dim] // edge) * edge for dim in "QKC"}
        extents = {"N": 1, "P": 1, "Q": shape.Q, "K": shape.K, "R": 1, "S": 1, "C": shape.C}
        return _plan(row, extents, tile | {"N": 1} | blocks, (1, shape.Q), (0, 0))
    pad, stride = shape.S // 2, shape.stride[1]
    width = shape.Q * stride
    outputs = (width + 2 * pad - shape.S) // stride + 1
    extents = {dim: getattr(shape, dim) for dim in TILE_DIMS} | {"P": outputs, "Q": outputs}
    return _plan(row, extents, tile, (width, width), (pad, pad))


def _plan(
    row: RtlRow, extents: dict[str, int], tile: dict[str, int], size: tuple[int, int], padding: tuple[int, int]
) -> TilePlan:
    stride = row.shape.stride[1]
    return TilePlan(
        extents=tuple(extents[dim] for dim in TILE_DIMS),
        tile=tuple(tile[dim] for dim in TILE_DIMS),
        order=tile_order(row.mapping),
        input_size=size,
        stride=(1, 1) if row.matrix else (stride, stride),
        padding=padding,
        matrix=row.matrix,
    )


def order_figures(rows: Sequence[RtlRow], model: ArrayLike) -> Figures | None:
    """1 for every pair of mappings of one layer that the model ranks as the RTL does, 0 for the others.

    None where no two mappings of a layer differ by more than `DISTINCT`.
    """
    values = np.asarray(model, np.float64)
    layers = defaultdict(list)
    for i, row in enumerate(rows):
        layers[row.shape].append(i)
    names, right = [], []
    for group in layers.values():
        for i, j in combinations(group, 2):
            fast, slow = sorted((rows[i].cycles, rows[j].cycles))
            if slow > fast * (1 + DISTINCT):
                names.append(f"lines {rows[i].line} and {rows[j].line}")
                right.append(float((rows[i].cycles - rows[j].cycles) * (values[i] - values[j]) > 0))
    if not names:
        return None
    return Figures(quantity="order_of_pairs", cases=names, reference=np.ones(len(names)), model=right, exact=True)


def read_rtl(path: Path) -> list[RtlRow]:
    """Rows of a CSV file in the columns of the data set (`target.gemmini_cycle`).

    Raises
    ------
    InvalidInputError
        Naming the file, the line and the field.
    """
    try:
        with path.open(newline="") as file:
            return list(_rows(path, csv.DictReader(file)))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: cannot be read ({error})") from error


def _rows(path: Path, lines: csv.DictReader[str]) -> Iterator[RtlRow]:
    missing = [field for field in _FIELDS if field not in (lines.fieldnames or [])]
    if missing:
        raise InvalidInputError(f"{path}: no column {', '.join(missing)}; the columns are those of ucb-bar/dosa")
    for number, line in enumerate(lines, start=2):
        try:
            if None in line.values() or None in line:
                raise InvalidInputError("the number of fields is not that of the header")
            yield _row(number, line)
        except ValueError as error:
            raise InvalidInputError(f"{path}, line {number}: {error}") from error


def _row(number: int, line: dict[str, str]) -> RtlRow:
    extents: dict[str, Any] = {HERE[name]: _integer(f"prob.{name}", line[f"prob.{name}"]) for name in _DIMS}
    stride = (_integer("prob.Hstride", line["prob.Hstride"]), _integer("prob.Wstride", line["prob.Wstride"]))
    mapping = parse_mapping(line["mapping.mapping"])
    if len(mapping.loops) < 2:
        raise InvalidInputError("mapping.mapping: needs a level outside the tiles")
    return RtlRow(
        line=number,
        shape=LoopShape(**extents, stride=stride),
        mapping=mapping,
        cycles=_cycles(line["target.gemmini_cycle"]),
    )


def _integer(field: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InvalidInputError(f"{field} = {text!r} must be an integer of at least 1")
    return int(text)


def _cycles(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InvalidInputError(f"target.gemmini_cycle = {text!r} must be a positive number")
    return value
