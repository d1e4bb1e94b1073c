"""run_study: search, train the front again, and write everything a user takes home into one folder.

runs/<name>/
  study.yaml front.csv front.json trials.json      what was asked, the front, every trial
  plans/ accelerators/ weights/                    one file each per point of the front
  report.html front.png                            written by cosim.report
  search.journal random.journal cache/             what --resume continues from
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from accel_models.config_files import read_yaml
from cosim.codesign.check import check_study
from cosim.codesign.evaluator import Evaluator, one_thread
from cosim.codesign.front import write_front
from cosim.codesign.problem import problem_of
from cosim.codesign.repeats import repeat_front
from cosim.codesign.study import StudySpec
from cosim.codesign.worker import Route, Worker
from cosim.errors import ConfigError, InfeasibleError
from cosim.files import move_aside, write_json, write_text
from search import Problem, ResumeError, SearchResult, TrialRecord, run_search
from search.distribute import Executor, make_executor

Phase = Literal["dense", "search", "random", "repeats"]


@dataclass(frozen=True)
class Progress:
    """One step of a run, for whoever shows it."""

    phase: Phase
    done: int
    total: int
    record: TrialRecord | None = None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class StudyResult:
    """What a finished run found; `points` are the entries of front.json."""

    out: Path
    search: SearchResult
    random: SearchResult | None
    points: Sequence[dict[str, Any]]


def run_study(
    spec: StudySpec,
    out: Path,
    *,
    resume: bool = False,
    workers: int = 1,
    on_progress: OnProgress | None = None,
    where: str = "study",
) -> StudyResult:
    """Run a study into `out`, or continue it there.

    The result depends on the study alone: not on the number of workers, nor on interruptions followed by `resume`.

    Parameters
    ----------
    out
        Without `resume`, the folder of an earlier run is moved aside first (`<out>.old-1`, …).
    where
        Origin of the study in messages.

    Raises
    ------
    ConfigError
        The study cannot be run, `resume` finds another study in the folder, or the folder holds something else than
        a run; nothing is changed.
    InfeasibleError
        No trial keeps the limits; the trials are in trials.json.
    """
    tell = on_progress or (lambda progress: None)
    one_thread()
    check_study(spec, where)
    _open(spec, out, resume)
    tell(Progress("dense", 0, 1))
    problem = problem_of(spec, out / "cache")
    tell(Progress("dense", 1, 1))
    with make_executor(Worker(spec, out), workers, one_thread) as pool:
        return _phases(_Run(spec, out, pool, tell, where, problem))


def _phases(run: _Run) -> StudyResult:
    """Search, baseline, front."""
    spec, out = run.spec, run.out
    found = _search(run, spec.search.sampler, "search")
    write_text(out / "study.yaml", _study_text(spec))
    write_json(out / "trials.json", [record.to_json() for record in found.trials])
    if not found.front():
        raise InfeasibleError(_nothing_found(found, out))
    random = _search(run, "random", "random") if spec.search.random_baseline else None
    repeats = repeat_front(
        spec,
        found,
        out,
        dense=Route(run.pool, "dense"),
        repeat=Route(run.pool, "repeat"),
        on_done=lambda done, total: run.tell(Progress("repeats", done, total)),
    )
    points = write_front(spec, found, random, repeats, out)
    return StudyResult(out, found, random, points)


@dataclass(frozen=True)
class _Run:
    """What the phases of one run share."""

    spec: StudySpec
    out: Path
    pool: Executor
    tell: OnProgress
    where: str
    problem: Problem


def _search(run: _Run, sampler: str, phase: Literal["search", "random"]) -> SearchResult:
    settings, done = run.spec.search, 0

    def on_trial(record: TrialRecord) -> None:
        nonlocal done
        done = max(done, record.number + 1)  # those of an interrupted run are not told again
        run.tell(Progress(phase, done, settings.trials, record))

    try:
        return run_search(
            run.problem,
            Evaluator(run.spec, run.out / "cache"),
            trials=settings.trials,
            seed=run.spec.seed,
            sampler=sampler,
            population=settings.population,
            batch_size=min(settings.batch, settings.population),
            storage=run.out / f"{phase}.journal",
            resume=True,
            executor=Route(run.pool, "design"),
            on_trial=on_trial,
        )
    except ResumeError as error:
        raise ConfigError(f"{run.where}: search: {error}") from error


def _open(spec: StudySpec, out: Path, resume: bool) -> None:
    """Make the folder, or check that the one there holds this study."""
    study = out / "study.yaml"
    is_run = study.is_file() and any((out / name).exists() for name in ("cache", "search.journal", "front.json"))
    if is_run and resume:
        _same_study(_study_text(spec), study)
        return
    if is_run:
        move_aside(out)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there and no folder of a run (study.yaml and cache); give another --out")
    (out / "cache").mkdir(parents=True)
    write_text(study, _study_text(spec))


def _study_text(spec: StudySpec) -> str:
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _nothing_found(found: SearchResult, out: Path) -> str:
    """Why the front is empty, and how close the closest design came to each limit."""
    counts = ", ".join(f"{number} {state}" for state, number in found.counts().items() if number)
    text = f"none of {len(found.trials)} trials is a feasible design ({counts})"
    for i, constraint in enumerate(found.problem.constraints):
        excess = [r.evaluation.violations[i] for r in found.trials if r.evaluation and r.evaluation.violations[i] > 0]
        if excess:
            text += f"; {constraint.name}: {len(excess)} exceed it, by {min(excess):.3g} {constraint.unit} at least"
    crash = next((record.error for record in found.trials if record.error), None)
    if crash is not None:
        text += f"; first crash: {crash.strip().splitlines()[-1]}"
    return f"{text}; widen the limits or hardware.vary; every trial: {out / 'trials.json'}"


def _same_study(text: str, study: Path) -> None:
    """Trials may be added; everything else must be as it was."""
    now, then = yaml.safe_load(text), read_yaml(study)
    for spec in (now, then):
        spec.get("search", {}).pop("trials", None)
    differing = [key for key in now if now[key] != then.get(key)]
    if differing:
        raise ConfigError(
            f"{study}: --resume finds another study there ({', '.join(differing)} differ); "
            "give another --out, or leave --resume out"
        )
