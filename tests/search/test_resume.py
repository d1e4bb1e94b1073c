import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search import Objective, Problem, Real, ResumeError, SearchSpace, run_search, space
from tests.search.evaluations import SMALL, Calls, Crashing, InterruptionError

ROOT = Path(__file__).parents[2]
OPTIONS = {"trials": 40, "seed": 5, "population": 8}


def kill_after(told: int, storage: Path, sampler: str, workers: int) -> None:
    """Run a search in a process of its own and kill -9 it after some trials."""
    command = [sys.executable, "-m", "tests.search.interrupted", str(storage), sampler, str(workers), "40"]
    environment = {**os.environ, "SEARCH_TEST_STORAGE": str(storage)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(told):
            assert process.stdout.readline()
        assert not Path("/proc").exists() or _processes_of(storage)
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("sampler", "told"), [("nsga2", 3), ("nsga2", 21), ("tpe", 13)])
def test_killed_process_resumes_to_the_same_trials(sampler, told, tmp_path):
    whole = run_search(SMALL.problem, SMALL, sampler=sampler, **OPTIONS)
    kill_after(told, tmp_path / "s.log", sampler, workers=1)
    evaluate = Calls()
    result = run_search(SMALL.problem, evaluate, sampler=sampler, storage=tmp_path / "s.log", resume=True, **OPTIONS)
    assert result == whole
    assert len(evaluate.keys) <= 40 - told


def test_process_killed_twice_with_workers_resumes_and_leaves_no_workers(tmp_path):
    whole = run_search(SMALL.problem, SMALL, **OPTIONS)
    for told in (5, 11):
        kill_after(told, tmp_path / "s.log", "nsga2", workers=2)
        deadline = time.monotonic() + 10
        while _processes_of(tmp_path / "s.log") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _processes_of(tmp_path / "s.log")
    assert run_search(SMALL.problem, SMALL, storage=tmp_path / "s.log", resume=True, **OPTIONS) == whole


def _processes_of(storage: Path) -> list[Path]:
    """Living processes started by the killed search and its workers (none are found without /proc)."""
    return [process for process in Path("/proc").glob("[0-9]*") if _has(process, f"SEARCH_TEST_STORAGE={storage}")]


def _has(process: Path, variable: str) -> bool:
    try:
        return variable.encode() in (process / "environ").read_bytes()
    except OSError:
        return False


@pytest.fixture
def finished(tmp_path):
    """Storage of a finished search with crashes, and its result."""
    path = tmp_path / "s.log"
    return path, run_search(SMALL.problem, Crashing(), storage=path, **OPTIONS)


def resume(path: Path, evaluate=None, **changes):
    options = {**OPTIONS, **changes}
    problem = options.pop("problem", SMALL.problem)
    return run_search(problem, evaluate or Crashing(), storage=path, resume=True, **options)


def test_storage_and_memory_give_the_same_trials(finished):
    assert finished[1] == run_search(SMALL.problem, Crashing(), **OPTIONS)


def test_finished_search_is_read_back_without_evaluations_or_writes(finished):
    path, result = finished
    content = path.read_bytes()
    evaluate = Calls()
    assert resume(path, evaluate) == result
    assert evaluate.keys == []
    assert path.read_bytes() == content


def test_every_prefix_of_the_file_resumes_to_the_same_trials(finished, tmp_path):
    """A kill can end the file after any byte."""
    path, result = finished
    content = path.read_bytes()
    starts = [i for i, byte in enumerate(content) if byte == ord("\n")]
    cuts = [
        1,
        14,
        starts[0] + 1,
        starts[1] - 5,
        *(starts[i] + shift for i in range(2, len(starts), 45) for shift in (-9, 1)),
    ]
    for cut in cuts:
        path.write_bytes(content[:cut])
        assert resume(path).trials == result.trials


def test_torn_tail_of_zero_bytes_is_cut_off(finished):
    path, result = finished
    path.write_bytes(path.read_bytes()[:-100] + bytes(300))
    assert resume(path) == result


def test_damage_before_the_end_is_refused_by_line_and_nothing_is_changed(finished):
    path, _ = finished
    lines = path.read_bytes().splitlines(keepends=True)
    lines[10] = lines[10][:20] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(ResumeError, match="line 11, is damaged"):
        resume(path)
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("content", [b"notes\n", b'{"op_code":0,"study_name":"mine"}\n{"op_code":2}\n', b"\0\0"])
def test_foreign_file_is_refused_and_not_changed(content, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ResumeError, match="not the journal of a search"):
        resume(path)
    with pytest.raises(ResumeError, match="already"):
        run_search(SMALL.problem, SMALL, storage=path, **OPTIONS)
    assert path.read_bytes() == content


def test_existing_storage_without_resume_is_refused_and_not_changed(finished):
    path, _ = finished
    content = path.read_bytes()
    with pytest.raises(ResumeError, match=r"resume it .*or pass another path"):
        run_search(SMALL.problem, SMALL, storage=path, **OPTIONS)
    assert path.read_bytes() == content


def test_resume_without_a_storage_begins_one(tmp_path):
    path = tmp_path / "new" / "s.log"
    assert resume(path) == run_search(SMALL.problem, Crashing(), **OPTIONS)


OTHER_RANGE = Problem(
    SearchSpace([Real("x0", 0, 1), *SMALL.problem.space.parameters[1:]]),
    SMALL.problem.objectives,
    SMALL.problem.constraints,
)
OTHER_WORST = Problem(
    SMALL.problem.space,
    [Objective("f1", "minimize", "1", 99.0), SMALL.problem.objectives[1]],
    SMALL.problem.constraints,
)
OTHER_IDENTITY = Problem(
    SMALL.problem.space, SMALL.problem.objectives, SMALL.problem.constraints, identity="other data"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 6}, "seed: stored 5, given 6"),
        ({"sampler": "random"}, "sampler: stored nsga2, given random"),
        ({"population": 10, "batch_size": 8}, "population: stored 8, given 10"),
        ({"batch_size": 4}, "batch_size: stored 8, given 4"),
        ({"problem": OTHER_RANGE}, "parameter x0: stored .*Integer.* given .*Real"),
        ({"problem": OTHER_WORST}, "objective 0: stored .*11.0.* given .*99.0"),
        ({"problem": OTHER_IDENTITY}, "identity: stored , given other data"),
        ({"trials": 39}, "holds 40 trials already: pass trials >= 40 instead of 39"),
    ],
)
def test_storage_of_another_search_is_refused_by_the_difference(finished, changes, message):
    path, _ = finished
    content = path.read_bytes()
    with pytest.raises(ResumeError, match=message) as error:
        resume(path, **changes)
    assert path.read_bytes() == content
    assert "space: stored" not in str(error.value) or "problem" in changes


def test_finished_search_can_be_extended(finished):
    path, _ = finished
    longer = run_search(SMALL.problem, Crashing(), **{**OPTIONS, "trials": 57})
    assert resume(path, trials=57) == longer


def test_storage_in_use_is_refused(finished):
    path, _ = finished
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ResumeError, match="being written by another process"):
            resume(path)


def test_stale_lock_of_optuna_does_not_block(finished):
    path, result = finished
    os.symlink(path, f"{path}.lock")
    start = time.monotonic()
    assert resume(path) == result
    assert time.monotonic() - start < 5


def test_keyboard_interrupt_propagates_and_the_storage_resumes(tmp_path):
    calls = []

    def interrupted(params):
        calls.append(params)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return SMALL(params)

    path = tmp_path / "s.log"
    with pytest.raises(KeyboardInterrupt):
        run_search(SMALL.problem, interrupted, storage=path, **OPTIONS)
    assert resume(path, SMALL) == run_search(SMALL.problem, SMALL, **OPTIONS)


def test_interruption_between_the_parameters_of_a_batch_leaves_no_half_batch(tmp_path, monkeypatch):
    path = tmp_path / "s.log"
    asked = []

    original = space._suggest

    def stop(trial, parameter):
        asked.append(parameter)
        if len(asked) == 30:
            raise InterruptionError
        return original(trial, parameter)

    monkeypatch.setattr(space, "_suggest", stop)
    with pytest.raises(InterruptionError):
        run_search(SMALL.problem, SMALL, storage=path, **OPTIONS)
    monkeypatch.undo()
    assert resume(path, SMALL) == run_search(SMALL.problem, SMALL, **OPTIONS)


def test_journal_is_one_that_optuna_reads(finished):
    path, result = finished
    study = optuna.load_study(study_name="search", storage=JournalStorage(JournalFileBackend(str(path))))
    assert [trial.params for trial in study.trials] == [trial.params for trial in result.trials]
    failed = [trial.evaluation is None for trial in result.trials]
    assert [trial.state == optuna.trial.TrialState.FAIL for trial in study.trials] == failed
    feasible = {trial.number for trial in study.best_trials}
    assert {record.number for record in result.front()} <= feasible


def test_a_trial_is_on_disk_before_it_is_reported(tmp_path):
    path = tmp_path / "s.log"

    def check(record):
        stored = [json.loads(line) for line in path.read_text().splitlines()]
        assert sum(log["op_code"] == 6 for log in stored) == len(seen) + 1
        seen.append(record)

    seen = []
    run_search(SMALL.problem, SMALL, storage=path, on_trial=check, **OPTIONS)
    assert len(seen) == 40


def test_what_was_told_is_synced_to_the_disk_in_time(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    run_search(SMALL.problem, SMALL, storage=tmp_path / "rare.log", **OPTIONS)
    assert 1 <= len(synced) < 10
    monkeypatch.setattr("search.journal.SYNC_SECONDS", -1.0)
    run_search(SMALL.problem, SMALL, storage=tmp_path / "always.log", **OPTIONS)
    assert len(synced) > 40
