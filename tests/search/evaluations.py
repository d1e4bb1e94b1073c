"""Picklable evaluations with side effects, for the tests of run_search."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search import Evaluation, Problem
from search.testing import ZDT

SMALL = ZDT(parameters=3, levels=6, least=0.2)
"""216 designs: duplicates, and infeasible ones."""


class InterruptionError(Exception):
    """Raised by a test to end a search from outside."""


class Calls:
    """Counts the calls per content key, in this process."""

    def __init__(self, zdt: ZDT = SMALL) -> None:
        self.zdt = zdt
        self.keys: list[str] = []

    @property
    def problem(self) -> Problem:
        return self.zdt.problem

    def __call__(self, params: dict[str, Any]) -> Evaluation:
        self.keys.append(self.problem.key(params))
        return self.zdt(params)


@dataclass(frozen=True)
class Crashing:
    """Raises for a third of the designs."""

    zdt: ZDT = SMALL

    def __call__(self, params: dict[str, Any]) -> Evaluation:
        if params["x1"] in (1, 4):
            raise ZeroDivisionError(f"no value at x1={params['x1']}")
        return self.zdt(params)


@dataclass(frozen=True)
class Slow:
    """Takes a few milliseconds that depend on the design, so that workers finish out of order."""

    zdt: ZDT = SMALL

    def __call__(self, params: dict[str, Any]) -> Evaluation:
        time.sleep(0.002 + 0.004 * (params["x2"] % 3))
        return self.zdt(params)


@dataclass(frozen=True)
class Deadly:
    """Kills its worker process for x1 == 1; with a file to mark, the first time only."""

    mark: Path | None = None

    def __call__(self, params: dict[str, Any]) -> Evaluation:
        if params["x1"] == 1 and not (self.mark and self.mark.exists()):
            if self.mark:
                self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return SMALL(params)


def mark_worker() -> None:
    os.environ["SEARCH_TEST_WORKER"] = "1"


def worker_is_marked(params: dict[str, Any]) -> Evaluation:
    return Evaluation(SMALL(params).objectives or (1.0, 1.0), (-1.0,), {"marked": "SEARCH_TEST_WORKER" in os.environ})


def fail_to_start() -> None:
    raise OSError("no licence")
