"""Small published tables: the rows of a CSV file, the named columns as numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from accel_models.errors import InvalidInputError


def read_rows(
    path: Path, numbers: Sequence[str], texts: Sequence[str] = (), optional: Sequence[str] = ()
) -> list[dict[str, float | str]]:
    """The rows in file order; `optional` columns are numbers that all rows have, or none.

    Raises
    ------
    InvalidInputError
        No rows, a missing column, or a field that is no number; names file, line and column.
    """
    rows: list[dict[str, float | str]] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):
                wanted = [*numbers, *(name for name in optional if name in row)]
                values: dict[str, float | str] = {name: _number(row, name, path, line) for name in wanted}
                values |= {name: _text(row, name, path, line) for name in texts}
                rows.append(values)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: cannot be read as a CSV file ({error}); name a file with --data") from error
    if not rows:
        raise InvalidInputError(f"{path}: no rows; the first line names the columns, {', '.join([*texts, *numbers])}")
    return rows


def column(rows: Sequence[dict[str, float | str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def check_range(value: float, low: float, high: float, where: str) -> None:
    """Refuse a value that is not in (low, high]."""
    if not low < value <= high:
        raise InvalidInputError(f"{where} = {value:g}: must be above {low:g} and at most {high:g}")


def _number(row: dict[str, str], name: str, path: Path, line: int) -> float:
    try:
        value = float(row[name])
    except (KeyError, TypeError, ValueError):
        raise InvalidInputError(f"{path}, line {line}: {name} = {row.get(name)!r} is not a number") from None
    if not math.isfinite(value):
        raise InvalidInputError(f"{path}, line {line}: {name} = {value} is not finite")
    return value


def _text(row: dict[str, str], name: str, path: Path, line: int) -> str:
    if not row.get(name):
        raise InvalidInputError(f"{path}, line {line}: {name} is missing")
    return row[name]
