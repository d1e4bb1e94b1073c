"""Designs to start from: the first trials have the given parameters, whatever the sampler but random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search import (
    SAMPLERS,
    Categorical,
    Evaluation,
    InvalidProblemError,
    Objective,
    Problem,
    ResumeError,
    SearchSpace,
    run_search,
)

SPACE = SearchSpace([Categorical("x", tuple(range(50))), Categorical("y", tuple(range(50)))])
GIVEN = ({"x": 7, "y": 9}, {"x": 11})


def problem(initial: tuple[dict[str, int], ...] = GIVEN) -> Problem:
    objectives = [Objective(name, "minimize", "", worst=100.0) for name in ("a", "b")]
    return Problem(SPACE, objectives, initial=initial)


def evaluate(params: dict[str, Any]) -> Evaluation:
    return Evaluation((float(params["x"]), float(50 - params["y"])))


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "random"])
def test_the_first_trials_have_the_given_parameters_and_others_are_drawn(sampler: str):
    trials = [run_search(problem(), evaluate, trials=6, seed=seed, sampler=sampler).trials for seed in range(4)]
    assert all(dict(run[0].params) == GIVEN[0] for run in trials)
    assert all(run[1].params["x"] == 11 for run in trials)
    assert len({run[1].params["y"] for run in trials}) > 1
    assert len({run[2].params["x"] for run in trials}) > 1


def test_random_search_does_without():
    plain = run_search(problem(()), evaluate, trials=6, sampler="random")
    assert run_search(problem(), evaluate, trials=6, sampler="random").trials == plain.trials


def test_other_initial_designs_are_another_search(tmp_path: Path):
    path = tmp_path / "journal"
    run_search(problem(), evaluate, trials=2, storage=path)
    with pytest.raises(ResumeError, match="initial"):
        run_search(replace(problem(), initial=()), evaluate, trials=4, storage=path, resume=True)


@pytest.mark.parametrize("initial", [{"z": 1}, {"x": 99}])
def test_initial_designs_outside_the_space_are_refused(initial: dict[str, int]):
    with pytest.raises(InvalidProblemError, match=r"parameter '(x|z)'"):
        problem((initial,))


def cheaper(params: dict[str, Any], rng: Any) -> dict[str, Any]:
    return params | {"y": 49 - int(rng.integers(0, 2))}


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3"])
def test_children_pass_through_the_problems_local_search_and_resume_alike(sampler: str, tmp_path: Path):
    improving = replace(problem(()), improve=cheaper)
    options: dict[str, Any] = {"sampler": sampler, "population": 6, "batch_size": 3}
    whole = run_search(improving, evaluate, trials=24, **options)
    assert {trial.params["y"] for trial in whole.trials[6:]} == {48, 49}
    assert {trial.params["y"] for trial in whole.trials[:6]} - {48, 49}
    run_search(improving, evaluate, trials=11, storage=tmp_path / "journal", **options)
    resumed = run_search(improving, evaluate, trials=24, storage=tmp_path / "journal", resume=True, **options)
    assert resumed.trials == whole.trials


def test_a_local_search_that_leaves_the_space_is_refused():
    with pytest.raises(InvalidProblemError, match="'y' has value -1"):
        run_search(
            replace(problem(()), improve=lambda params, rng: params | {"y": -1}), evaluate, trials=12, population=6
        )
