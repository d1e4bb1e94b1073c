import numpy as np
import optuna
import pytest

from search import Categorical, Integer, InvalidProblemError, Real, SearchSpace

SPACE = SearchSpace(
    [
        Categorical("dataflow", ("weight_stationary", "output_stationary")),
        Categorical("bits", (4, 8, 16)),
        Categorical("skip", (None, True, 0.5)),
        Integer("rows", 4, 32, step=4),
        Integer("glb", 1, 1000, log=True),
        Real("keep", 0.1, 1.0),
        Real("bandwidth", 1e-3, 10.0, log=True),
    ]
)


def test_samples_are_valid_and_repeat_with_the_generator_state():
    drawn = [SPACE.sample(np.random.default_rng(seed)) for seed in range(200)]
    for values in drawn:
        SPACE.validate(values)
    assert drawn == [SPACE.sample(np.random.default_rng(seed)) for seed in range(200)]
    assert {values["rows"] for values in drawn} == set(range(4, 33, 4))
    assert {values["skip"] for values in drawn} == {None, True, 0.5}


def test_log_parameters_are_drawn_evenly_per_octave():
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng) for _ in range(2000)]
    assert 0.45 < np.mean([values["bandwidth"] < 0.1 for values in drawn]) < 0.55
    assert np.mean([values["glb"] <= 31 for values in drawn]) > 0.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 6}, "'rows' has value 6.*nearest valid: 4"),
        ({"rows": 99}, "nearest valid: 32"),
        ({"rows": True}, "'rows' has value True"),
        ({"keep": 1.5}, "'keep' has value 1.5.*nearest valid: 1.0"),
        ({"keep": float("nan")}, "'keep' has value nan"),
        ({"bits": 7}, "'bits' has value 7.*nearest valid: 8"),
        ({"skip": 1}, "'skip' has value 1,"),
        ({"dataflow": "weight_stationery"}, "nearest valid: 'weight_stationary'"),
        ({"row": 4}, "no parameter 'row'.*'rows'"),
    ],
)
def test_invalid_values_are_refused_with_the_nearest_valid_one(change, message):
    with pytest.raises(InvalidProblemError, match=message):
        SPACE.validate({**SPACE.sample(np.random.default_rng(0)), **change})


def test_missing_value_is_refused_by_name():
    values = SPACE.sample(np.random.default_rng(0))
    del values["glb"]
    with pytest.raises(InvalidProblemError, match="'glb' has no value"):
        SPACE.validate(values)


def test_optuna_suggestions_are_valid_and_cover_the_space():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        SPACE.validate(SPACE.suggest(trial))
        assert trial.distributions == SPACE.distributions


@pytest.mark.parametrize(
    ("define", "message"),
    [
        (lambda: Integer("a", 5, 1), "low 5 is above high 1"),
        (lambda: Integer("a", 0, 10, step=3), "the nearest is 9"),
        (lambda: Integer("a", 0, 10, log=True), "low > 0"),
        (lambda: Integer("a", 1, 10, step=2, log=True), "step is 2"),
        (lambda: Integer("a", 1.0, 2), "low is 1.0; pass an int"),
        (lambda: Real("a", 0.0, 1.0, log=True), "low > 0"),
        (lambda: Real("a", 0.0, float("inf")), "high is inf"),
        (lambda: Categorical("a", ()), "no choices"),
        (lambda: Categorical("a", (1, True)), "equal values"),
        (lambda: Categorical("a", ((1, 2),)), "is a tuple"),
        (lambda: Categorical("a", (float("nan"),)), "nan"),
        (lambda: Real("", 0.0, 1.0), "named ''"),
        (lambda: SearchSpace([]), "at least one parameter"),
        (lambda: SearchSpace([Real("a", 0, 1), Real("a", 0, 2)]), r"\['a'\] are defined twice"),
    ],
)
def test_impossible_definitions_are_refused(define, message):
    with pytest.raises(InvalidProblemError, match=message):
        define()


def test_fingerprint_is_equal_for_equal_spaces_only():
    assert SearchSpace([Real("a", 0, 1)]).fingerprint() == SearchSpace([Real("a", 0.0, 1.0)]).fingerprint()
    others = [
        SearchSpace([Real("b", 0, 1)]),
        SearchSpace([Real("a", 0, 2)]),
        SearchSpace([Integer("a", 0, 1)]),
        SearchSpace([Real("a", 0, 1), Real("b", 0, 1)]),
        SearchSpace([Real("b", 0, 1), Real("a", 0, 1)]),
    ]
    assert len({space.fingerprint() for space in [SearchSpace([Real("a", 0, 1)]), *others]}) == 6
