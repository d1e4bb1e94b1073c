"""The search: one coordinator asks batches, has them evaluated and tells each trial as it finishes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from search.distribute import Evaluate, Executor, Outcome, make_executor
from search.errors import InvalidProblemError, ResumeError, SearchError
from search.problem import Evaluation, Problem
from search.results import SearchResult, State, TrialRecord
from search.samplers import check_sampler
from search.storage import AskedTrial, Settings, TrialStore, open_store

DEFAULT_POPULATION = 24


def run_search(
    problem: Problem,
    evaluate: Evaluate,
    *,
    trials: int,
    seed: int = 0,
    sampler: str = "nsga2",
    population: int = DEFAULT_POPULATION,
    batch_size: int | None = None,
    storage: Path | str | None = None,
    resume: bool = False,
    workers: int = 1,
    initialize: Callable[[], None] | None = None,
    executor: Executor | None = None,
    on_trial: Callable[[TrialRecord], None] | None = None,
) -> SearchResult:
    """Search the space of a problem.

    The trials depend on the problem, the sampler, seed, population and batch size only: not on the number of workers,
    on the order in which evaluations finish, or on interruptions followed by ``resume``.

    Parameters
    ----------
    problem : Problem
    evaluate : callable, params → Evaluation
        A pure function of the parameters; called once per content key. An exception is recorded as a crashed trial and
        the search goes on. Picklable with ``workers`` >= 2.
    trials : int
        Total number, >= 1, those found in the storage included; a larger number extends a finished search.
    seed : int
        >= 0.
    sampler : str
        Key of `search.samplers.SAMPLERS`; "random" is the baseline of the same budget.
    population : int
        Designs per generation, >= 2.
    batch_size : int or None
        Trials asked at once, 1 … population (default). A batch ends with its generation.
    storage : path or None
        Optuna journal file; None keeps the study in memory.
    resume : bool
        Continue the storage, or begin it where there is none. Trials that ran when the search was killed are evaluated
        anew.
    workers : int
        1: in this process; more: that many worker processes.
    initialize : callable or None
        Called once in each worker process.
    executor : Executor or None
        Runs the evaluations instead of ``evaluate`` and ``workers``, and stays open: several searches can share one.
    on_trial : callable or None
        Called with each record after it is stored, in the order of finishing; an exception of it ends the search.

    Returns
    -------
    SearchResult

    Raises
    ------
    InvalidProblemError
        Options out of range, an unknown sampler, workers that do not start.
    ResumeError
        The storage exists and ``resume`` is False, belongs to another search, is damaged, or is in use.
    KeyboardInterrupt
        As pressed; what was told is stored.
    """
    settings = _settings(problem, sampler, seed, population, batch_size)
    _check_at_least(trials=(trials, 1), workers=(workers, 1))
    if resume and storage is None:
        raise InvalidProblemError("resume=True needs a storage: pass the path of the journal file")
    path = None if storage is None else Path(storage)
    own = nullcontext(executor) if executor is not None else make_executor(evaluate, workers, initialize)
    with open_store(problem, settings, path, resume) as store, own as runner:
        for record in _search(problem, settings, trials, store, runner):
            if on_trial is not None:
                on_trial(record)
        return SearchResult(problem, sampler, seed, tuple(store.records()))


def _search(
    problem: Problem, settings: Settings, trials: int, store: TrialStore, executor: Executor
) -> Iterator[TrialRecord]:
    """Finish what is running, then batch after batch; yield each record after it is stored."""
    known = {record.key: record for record in store.records() if record.state != "duplicate"}
    asked = len(store.records()) + len(store.running())
    if asked > trials:
        raise ResumeError(f"the storage holds {asked} trials already: pass trials >= {asked} instead of {trials}")
    batch = store.running()
    while batch or asked < trials:
        for record in _evaluate_batch(problem, batch, known, executor):
            store.tell(record)
            yield record
        to_generation_end = settings.population - asked % settings.population
        count = min(settings.batch_size, trials - asked, to_generation_end)
        batch = store.ask(count) if count else []
        asked += count


def _evaluate_batch(
    problem: Problem, batch: Sequence[AskedTrial], known: dict[str, TrialRecord], executor: Executor
) -> Iterator[TrialRecord]:
    """Records of a batch; ``known`` (content key → first record) answers repeated designs and is extended."""
    groups: dict[str, list[AskedTrial]] = {}
    for trial in batch:
        groups.setdefault(problem.key(trial.params), []).append(trial)
    for key in [key for key in groups if key in known]:
        for trial in groups.pop(key):
            yield _duplicate(trial, known[key])
    keys = list(groups)
    for position, outcome in executor.run([groups[key][0].params for key in keys]):
        first, *repeated = groups[keys[position]]
        known[keys[position]] = record = _settle(problem, first, keys[position], outcome)
        yield record
        for trial in repeated:
            yield _duplicate(trial, record)


def _duplicate(trial: AskedTrial, original: TrialRecord) -> TrialRecord:
    error = None if original.error is None else f"same design as trial {original.number}, which crashed"
    return TrialRecord(trial.number, trial.params, original.key, "duplicate", original.evaluation, error)


def _settle(problem: Problem, trial: AskedTrial, key: str, outcome: Outcome) -> TrialRecord:
    """Record of an evaluation; a value that is not one of this problem counts as a crash."""
    error = outcome.error
    if error is None:
        try:
            problem.check(outcome.value)
        except SearchError as problem_error:
            error = str(problem_error)
    if error is not None:
        return TrialRecord(trial.number, trial.params, key, "crashed", None, error, outcome.seconds)
    evaluation: Evaluation = outcome.value
    state: State = "complete" if evaluation.feasible else "infeasible"
    return TrialRecord(trial.number, trial.params, key, state, evaluation, None, outcome.seconds)


def _settings(problem: Problem, sampler: str, seed: int, population: int, batch_size: int | None) -> Settings:
    check_sampler(sampler)
    _check_at_least(seed=(seed, 0), population=(population, 2))
    size = population if batch_size is None else batch_size
    _check_at_least(batch_size=(size, 1))
    if size > population:
        raise InvalidProblemError(
            f"batch_size is {size}, population {population}: a batch ends with its generation; "
            "pass batch_size <= population"
        )
    return Settings(sampler, seed, population, size)


def _check_at_least(**numbers: tuple[int, int]) -> None:
    for name, (value, least) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidProblemError(f"{name} is {value!r}: pass an int >= {least}")
