"""Row: one measured figure; BENCHMARKS: name -> function that measures it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any


def machine() -> str:
    """Processor and cores, as the operating system tells them."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure, and the peer's that was measured in the same run."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    """As the name says it: `x_over_y` = x / y, `…_ratio` = peer / ours."""
    note: str = ""
    machine: str = field(default_factory=machine)
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Benchmark = Callable[[], list[Row]]
BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(*names: str) -> Callable[[Benchmark], Benchmark]:
    """Decorator: the function measures these rows."""

    def add(function: Benchmark) -> Benchmark:
        for name in names:
            BENCHMARKS[name] = function
        return function

    return add
