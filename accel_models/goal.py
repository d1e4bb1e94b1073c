"""What a mapping or schedule is chosen for, and how latency is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from accel_models.errors import InvalidInputError

Objective = Literal["energy", "latency", "edp"]
Mode = Literal["detailed", "ideal"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Goal:
    """`ideal` latency: the slowest of the array and the memories; `detailed`: also what cannot overlap."""

    objective: Objective = "edp"
    mode: Mode = "detailed"
    search_nodes: int = 0
    """Nodes that the mapper of a flexible array searches beyond its first mapping, a layer; the result is the same on
    every machine, and says how far from the optimum it may be."""

    def __post_init__(self) -> None:
        for name, known in (("objective", OBJECTIVES), ("mode", MODES)):
            if getattr(self, name) not in known:
                raise InvalidInputError(f"{name} {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.search_nodes < 0:
            raise InvalidInputError(f"search_nodes = {self.search_nodes} must be at least 0")


DEFAULT_GOAL = Goal()
