"""Cost of the search itself: overhead of a trial, hypervolume of 1,000 points."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.registry import Row, benchmark
from search import Categorical, Evaluation, Objective, Problem, SearchSpace, hypervolume, run_search

TRIALS = 240


def _evaluate(params: dict[str, Any]) -> Evaluation:
    values = np.array([params[f"x{i}"] for i in range(25)], float)
    return Evaluation((float(values.sum()), float(((7 - values) ** 2).sum()), float(values[0])))


@benchmark("search_overhead_ms")
def search_overhead() -> list[Row]:
    """NSGA-II, 25 parameters, 240 trials, journal file; the evaluation costs next to nothing."""
    space = SearchSpace([Categorical(f"x{i}", tuple(range(8))) for i in range(25)])
    objectives = [Objective(name, "minimize", "", worst=1e4) for name in ("a", "b", "c")]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_search(Problem(space, objectives), _evaluate, trials=TRIALS, storage=Path(folder) / "journal")
        seconds = time.perf_counter() - start
    return [Row(name="search_overhead_ms", value=1e3 * seconds / TRIALS, unit="ms per trial")]


@benchmark("hypervolume_ratio_1000")
def hypervolume_speed() -> list[Row]:
    """1,000 non-dominated points in 3-D against Optuna's (private) function."""
    from optuna._hypervolume import compute_hypervolume

    angles = np.random.default_rng(0).uniform(0, np.pi / 2, (1000, 2))
    a, b = angles.T
    points = 1 - np.stack([np.cos(a) * np.cos(b), np.sin(a) * np.cos(b), np.sin(b)], axis=1)
    reference = np.ones(3)
    ours, value = _best(lambda: hypervolume(points, reference))
    theirs, expected = _best(lambda: float(compute_hypervolume(points, reference)))
    assert abs(value - expected) < 1e-9
    return [
        Row(
            name="hypervolume_ratio_1000",
            value=1e3 * ours,
            unit="ms",
            peer="Optuna",
            peer_value=1e3 * theirs,
            ratio=theirs / ours,
        )
    ]


def _best(call: Callable[[], float], repeats: int = 5) -> tuple[float, float]:
    value, best = call(), float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        value = call()
        best = min(best, time.perf_counter() - start)
    return best, value
