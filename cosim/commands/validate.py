"""cosim validate."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

from rich.console import Console

from accel_models.errors import AccelError, UnknownNameError
from accel_models.validation import SETS
from accel_models.validation.result import ValidationResult
from cosim.commands.show import save, table
from cosim.errors import ConfigError
from cosim.files import write_text

SHOWN_CASES = 10


def run_validate_command(
    name: str | None, data: Path | None, markdown: Path | None, json_path: Path | None, console: Console
) -> None:
    """Compare one set, or all whose data are there, and show every quantity and the worst cases."""
    if name is not None and name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1, cutoff=0.0)[0]
        raise UnknownNameError(f"set {name!r} is unknown; nearest: {near!r}, all: {', '.join(SETS)}")
    if name is None and data is not None:
        raise ConfigError(f"--data {data} needs the name of its set: {', '.join(SETS)}")
    results = [_one(name, data, json_path)] if name is not None else _all(json_path, console)
    for result in results:
        _show(result, console)
    if markdown is not None:
        write_text(markdown, _page(results))
        console.print(f"written: {markdown}", markup=False, soft_wrap=True)
    documents = [_json(result) for result in results]
    save(json_path, documents[0] if name is not None else documents, console)
    failed = [result.set for result in results if not result.passed]
    if failed:
        raise SystemExit(1)


def _one(name: str, data: Path | None, json_path: Path | None) -> ValidationResult:
    return SETS[name](data, cases=None if json_path is not None else SHOWN_CASES)


def _all(json_path: Path | None, console: Console) -> list[ValidationResult]:
    results = []
    for name in SETS:
        try:
            results.append(_one(name, None, json_path))
        except AccelError as error:
            console.print(f"{name}: skipped: {error}", style="yellow", markup=False, soft_wrap=True)
    return results


def _show(result: ValidationResult, console: Console) -> None:
    verdict = "passed" if result.passed else "MISSED"
    console.print(f"{result.set}: {verdict}; {result.rows} rows; {result.source}", markup=False, soft_wrap=True)
    rows = [
        [
            q.quantity,
            f"{100 * q.exact_share:.3f}",
            *(f"{100 * error:.4g}" for error in (q.mean_abs_error, q.median_abs_error, q.max_abs_error)),
            "-" if math.isnan(q.rank_correlation) else f"{q.rank_correlation:.4f}",
        ]
        for q in result.quantities
    ]
    columns = ["quantity", "exact %", "mean error %", "median %", "max %", "rank corr."]
    console.print(table("", columns, rows))
    worst = [case for case in result.cases[:SHOWN_CASES] if case.relative_error]
    if worst:
        cells = [
            [c.case, c.quantity, f"{c.reference:g}", f"{c.model:g}", f"{100 * c.relative_error:.4g}"] for c in worst
        ]
        console.print(table("worst cases", ["case", "quantity", "reference", "model", "error %"], cells, left=2))


def _page(results: list[ValidationResult]) -> str:
    """Every quantity of every set, and its worst cases, as Markdown."""
    lines = [
        "# Validation",
        "",
        "Written by `cosim validate --markdown docs/validation.md`; relative errors in %, model against reference.",
        "What each comparison assumes stands in the docstring of its module in `accel_models/validation/`.",
    ]
    for result in results:
        lines += [
            "",
            f"## {result.set}: {'passed' if result.passed else 'missed'}",
            "",
            f"{result.rows} rows; {result.source}",
            "",
        ]
        lines += ["| quantity | exact % | mean | median | max | rank correlation |", "|---|---|---|---|---|---|"]
        for q in result.quantities:
            errors = " | ".join(f"{100 * e:.4g}" for e in (q.mean_abs_error, q.median_abs_error, q.max_abs_error))
            rank = "-" if math.isnan(q.rank_correlation) else f"{q.rank_correlation:.4f}"
            lines.append(f"| {q.quantity} | {100 * q.exact_share:.3f} | {errors} | {rank} |")
        worst = [case for case in result.cases[:SHOWN_CASES] if case.relative_error]
        if worst:
            lines += ["", "| worst cases | quantity | reference | model | error % |", "|---|---|---|---|---|"]
            lines += [
                f"| {c.case} | {c.quantity} | {c.reference:g} | {c.model:g} | {100 * c.relative_error:.4g} |"
                for c in worst
            ]
    return "\n".join(lines) + "\n"


def _json(result: ValidationResult) -> dict[str, Any]:
    """Plain JSON: what is not a number becomes null."""
    return {key: _plain(value) for key, value in result.to_json().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
