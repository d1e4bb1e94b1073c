import json
import math

import numpy as np
import pytest

from search import Constraint, Evaluation, InvalidProblemError, Objective, Problem, Real, SearchSpace

SPACE = SearchSpace([Real("a", 0, 1), Real("b", 0, 1)])
ACCURACY = Objective("accuracy", "maximize", "1", 0.1)
ENERGY = Objective("energy", "minimize", "pJ", 1e6, log=True)
PROBLEM = Problem(SPACE, [ACCURACY, ENERGY], [Constraint("area", "mm²")])


def test_scale_of_the_hypervolume_is_minimized_and_log10_where_asked():
    assert PROBLEM.minimized((0.9, 1e3)) == pytest.approx([-0.9, 3.0])
    assert PROBLEM.reference == pytest.approx([-0.1, 6.0])


def test_infeasible_design_without_objectives_is_told_the_worst_of_each():
    assert PROBLEM.told(Evaluation(None, (2.0,))) == [0.1, 1e6]
    assert PROBLEM.told(Evaluation((0.5, 10.0), (2.0,))) == [0.5, 10.0]


def test_design_is_feasible_while_no_violation_exceeds_zero():
    assert Evaluation((1.0,), (0.0, -1.0)).feasible
    assert not Evaluation((1.0,), (0.0, 1e-9)).feasible


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Evaluation(None), "only a violation > 0"),
        (lambda: Evaluation(None, (0.0,)), "only a violation > 0"),
        (lambda: Evaluation((math.nan,)), "objectives are"),
        (lambda: Evaluation((1.0,), (math.inf,)), "violations are"),
        (lambda: Evaluation((1.0,), (), {"a": object()}), "JSON"),
        (lambda: Evaluation((1.0,), (), {"a": math.nan}), "JSON"),
        (lambda: Objective("a", "up", "1", 0.0), "'up'"),
        (lambda: Objective("a", "minimize", "pJ", 0.0, log=True), "worst is 0.0 pJ"),
        (lambda: Objective("a", "minimize", "pJ", math.inf), "worst is inf"),
        (lambda: Problem(SPACE, []), "at least one objective"),
        (lambda: Problem(SPACE, [ENERGY, ENERGY]), "energy"),
        (lambda: Problem(SPACE, [ENERGY], [Constraint("area", "mm²")] * 2), "area"),
    ],
)
def test_impossible_values_are_refused(make, message):
    with pytest.raises(InvalidProblemError, match=message):
        make()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, "returned a float"),
        (Evaluation((1.0,), (0.0,)), "1 values for 2 objectives"),
        (Evaluation((1.0, 1.0)), "0 violations for 1 constraints"),
        (Evaluation((1.0, 0.0), (0.0,)), "'energy' is 0.0 pJ"),
    ],
)
def test_evaluation_of_another_problem_is_refused(value, message):
    with pytest.raises(InvalidProblemError, match=message):
        PROBLEM.check(value)


def test_evaluation_survives_json_exactly():
    evaluation = Evaluation((np.float64(0.1), 1 / 3), (-0.5,), {"layers": (1, 2), "plan": {"k": None}})
    assert evaluation.objectives == (0.1, 1 / 3)
    assert evaluation.info == {"layers": [1, 2], "plan": {"k": None}}
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation


def test_content_key_ignores_the_order_of_names_and_can_be_replaced():
    assert PROBLEM.key({"a": 1, "b": 2}) == PROBLEM.key({"b": 2, "a": 1}) != PROBLEM.key({"a": 2, "b": 1})
    rounded = Problem(SPACE, [ENERGY], canonical=lambda params: str(round(params["a"], 1)))
    assert rounded.key({"a": 0.51, "b": 0.0}) == rounded.key({"a": 0.49, "b": 1.0})
