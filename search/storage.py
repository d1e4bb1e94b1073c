"""One study in its storage: asks whole batches, tells single trials, reads them back."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from search.errors import ResumeError
from search.journal import STUDY_NAME, Journal
from search.problem import Problem, sorted_json
from search.results import TrialRecord
from search.samplers import RECORD_ATTRIBUTE, make_sampler

_CONFIG_ATTRIBUTE = "config"
_ASKED_ATTRIBUTE = "asked"


@dataclass(frozen=True)
class Settings:
    """What decides, with the problem, which trials a search makes."""

    sampler: str
    seed: int
    population: int
    batch_size: int


@dataclass(frozen=True)
class AskedTrial:
    """A trial with parameters and no result yet."""

    number: int
    params: dict[str, Any]


class TrialStore:
    """The study of one search; use `open_store`."""

    def __init__(self, problem: Problem, settings: Settings, journal: Journal) -> None:
        self._problem = problem
        self._settings = settings
        self._journal = journal
        with quiet():
            self._study = self._load() if not journal.empty else self._create()

    def records(self) -> list[TrialRecord]:
        """Finished trials by number."""
        return [_record(trial) for trial in self._trials() if trial.state.is_finished()]

    def running(self) -> list[AskedTrial]:
        """Asked trials without a result, by number."""
        return [AskedTrial(trial.number, trial.params) for trial in self._trials() if not trial.state.is_finished()]

    def ask(self, count: int) -> list[AskedTrial]:
        """Ask for trials and write them as one unit."""
        with quiet():
            first = len(self._trials())
            asked = [self._ask(number) for number in range(first, first + count)]
            self._study.set_user_attr(_ASKED_ATTRIBUTE, first + count)
            self._journal.commit()
        return asked

    def tell(self, record: TrialRecord) -> None:
        """Finish a trial and write it as one unit: crashed ones as failed, infeasible ones with their violations."""
        with quiet():
            trial = Trial(self._study, self._trials()[record.number]._trial_id)
            data = record.to_json()
            trial.set_user_attr(RECORD_ATTRIBUTE, {name: data[name] for name in _STORED})
            if record.evaluation is None:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                for constraint, violation in zip(self._problem.constraints, record.evaluation.violations, strict=True):
                    trial.set_constraint(constraint.name, violation)
                self._study.tell(trial, values=self._problem.told(record.evaluation))
            self._journal.commit()

    def _ask(self, number: int) -> AskedTrial:
        settings = self._settings
        self._study.sampler = make_sampler(settings.sampler, self._problem, settings.population, settings.seed, number)
        return AskedTrial(number, self._problem.space.suggest(self._study.ask()))

    def _trials(self) -> Sequence[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _create(self) -> optuna.Study:
        study = optuna.create_study(
            storage=JournalStorage(self._journal),
            sampler=RandomSampler(seed=0),
            study_name=STUDY_NAME,
            directions=list(self._problem.directions),
        )
        study.set_user_attr(_CONFIG_ATTRIBUTE, _config(self._problem, self._settings))
        self._journal.commit()
        return study

    def _load(self) -> optuna.Study:
        storage = JournalStorage(self._journal)
        study = optuna.load_study(study_name=STUDY_NAME, storage=storage, sampler=RandomSampler(seed=0))
        stored = study.user_attrs.get(_CONFIG_ATTRIBUTE, {})
        given = _config(self._problem, self._settings)
        differences = [
            f"{name}: stored {stored.get(name, 'nothing')}, given {given.get(name, 'nothing')}"
            for name in dict.fromkeys([*stored, *given])
            if stored.get(name) != given.get(name)
        ]
        if differences:
            raise ResumeError(
                f"the storage belongs to another search ({'; '.join(differences)}): "
                "pass what is stored, or another path"
            )
        return study


_STORED = ("key", "state", "evaluation", "error", "seconds")


@contextmanager
def open_store(problem: Problem, settings: Settings, path: Path | None, resume: bool) -> Iterator[TrialStore]:
    """Open or create the storage of a search.

    Raises
    ------
    ResumeError
        The file exists and ``resume`` is False, or it belongs to another search.
    """
    if path is not None and not resume and path.exists() and path.stat().st_size:
        raise ResumeError(f"{path} holds a search already: resume it (resume=True), or pass another path")
    journal = Journal(path)
    try:
        yield TrialStore(problem, settings, journal)
    finally:
        journal.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log and its warnings about experimental parts, inside the block only."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _record(trial: FrozenTrial) -> TrialRecord:
    return TrialRecord.from_json({"number": trial.number, "params": trial.params, **trial.user_attrs[RECORD_ATTRIBUTE]})


def _config(problem: Problem, settings: Settings) -> dict[str, Any]:
    """Flat, so that a difference can be named."""
    return {
        **asdict(settings),
        "identity": problem.identity,
        **{f"parameter {name}": text for name, text in problem.space.describe().items()},
        "space": problem.space.fingerprint(),
        "initial": sorted_json({str(i): params for i, params in enumerate(problem.initial)}),
        **{f"objective {i}": repr(objective) for i, objective in enumerate(problem.objectives)},
        **{f"constraint {i}": repr(constraint) for i, constraint in enumerate(problem.constraints)},
    }
