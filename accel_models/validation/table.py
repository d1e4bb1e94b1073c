"""Reading reference tables: CSV files with a name and numbers in every row."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from accel_models.errors import InvalidInputError


def read_numbers(
    path: Path, name: str | None, columns: Sequence[str], optional: Sequence[str] = ()
) -> list[tuple[str, dict[str, float]]]:
    """(name of the row, its columns as numbers) of every row; `optional` columns may be empty.

    Raises
    ------
    InvalidInputError
        No rows, or a field that is missing or not a finite number; names file and line.
    """
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            values = {
                column: _number(row, column, path, line)
                for column in (*columns, *optional)
                if column in columns or row.get(column)
            }
            title = row.get(name) if name else ", ".join(f"{column} = {values[column]:g}" for column in columns[:2])
            if not title:
                raise InvalidInputError(f"{path}, line {line}: {name} is missing; name the row")
            rows.append((title, values))
    if not rows:
        raise InvalidInputError(f"{path}: no rows")
    return rows


def _number(row: dict[str, str], column: str, path: Path, line: int) -> float:
    try:
        value = float(row[column])
    except (KeyError, TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInputError(f"{path}, line {line}: {column} = {row.get(column)!r} is not a number")
    return value
