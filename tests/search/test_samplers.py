"""Contract of every sampler in the registry."""

import warnings

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search import SAMPLERS, Categorical, InvalidProblemError, Problem, Real, SearchSpace, run_search
from search.samplers import make_sampler
from search.testing import DTLZ2, ZDT
from tests.search.evaluations import SMALL, Calls, Crashing, InterruptionError

BUDGET = {"trials": 36, "seed": 3, "population": 8}


@pytest.mark.parametrize("sampler", SAMPLERS)
class TestEverySampler:
    def test_same_seed_gives_the_same_trials(self, sampler):
        first = run_search(SMALL.problem, SMALL, sampler=sampler, **BUDGET)
        assert run_search(SMALL.problem, SMALL, sampler=sampler, **BUDGET) == first

    def test_other_seed_gives_other_trials(self, sampler):
        first = run_search(SMALL.problem, SMALL, sampler=sampler, **BUDGET)
        other = run_search(SMALL.problem, SMALL, sampler=sampler, **{**BUDGET, "seed": 4})
        assert [trial.params for trial in first.trials] != [trial.params for trial in other.trials]

    def test_trials_are_valid_numbered_and_complete_in_number(self, sampler):
        result = run_search(SMALL.problem, SMALL, sampler=sampler, **BUDGET)
        assert [trial.number for trial in result.trials] == list(range(36))
        assert sum(result.counts().values()) == 36
        for trial in result.trials:
            SMALL.problem.space.validate(trial.params)

    def test_each_design_is_evaluated_once(self, sampler):
        evaluate = Calls()
        counts = run_search(evaluate.problem, evaluate, sampler=sampler, **{**BUDGET, "trials": 120}).counts()
        assert counts["duplicate"] > 0
        assert len(evaluate.keys) == len(set(evaluate.keys)) == 120 - counts["duplicate"]

    @pytest.mark.parametrize("told", [1, 8, 13, 31])
    def test_interrupted_search_resumes_to_the_same_trials(self, sampler, told, tmp_path):
        whole = run_search(SMALL.problem, SMALL, sampler=sampler, **BUDGET)
        seen = []

        def stop(record):
            seen.append(record)
            if len(seen) == told:
                raise InterruptionError

        options = {"sampler": sampler, "storage": tmp_path / "s.log", **BUDGET}
        with pytest.raises(InterruptionError):
            run_search(SMALL.problem, SMALL, on_trial=stop, **options)
        evaluate = Calls()
        assert run_search(SMALL.problem, evaluate, resume=True, on_trial=seen.append, **options) == whole
        assert sorted(record.number for record in seen) == list(range(36))
        assert len(evaluate.keys) == sum(record.state != "duplicate" for record in seen[told:])

    def test_crashes_do_not_end_the_search(self, sampler):
        result = run_search(SMALL.problem, Crashing(), sampler=sampler, **BUDGET)
        assert result.counts()["crashed"] > 0
        assert result.front()

    def test_search_in_which_everything_crashes_ends(self, sampler):
        result = run_search(SMALL.problem, lambda params: 1 / 0, sampler=sampler, **BUDGET)
        assert result.counts()["complete"] == 0
        assert result.front() == ()
        assert result.hypervolume_history().tolist() == [0.0] * 36

    def test_search_in_which_everything_is_infeasible_ends(self, sampler):
        nowhere = ZDT(parameters=3, levels=6, least=1.5)
        result = run_search(nowhere.problem, nowhere, sampler=sampler, **BUDGET)
        assert result.counts()["infeasible"] > 0
        assert result.front() == ()

    def test_one_and_three_objectives_work(self, sampler):
        sphere = DTLZ2()
        assert len(run_search(sphere.problem, sphere, sampler=sampler, **BUDGET).front()) > 1
        single = Problem(sphere.problem.space, sphere.problem.objectives[:1])

        def first_only(params):
            values = sphere(params)
            return type(values)(values.objectives[:1])

        assert len(run_search(single, first_only, sampler=sampler, **BUDGET).front()) == 1

    def test_parameters_with_one_value_work(self, sampler):
        space = SearchSpace([Categorical("fixed", ("only",)), Real("point", 2, 2), *SMALL.problem.space.parameters])
        problem = Problem(space, SMALL.problem.objectives, SMALL.problem.constraints)
        result = run_search(problem, SMALL, sampler=sampler, **BUDGET)
        assert {(trial.params["fixed"], trial.params["point"]) for trial in result.trials} == {("only", 2.0)}

    def test_smallest_population_works(self, sampler):
        assert len(run_search(SMALL.problem, SMALL, sampler=sampler, trials=12, population=2).trials) == 12

    def test_optuna_is_silenced_inside_the_search_only(self, sampler, capfd):
        filters, verbosity = list(warnings.filters), optuna.logging.get_verbosity()
        run_search(SMALL.problem, SMALL, sampler=sampler, trials=20, population=8)
        assert capfd.readouterr() == ("", "")
        assert (list(warnings.filters), optuna.logging.get_verbosity()) == (filters, verbosity)


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "random"])
@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_trials_do_not_depend_on_the_batch_size(sampler, batch_size):
    whole = run_search(SMALL.problem, SMALL, sampler=sampler, **BUDGET)
    parts = run_search(SMALL.problem, SMALL, sampler=sampler, batch_size=batch_size, **BUDGET)
    assert parts.trials == whole.trials


@pytest.mark.parametrize("zdt", [ZDT(0.5, 10), ZDT(2.0, 10)], ids=["ZDT1", "ZDT2"])
def test_genetic_search_beats_random_search_of_the_same_budget(zdt):
    volumes = {
        name: [
            run_search(zdt.problem, zdt, sampler=name, trials=240, seed=seed).hypervolume_history()[-1]
            for seed in (0, 1)
        ]
        for name in ("nsga2", "nsga3", "random")
    }
    assert min(volumes["nsga2"] + volumes["nsga3"]) > max(volumes["random"])
    assert max(volumes["nsga2"] + volumes["nsga3"]) <= zdt.front_hypervolume()


def test_first_generation_is_random_and_later_ones_descend_from_parents():
    zdt = ZDT(parameters=10)
    trials = run_search(zdt.problem, zdt, sampler="nsga2", trials=40, seed=0, population=20).trials
    first = {value for trial in trials[:20] for value in trial.params.values()}
    inherited = [value in first for trial in trials[20:] for value in trial.params.values()]
    assert len(first) == 200
    assert 0.7 < np.mean(inherited) < 1.0


def test_mutated_values_are_independent_of_the_draw_that_decides_the_crossover():
    """With one stream for both, a child without crossover (draw >= 0.9) gets the draw again as its first new value."""
    zdt = ZDT(parameters=10)
    trials = run_search(zdt.problem, zdt, sampler="nsga2", trials=600, seed=0, population=300).trials
    parents = [list(trial.params.values()) for trial in trials[:300]]
    children = [list(trial.params.values()) for trial in trials[300:]]
    changed = [[new for new, old in zip(c, p, strict=True) if new != old] for c in children for p in parents]
    single = [values[0] for values in changed if len(values) == 1]
    assert len(single) >= 5
    assert np.median(single) < 0.9


def test_crashes_do_not_hold_a_generation_open():
    zdt = ZDT(parameters=10)

    def evaluate(params):
        if params["x0"] < 0.2:
            raise ArithmeticError
        return zdt(params)

    result = run_search(zdt.problem, evaluate, sampler="nsga2", trials=40, seed=0, population=20)
    first = {value for trial in result.trials[:20] for value in trial.params.values()}
    assert any(trial.state == "crashed" for trial in result.trials[:20])
    assert np.mean([value in first for trial in result.trials[20:] for value in trial.params.values()]) > 0.7


def test_parents_are_distinct_designs(tmp_path):
    tiny = ZDT(parameters=2, levels=3)
    options = {"sampler": "nsga2", "trials": 80, "seed": 0, "population": 8, "storage": tmp_path / "s.log"}
    trials = run_search(tiny.problem, tiny, **options).trials
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "s.log")))
    stored = storage.get_study_system_attrs(storage.get_study_id_from_name("search"))
    generations = [numbers for numbers in stored.values() if isinstance(numbers, list)]
    assert len(generations) == 9
    for numbers in generations:
        assert len({trials[number].key for number in numbers}) == len(numbers)


def test_unknown_sampler_is_refused_with_the_nearest_name():
    with pytest.raises(InvalidProblemError, match="'nsga2'"):
        run_search(SMALL.problem, SMALL, sampler="nsgaii", trials=1)


def test_sampler_seeds_differ_between_trials_and_seeds():
    drawn = set()
    for seed in range(5):
        for number in range(20):
            sampler = make_sampler("random", SMALL.problem, 8, seed, number)
            study = optuna.create_study(sampler=sampler)
            drawn.add(study.ask().suggest_float("x", 0, 1))
    assert len(drawn) == 100
