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

from cosim.codesign.evaluator import Evaluator, one_thread, problem_of
from cosim.codesign.front import write_front
from cosim.codesign.repeats import repeat_front
from cosim.codesign.study import StudySpec
from cosim.errors import ConfigError
from cosim.files import write_json, write_text
from search import ResumeError, SearchResult, TrialRecord, run_search

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
    spec: StudySpec, out: Path, *, resume: bool = False, workers: int = 1, on_progress: OnProgress | None = None
) -> StudyResult:
    """Run a study into `out`, or continue it there.

    The result depends on the study alone: not on the number of workers, nor on interruptions followed by `resume`.

    Parameters
    ----------
    out
        Without `resume`, a folder that exists is moved aside first (`<out>.old-1`, …).

    Raises
    ------
    ConfigError
        `resume` finds another study in the folder; nothing is changed.
    """
    tell = on_progress or (lambda progress: None)
    one_thread()
    _open(spec, out, resume)
    tell(Progress("dense", 0, 1))
    problem = problem_of(spec, out / "cache")
    tell(Progress("dense", 1, 1))

    def search(sampler: str, phase: Literal["search", "random"]) -> SearchResult:
        total, finished = spec.search.trials, 0

        def on_trial(record: TrialRecord) -> None:
            nonlocal finished
            finished += 1
            tell(Progress(phase, finished, total, record))

        try:
            return run_search(
                problem,
                Evaluator(spec, out / "cache"),
                trials=total,
                seed=spec.seed,
                sampler=sampler,
                population=spec.search.population,
                batch_size=min(spec.search.batch, spec.search.population),
                storage=out / f"{phase}.journal",
                resume=True,
                workers=workers,
                initialize=one_thread,
                on_trial=on_trial,
            )
        except ResumeError as error:
            raise ConfigError(str(error)) from error

    found = search(spec.search.sampler, "search")
    write_json(out / "trials.json", [record.to_json() for record in found.trials])
    random = search("random", "random") if spec.search.random_baseline else None
    repeats = repeat_front(
        spec, found, out, workers=workers, on_done=lambda done, total: tell(Progress("repeats", done, total))
    )
    points = write_front(spec, found, random, repeats, out)
    return StudyResult(out, found, random, points)


def _open(spec: StudySpec, out: Path, resume: bool) -> None:
    """Make the folder, or check that the one there holds this study."""
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    study = out / "study.yaml"
    if resume and study.exists():
        _same_study(text, study)
    elif out.exists() and any(out.iterdir()):
        if resume:
            raise ConfigError(f"{out}: --resume finds no study.yaml there; name the folder of a run, or leave it out")
        _move_aside(out)
    write_text(study, text)


def _same_study(text: str, study: Path) -> None:
    """Trials may be added; everything else must be as it was."""
    now, then = yaml.safe_load(text), yaml.safe_load(study.read_text(encoding="utf-8"))
    for spec in (now, then):
        spec.get("search", {}).pop("trials", None)
    differing = [key for key in now if now[key] != then.get(key)]
    if differing:
        raise ConfigError(
            f"{study}: --resume finds another study there ({', '.join(differing)} differ); "
            "give another --out, or leave --resume out"
        )


def _move_aside(out: Path) -> None:
    number = 1
    while (old := out.with_name(f"{out.name}.old-{number}")).exists():
        number += 1
    out.rename(old)
