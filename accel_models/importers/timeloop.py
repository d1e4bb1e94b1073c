"""Timeloop's mapping strings, and the rows of the data set of ucb-bar/dosa.

Timeloop's P and R are widths (its input column is P * Wstride + R * Wdilation), here they are heights: P and Q, R and S
change places at this border.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from accel_models.errors import InvalidInputError
from accel_models.mapping import DIMS, Loop, LoopShape, Mapping, StorageLevel

HERE = {"N": "N", "K": "K", "C": "C", "P": "Q", "Q": "P", "R": "S", "S": "R"}
"""Timeloop's dimension -> ours."""

OPERAND = {"W": "weight", "I": "input", "O": "output"}

_LEVEL = re.compile(r"(\w+)\[([WIO]*)\]$")
_LOOP = re.compile(r"([A-Z])(\d+)(X?)$")


@dataclass(frozen=True, kw_only=True)
class DosaRow:
    """One evaluation: a layer, a mapping and a Gemmini-like array, with what Timeloop and Accelergy said of it.

    The four levels of the mapping are DRAM, scratchpad, accumulators (one for each column) and weight registers.
    """

    shape: LoopShape
    mapping: Mapping
    columns: int
    accumulator_bytes: int
    """Of one column."""
    accumulator_word_bytes: int
    accumulator_bandwidth: int
    """Words a cycle of one column, reads and writes together."""
    scratchpad_bytes: int
    scratchpad_row_bytes: int
    scratchpad_bandwidth: int
    """Words a cycle, reads and writes together."""
    cycles: int
    energy_uj: float


@cache
def parse_mapping(text: str) -> Mapping:
    """Levels and loops of a mapping like ``L3[WIO] P14 K16 - L2[WI] N1 K4X - L1[O] C2 - L0[W] P2``.

    Levels stand from the outermost to the innermost, so do the loops of a level; a trailing X marks a spatial loop.

    Raises
    ------
    InvalidInputError
        Naming the part that cannot be read.
    """
    levels, nest = [], []
    for part in text.strip().split(" - "):
        head, *tokens = part.split() or [""]
        match = _LEVEL.match(head)
        if match is None:
            raise InvalidInputError(f"mapping {text!r}: {head!r} is no level; write a name and what it holds: L2[WI]")
        levels.append(StorageLevel(name=match[1], holds=frozenset(OPERAND[letter] for letter in match[2])))
        nest.append(tuple(_loop(token, text) for token in tokens))
    return Mapping(tuple(levels), tuple(nest))


def format_mapping(mapping: Mapping) -> str:
    """The string that `parse_mapping` reads; a dimension that Timeloop's layer lacks (G) is refused."""
    there = {ours: timeloop for timeloop, ours in HERE.items()}
    parts = []
    for level, loops in zip(mapping.levels, mapping.loops, strict=True):
        if any(loop.dim not in there for loop in loops):
            raise InvalidInputError(f"level {level.name!r}: Timeloop's layer has no loop over groups (G)")
        held = "".join(letter for letter, operand in OPERAND.items() if operand in level.holds)
        words = [f"{there[loop.dim]}{loop.factor}{'X' if loop.spatial else ''}" for loop in loops]
        parts.append(" ".join([f"{level.name}[{held}]", *(words or ["N1"])]))
    return " - ".join(parts)


def read_dosa(path: Path) -> list[DosaRow]:
    """Rows of a CSV file (plain or .gz) in the columns of the data set.

    Raises
    ------
    InvalidInputError
        Naming the file, the line and the field.
    """
    try:
        with _open(path) as file:
            return list(_rows(path, csv.reader(file)))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: cannot be read ({error})") from error


def _open(path: Path) -> IO[str]:
    return gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="")


_COUNTS = {
    "columns": "arch.meshX",
    "accumulator_entries": "arch.mem1_entries",
    "accumulator_bits": "arch.mem1_word-bits",
    "accumulator_bandwidth": "arch.mem1_shared_bandwidth",
    "scratchpad_entries": "arch.mem2_entries",
    "scratchpad_bits": "arch.mem2_word-bits",
    "scratchpad_width": "arch.mem2_width",
    "scratchpad_bandwidth": "arch.mem2_shared_bandwidth",
    "cycles": "target.cycle",
}
_PROBLEM = ("N", "K", "C", "P", "Q", "R", "S", "Hstride", "Wstride", "Hdilation", "Wdilation")
_FIELDS = ("mapping.mapping", "target.energy", *_COUNTS.values(), *(f"prob.{name}" for name in _PROBLEM))


def _rows(path: Path, lines: Iterator[list[str]]) -> Iterator[DosaRow]:
    header = next(lines, [])
    missing = [field for field in _FIELDS if field not in header]
    if missing:
        raise InvalidInputError(f"{path}: no column {', '.join(missing)}; the columns are those of ucb-bar/dosa")
    at = {field: header.index(field) for field in _FIELDS}
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        if len(line) != len(header):
            raise InvalidInputError(f"{path}, line {number}: {len(line)} fields, the header has {len(header)}")
        try:
            yield _row({field: line[i] for field, i in at.items()})
        except ValueError as error:
            raise InvalidInputError(f"{path}, line {number}: {error}") from error


def _row(text: dict[str, str]) -> DosaRow:
    n = {name: _count(field, text[field]) for name, field in _COUNTS.items()}
    mapping = parse_mapping(text["mapping.mapping"])
    if [sorted(level.holds) for level in mapping.levels] != _HIERARCHY:
        raise InvalidInputError(f"mapping.mapping = {mapping}: the levels must hold WIO - WI - O - W")
    return DosaRow(
        shape=_shape(tuple(text[f"prob.{name}"] for name in _PROBLEM)),
        mapping=mapping,
        columns=n["columns"],
        accumulator_bytes=n["accumulator_entries"] * n["accumulator_bits"] // 8,
        accumulator_word_bytes=n["accumulator_bits"] // 8,
        accumulator_bandwidth=n["accumulator_bandwidth"],
        scratchpad_bytes=n["scratchpad_entries"] * n["scratchpad_bits"] // 8,
        scratchpad_row_bytes=n["scratchpad_width"] // 8,
        scratchpad_bandwidth=n["scratchpad_bandwidth"],
        cycles=n["cycles"],
        energy_uj=_positive("target.energy", text["target.energy"]),
    )


_HIERARCHY = [["input", "output", "weight"], ["input", "weight"], ["output"], ["weight"]]


@cache
def _shape(texts: tuple[str, ...]) -> LoopShape:
    n = {name: _count(f"prob.{name}", text) for name, text in zip(_PROBLEM, texts, strict=True)}
    return LoopShape(
        **{HERE[name]: n[name] for name in HERE},
        stride=(n["Hstride"], n["Wstride"]),
        dilation=(n["Hdilation"], n["Wdilation"]),
    )


@cache
def _parse_loop(token: str) -> Loop | None:
    match = _LOOP.match(token)
    if match is None or match[1] not in HERE:
        return None
    return Loop(HERE[match[1]], int(match[2]), match[3] == "X")


def _loop(token: str, text: str) -> Loop:
    loop = _parse_loop(token)
    if loop is None:
        raise InvalidInputError(
            f"mapping {text!r}: {token!r} is no loop; write a dimension ({', '.join(HERE)}), a factor and X if spatial"
        )
    return loop


def _count(field: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise InvalidInputError(f"{field} = {text!r} must be an integer of at least 1")
    return value


def _positive(field: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise InvalidInputError(f"{field} = {text!r} must be a positive number")
    return value


assert set(HERE.values()) <= set(DIMS)
