"""What worker processes do for a run: one pool serves its searches and the trainings of its front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cosim.codesign.evaluator import Evaluator, trained_network
from cosim.codesign.repeats import Repeat
from cosim.codesign.study import StudySpec
from search.distribute import Executor, Outcome

Kind = Literal["design", "dense", "repeat"]


@dataclass(frozen=True)
class Worker:
    """Routes a task, {kind: what}, to what does it; picklable."""

    spec: StudySpec
    out: Path

    def __call__(self, task: dict[str, Any]) -> Any:
        (kind, what), *_ = task.items()
        if kind == "design":
            return Evaluator(self.spec, self.out / "cache")(what)
        if kind == "dense":
            trained_network(self.spec, self.out / "cache", what["seed"])
            return True
        return Repeat(self.spec, self.out)(what)


class Route:
    """An executor for tasks of one kind on a shared pool, which it leaves open."""

    def __init__(self, pool: Executor, kind: Kind) -> None:
        self._pool = pool
        self._kind = kind

    def run(self, calls: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Outcome]]:
        return self._pool.run([{self._kind: dict(call)} for call in calls])

    def __enter__(self) -> Route:
        return self

    def __exit__(self, *exception: object) -> None:
        pass
