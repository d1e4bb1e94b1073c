import pytest

from search import InvalidProblemError, run_search
from search.distribute import WORKER_DIED, InProcess, WorkerPool, make_executor
from tests.search.evaluations import (
    SMALL,
    Crashing,
    Deadly,
    InterruptionError,
    Slow,
    fail_to_start,
    mark_worker,
    worker_is_marked,
)

OPTIONS = {"trials": 32, "seed": 2, "population": 8}


def test_trials_do_not_depend_on_the_number_of_workers():
    alone = run_search(SMALL.problem, Slow(), **OPTIONS)
    assert run_search(SMALL.problem, Slow(), workers=2, **OPTIONS) == alone
    assert run_search(SMALL.problem, Slow(), workers=3, **OPTIONS) == alone


def test_crashes_in_workers_are_recorded_like_crashes_here():
    here = run_search(SMALL.problem, Crashing(), **OPTIONS)
    there = run_search(SMALL.problem, Crashing(), workers=2, **OPTIONS)
    assert there == here
    assert here.counts()["crashed"] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_executor_returns_every_call_once_and_can_run_again(workers):
    calls = [{"x0": 1 + i % 5, "x1": i % 5, "x2": i % 6} for i in range(9)]
    with make_executor(Slow(), workers) as executor:
        for _ in range(2):
            outcomes = dict(executor.run(calls))
            assert {position: outcome.value for position, outcome in outcomes.items()} == dict(
                enumerate(map(SMALL, calls))
            )
            assert all(outcome.seconds > 0.001 for outcome in outcomes.values())
        assert list(executor.run([])) == []


def test_deadly_evaluation_is_recorded_and_its_neighbours_are_evaluated():
    calls = [{"x0": 1 + i % 5, "x1": i % 6, "x2": i // 6} for i in range(8)]
    with WorkerPool(Deadly(), 2) as executor:
        outcomes = dict(executor.run(calls))
    assert sorted(outcomes) == list(range(8))
    for position, outcome in outcomes.items():
        if calls[position]["x1"] == 1:
            assert outcome.error == WORKER_DIED
        else:
            assert (outcome.error, outcome.value) == (None, SMALL(calls[position]))


def test_evaluation_whose_worker_died_once_is_retried(tmp_path):
    calls = [{"x0": 1 + i, "x1": int(i == 2), "x2": 0} for i in range(5)]
    with WorkerPool(Deadly(tmp_path / "died"), 2) as executor:
        outcomes = dict(executor.run(calls))
    assert (tmp_path / "died").exists()
    assert [outcomes[position].value for position in range(5)] == [SMALL(params) for params in calls]


def test_search_goes_on_after_died_workers():
    result = run_search(SMALL.problem, Deadly(), workers=2, **{**OPTIONS, "trials": 8})
    crashed = [trial for trial in result.trials if trial.state == "crashed"]
    assert crashed
    assert {trial.error for trial in crashed} == {WORKER_DIED}
    assert {trial.params["x1"] for trial in crashed} == {1}


def test_initialize_runs_in_each_worker_and_not_here():
    result = run_search(SMALL.problem, worker_is_marked, workers=2, initialize=mark_worker, trials=6)
    assert all(trial.evaluation.info["marked"] for trial in result.trials)
    here = run_search(SMALL.problem, worker_is_marked, initialize=mark_worker, trials=6)
    assert not any(trial.evaluation.info["marked"] for trial in here.trials)


def test_initialize_that_fails_ends_the_search_with_its_traceback():
    with pytest.raises(InvalidProblemError, match="OSError: no licence"):
        run_search(SMALL.problem, SMALL, workers=2, initialize=fail_to_start, trials=4)


def test_evaluate_that_cannot_be_sent_is_refused_before_the_search():
    with pytest.raises(InvalidProblemError, match="must be picklable"):
        run_search(SMALL.problem, lambda params: SMALL(params), workers=2, trials=4)


def return_a_lambda(params):
    return lambda: 0


def test_value_that_cannot_be_sent_back_counts_as_a_crash():
    result = run_search(SMALL.problem, return_a_lambda, workers=2, trials=4)
    assert result.counts()["crashed"] == 4


def test_interrupted_search_ends_its_workers(tmp_path):
    def stop(record):
        raise InterruptionError

    with pytest.raises(InterruptionError):
        run_search(SMALL.problem, Slow(), workers=2, on_trial=stop, storage=tmp_path / "s.log", **OPTIONS)
    resumed = run_search(SMALL.problem, SMALL, storage=tmp_path / "s.log", resume=True, **OPTIONS)
    assert resumed == run_search(SMALL.problem, SMALL, **OPTIONS)


def test_one_worker_means_this_process():
    assert isinstance(make_executor(SMALL, 1), InProcess)
