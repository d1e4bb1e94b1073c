import pytest

from search import Constraint, Evaluation, InvalidProblemError, Objective, Problem, Real, SearchSpace, run_search
from search.testing import DTLZ2, ZDT
from tests.search.evaluations import SMALL, Calls, Crashing

OPTIONS = {"trials": 60, "seed": 1, "population": 10}


def test_canonical_key_decides_what_one_design_is():
    space = SearchSpace([Real("used", 0, 1), Real("unused", 0, 1)])
    problem = Problem(space, [Objective("f", "minimize", "1", 2.0)], canonical=lambda params: f"{params['used']:.1f}")
    calls = []

    def evaluate(params):
        calls.append(params)
        return Evaluation((round(params["used"], 1),))

    result = run_search(problem, evaluate, sampler="random", **OPTIONS)
    assert len(calls) == len({trial.key for trial in result.trials}) <= 11
    assert result.counts()["duplicate"] == 60 - len(calls)
    for trial in result.trials:
        assert trial.evaluation.objectives == (float(trial.key),)


def test_crash_is_recorded_with_its_traceback_and_not_repeated():
    crashing = Crashing()
    calls = []

    def evaluate(params):
        calls.append(SMALL.problem.key(params))
        return crashing(params)

    result = run_search(SMALL.problem, evaluate, **OPTIONS)
    crashed = [trial for trial in result.trials if trial.state == "crashed"]
    assert crashed
    assert len(calls) == len(set(calls))
    for trial in crashed:
        assert trial.evaluation is None
        assert f"ZeroDivisionError: no value at x1={trial.params['x1']}" in trial.error
        assert "evaluations.py" in trial.error


def test_repeated_crashed_design_is_a_duplicate_that_names_the_trial():
    result = run_search(SMALL.problem, lambda params: 1 / 0, **{**OPTIONS, "trials": 200})
    firsts = {trial.key: trial.number for trial in reversed(result.trials)}
    repeated = [trial for trial in result.trials if trial.state == "duplicate"]
    assert repeated
    for trial in repeated:
        assert trial.evaluation is None
        assert trial.error == f"same design as trial {firsts[trial.key]}, which crashed"


@pytest.mark.parametrize("value", [None, Evaluation((1.0,), (0.0,)), Evaluation((1.0, 1.0))])
def test_value_of_another_problem_counts_as_a_crash(value):
    result = run_search(SMALL.problem, lambda params: value, trials=3)
    assert result.counts()["crashed"] == 3
    assert "return" in result.trials[0].error


def test_sys_exit_in_an_evaluation_counts_as_a_crash():
    def evaluate(params):
        raise SystemExit(3)

    assert run_search(SMALL.problem, evaluate, trials=2).counts()["crashed"] == 2


def test_infeasible_designs_are_values_and_stay_off_the_front():
    result = run_search(SMALL.problem, SMALL, **OPTIONS)
    infeasible = [trial for trial in result.trials if trial.state == "infeasible"]
    assert infeasible
    for trial in infeasible:
        assert trial.params["x0"] / 5 < 0.2
        assert trial.evaluation.violations == (0.2 - trial.params["x0"] / 5,)
    assert all(trial.evaluation.feasible for trial in result.front())


def test_constraint_draws_the_search_to_feasible_designs():
    zdt = ZDT(parameters=6, least=0.7)
    trials = run_search(zdt.problem, zdt, trials=240, seed=0).trials
    shares = [sum(trial.state != "infeasible" for trial in part) / 48 for part in (trials[:48], trials[-48:])]
    assert shares[0] < 0.6
    assert shares[1] > 0.8


def test_infeasible_designs_with_objectives_keep_them():
    problem = Problem(SearchSpace([Real("x", 0, 1)]), [Objective("f", "maximize", "1", 0.0)], [Constraint("c", "1")])
    result = run_search(problem, lambda p: Evaluation((p["x"],), (p["x"] - 0.5,)), trials=60, seed=0)
    assert 0.4 < result.front()[0].evaluation.objectives[0] <= 0.5
    assert max(trial.evaluation.objectives[0] for trial in result.trials) > 0.5


def test_three_objectives_approach_the_known_front():
    sphere = DTLZ2(parameters=5)
    result = run_search(sphere.problem, sphere, trials=480, seed=0, population=40)
    assert 0.999 * sphere.front_hypervolume() < result.hypervolume_history()[-1] < sphere.front_hypervolume()
    assert len(result.front()) > 30


def test_parameters_are_handed_over_as_a_copy():
    def evaluate(params):
        value = SMALL(params)
        params.clear()
        return value

    assert run_search(SMALL.problem, evaluate, **OPTIONS) == run_search(SMALL.problem, SMALL, **OPTIONS)


def test_on_trial_sees_every_record_once():
    seen = []
    result = run_search(SMALL.problem, SMALL, on_trial=seen.append, **OPTIONS)
    assert sorted(seen, key=lambda record: record.number) == list(result.trials)


def test_trials_are_a_prefix_of_a_longer_search():
    long = run_search(SMALL.problem, SMALL, **OPTIONS)
    assert run_search(SMALL.problem, SMALL, **{**OPTIONS, "trials": 33}).trials == long.trials[:33]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"trials": 1.5}, "trials is 1.5"),
        ({"workers": 0}, "workers is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"population": 1}, "population is 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 11}, "batch_size is 11, population 10"),
        ({"resume": True}, "needs a storage"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    evaluate = Calls()
    with pytest.raises(InvalidProblemError, match=message):
        run_search(SMALL.problem, evaluate, **{**OPTIONS, **option})
    assert evaluate.keys == []
