"""scripts/bench [NAME…] [--json FILE] [--list]."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.registry import BENCHMARKS, Row
from cosim.files import write_json

PATTERNS = ("cold.py", "*_speed.py", "*_quality.py", "*_stability.py")


def main() -> int:
    """Run the named benchmarks, or all, and print their rows."""
    for module in sorted({path.stem for pattern in PATTERNS for path in Path(__file__).parent.glob(pattern)}):
        importlib.import_module(f"benchmarks.{module}")  # registers its rows
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure what the documents quote.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to measure; none: all")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(sorted(BENCHMARKS)))
        return 0
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        print(f"error: unknown benchmark {unknown[0]!r}; known: {', '.join(sorted(BENCHMARKS))}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for function in dict.fromkeys(BENCHMARKS[name] for name in options.names or sorted(BENCHMARKS)):
        rows += function()
    wanted = [row for row in rows if not options.names or row.name in options.names]
    _show(wanted)
    if options.json:
        write_json(options.json, [row.to_json() for row in wanted])
    return 0


def _show(rows: list[Row]) -> None:
    table = Table(title=f"{rows[0].machine}, {rows[0].date}" if rows else None, title_justify="left")
    for name in ("name", "value", "unit", "peer", "peer value", "ratio", "note"):
        table.add_column(name, justify="left" if name in ("name", "unit", "peer", "note") else "right", overflow="fold")
    for row in rows:
        numbers = ["-" if x is None else f"{x:.4g}" for x in (row.value, row.peer_value, row.ratio)]
        table.add_row(row.name, numbers[0], row.unit, row.peer or "-", numbers[1], numbers[2], row.note)
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
