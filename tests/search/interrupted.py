"""A search in a process of its own, to be killed: python -m tests.search.interrupted STORAGE SAMPLER WORKERS TRIALS."""

import sys

from search import TrialRecord, run_search
from tests.search.evaluations import SMALL, Slow


def report(record: TrialRecord) -> None:
    print(record.number, flush=True)


if __name__ == "__main__":
    storage, sampler, workers, trials = sys.argv[1:]
    run_search(
        SMALL.problem,
        Slow(),
        sampler=sampler,
        trials=int(trials),
        seed=5,
        population=8,
        storage=storage,
        resume=True,
        workers=int(workers),
        on_trial=report,
    )
