"""Tables and numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cosim.files import write_json


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Table:
    """A table whose first `left` columns are text and the others numbers."""
    shown = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def energy(picojoule: float) -> str:
    """pJ, nJ, uJ or mJ, three significant digits."""
    for unit, factor in (("mJ", 1e9), ("uJ", 1e6), ("nJ", 1e3)):
        if picojoule >= factor:
            return f"{picojoule / factor:.3g} {unit}"
    return f"{picojoule:.3g} pJ"


def count(value: float) -> str:
    """12,345."""
    return f"{value:,.0f}"


def percent(share: float | None) -> str:
    """0.971 -> 97.1 %."""
    return "-" if share is None else f"{100 * share:.1f} %"


def save(json_path: Path | None, data: Any, console: Console) -> None:
    """Write `--json FILE` if it was given."""
    if json_path is not None:
        write_json(json_path, data)
        console.print(f"written: {json_path}", markup=False, soft_wrap=True)
