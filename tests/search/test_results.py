import json

import pytest

from search import Constraint, Evaluation, Objective, Problem, Real, SearchResult, SearchSpace, TrialRecord, hypervolume

PROBLEM = Problem(
    SearchSpace([Real("x", 0, 1)]),
    [Objective("accuracy", "maximize", "1", 0.5), Objective("energy", "minimize", "pJ", 1e4, log=True)],
    [Constraint("area", "mm²")],
)


def record(number, objectives, state="complete", violation=-1.0, key=None):
    evaluation = None if state == "crashed" else Evaluation(objectives, (violation,), {"n": number})
    error = "Traceback" if state == "crashed" else None
    return TrialRecord(number, {"x": number / 10}, key or str(number), state, evaluation, error, 0.25)


RESULT = SearchResult(
    PROBLEM,
    "nsga2",
    0,
    (
        record(0, (0.7, 100.0)),
        record(1, (0.9, 1000.0)),
        record(2, None, "crashed"),
        record(3, (0.7, 100.0), "duplicate", key="0"),
        record(4, (0.99, 1.0), "infeasible", violation=2.0),
        record(5, (0.6, 200.0)),
        record(6, (0.9, 1000.0)),
        record(7, (0.8, 10.0)),
        record(8, (0.4, 1.0)),
    ),
)


def test_front_holds_feasible_distinct_best_designs_in_order_of_the_first_objective():
    assert [trial.number for trial in RESULT.front()] == [8, 7, 1]


def test_counts_name_every_state():
    assert RESULT.counts() == {"complete": 6, "duplicate": 1, "infeasible": 1, "crashed": 1}
    empty = SearchResult(PROBLEM, "random", 0, ())
    assert empty.counts() == {"complete": 0, "duplicate": 0, "infeasible": 0, "crashed": 0}
    assert empty.front() == ()
    assert len(empty.hypervolume_history()) == 0


def test_hypervolume_is_measured_in_decades_below_the_worst_values():
    history = RESULT.hypervolume_history()
    assert history[0] == pytest.approx(0.2 * 2)
    assert history[1] == pytest.approx(0.2 * 2 + 0.2 * 1)
    assert history[2:7] == pytest.approx([history[1]] * 5)
    assert history[8] == history[7] == pytest.approx(hypervolume([[-0.8, 1.0], [-0.9, 3.0]], [-0.5, 4.0]))


def test_records_survive_json_exactly():
    for trial in RESULT.trials:
        restored = TrialRecord.from_json(json.loads(json.dumps(trial.to_json())))
        assert restored == trial
        assert restored.seconds == trial.seconds


def test_wall_time_is_not_compared():
    evaluation = Evaluation((0.7, 1.0), (0.0,))
    a, b = (TrialRecord(0, {}, "k", "complete", evaluation, None, seconds) for seconds in (1.0, 2.0))
    assert a == b
