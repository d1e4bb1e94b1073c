"""Where evaluations run: in this process, or in worker processes. What they return is the same."""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from search.errors import InvalidProblemError

Params: TypeAlias = Mapping[str, Any]
Evaluate: TypeAlias = Callable[[dict[str, Any]], Any]

WORKER_DIED = "the worker process died twice in this evaluation (killed, out of memory, or a crash in native code)"


@dataclass(frozen=True)
class Outcome:
    """What one call of ``evaluate`` returned, or the traceback of its exception, and its wall time."""

    value: Any
    error: str | None
    seconds: float


class Executor(Protocol):
    """Runs evaluations; a context manager, because it may own processes."""

    def run(self, calls: Sequence[Params]) -> Iterator[tuple[int, Outcome]]:
        """Evaluate every parameter set; yield (position in ``calls``, outcome) as each finishes."""
        ...

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *exception: object) -> None: ...


def make_executor(evaluate: Evaluate, workers: int, initialize: Callable[[], None] | None = None) -> Executor:
    """Make the executor for a number of workers.

    Parameters
    ----------
    evaluate : callable, params → Evaluation
        With ``workers`` >= 2 picklable; sent to each worker once.
    workers : int
        1: in this process; more: that many spawned processes.
    initialize : callable or None
        Called once in each worker process (thread counts, imports); picklable. Not called in this process.
    """
    return InProcess(evaluate) if workers == 1 else WorkerPool(evaluate, workers, initialize)


class InProcess(AbstractContextManager["InProcess"]):
    """One evaluation after the other in this process."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate

    def run(self, calls: Sequence[Params]) -> Iterator[tuple[int, Outcome]]:
        """Evaluate in order."""
        for position, params in enumerate(calls):
            yield position, _call(self._evaluate, params)

    def __exit__(self, *exception: object) -> None:
        pass


class WorkerPool(AbstractContextManager["WorkerPool"]):
    """Spawned processes, at most one evaluation per process at a time.

    When a worker dies, every evaluation that ran at that time is suspect: each is run once more, alone; one that kills
    its worker again is recorded as crashed.
    """

    def __init__(self, evaluate: Evaluate, workers: int, initialize: Callable[[], None] | None = None) -> None:
        self._workers = workers
        self._arguments = (evaluate, initialize)
        try:
            pickle.dumps(self._arguments)
        except Exception as error:
            raise InvalidProblemError(
                f"evaluate and initialize must be picklable with workers >= 2 ({error}): use functions or objects of "
                "classes defined at the top of a module, or pass workers=1"
            ) from error
        self._pool: ProcessPoolExecutor | None = None

    def run(self, calls: Sequence[Params]) -> Iterator[tuple[int, Outcome]]:
        """Evaluate in parallel; yield in the order of finishing."""
        waiting = deque(enumerate(calls))
        running: dict[Future[Outcome], int] = {}
        while waiting or running:
            suspects: list[int] = []
            while waiting and len(running) < self._workers and not suspects:
                position, params = waiting.popleft()
                future = self._submit(params)
                if future is None:
                    suspects.append(position)
                else:
                    running[future] = position
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                position = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(position)
                else:
                    yield position, _outcome(future)
            if suspects:
                yield from self._after_death(suspects, running, calls)

    def __exit__(self, *exception: object) -> None:
        """Idle workers end by themselves and clean up; after an exception they are stopped in what they evaluate."""
        if exception[0] is None and self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
        self._stop()

    def _after_death(
        self, suspects: list[int], running: dict[Future[Outcome], int], calls: Sequence[Params]
    ) -> Iterator[tuple[int, Outcome]]:
        """Collect what else ran in the broken pool, then run the suspects one by one."""
        wait(running)
        for future, position in running.items():
            if isinstance(future.exception(), BrokenProcessPool):
                suspects.append(position)
            else:
                yield position, _outcome(future)
        running.clear()
        self._stop()
        for position in sorted(suspects):
            yield position, self._alone(calls[position])

    def _alone(self, params: Params) -> Outcome:
        start = time.perf_counter()
        future = self._submit(params)
        if future is not None and not isinstance(future.exception(), BrokenProcessPool):
            return _outcome(future)
        self._stop()
        return Outcome(None, WORKER_DIED, time.perf_counter() - start)

    def _submit(self, params: Params) -> Future[Outcome] | None:
        """None when a worker died between two evaluations."""
        try:
            return self._started().submit(_call_worker, dict(params))
        except BrokenProcessPool:
            return None

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=self._arguments,
            )
            self._check_start(self._pool)
        return self._pool

    def _check_start(self, pool: ProcessPoolExecutor) -> None:
        try:
            problem = pool.submit(_start_error).result()
        except BrokenProcessPool as error:
            self._stop()
            raise InvalidProblemError(
                "the worker processes do not start: evaluate and initialize must be importable from a module, and a "
                'script that uses workers >= 2 needs `if __name__ == "__main__":`; or pass workers=1'
            ) from error
        if problem is not None:
            self._stop()
            raise InvalidProblemError(
                f"initialize failed in a worker process: correct it, or pass workers=1\n{problem}"
            )

    def _stop(self) -> None:
        """End the workers without waiting for what they evaluate."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        processes = list((pool._processes or {}).values())  # Python 3.14 has kill_workers() for this
        for process in processes:
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(future: Future[Outcome]) -> Outcome:
    """The outcome, or what kept it from coming back (a value that cannot be pickled)."""
    try:
        return future.result()
    except Exception:
        return Outcome(None, traceback.format_exc(), 0.0)


# In the worker process.

_evaluate: Evaluate | None = None
_initialize_error: str | None = None


def _start_worker(evaluate: Evaluate, initialize: Callable[[], None] | None) -> None:
    global _evaluate, _initialize_error
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _evaluate = evaluate
    if initialize is not None:
        try:
            initialize()
        except Exception:
            _initialize_error = traceback.format_exc()


def _exit_with_parent() -> None:
    """A killed coordinator cannot end its workers, and they hold both ends of their queue: watch the parent instead."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _start_error() -> str | None:
    return _initialize_error


def _call_worker(params: dict[str, Any]) -> Outcome:
    if _evaluate is None:
        raise AssertionError("a worker without evaluate")
    return _call(_evaluate, params)


def _call(evaluate: Evaluate, params: Params) -> Outcome:
    start = time.perf_counter()
    try:
        return Outcome(evaluate(dict(params)), None, time.perf_counter() - start)
    except (Exception, SystemExit):
        return Outcome(None, traceback.format_exc(), time.perf_counter() - start)
