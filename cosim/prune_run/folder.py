"""The folder of a run: what --resume goes on from, and what is left at the end.

recipe.yaml                     what was asked for; --resume refuses another
dense.safetensors               the dense network, if it was trained here
step-01.safetensors, .json      after each step but the last: weights, plan, accuracy
*.checkpoint                    a training that is not over
plan.json weights.safetensors masks.safetensors results.json *.png
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from accel_models.config_files import read_yaml
from cosim.errors import ConfigError
from cosim.files import move_aside, read_json, read_tensors, write_json, write_tensors, write_text
from cosim.prune_run.recipe import PruneRecipe, option
from cosim.pruning.plan import PruningPlan

RECIPE, RESULTS = "recipe.yaml", "results.json"


@dataclass(frozen=True)
class Step:
    """What a step of removal left."""

    plan: PruningPlan
    state: dict[str, Tensor]
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Folder:
    """Where a run keeps its files."""

    path: Path

    def checkpoint(self, name: str) -> Path:
        return self.path / f"{name}.checkpoint"

    def dense(self) -> dict[str, Tensor] | None:
        """Weights of the dense network, if they are there."""
        file = self.path / "dense.safetensors"
        return read_tensors(file) if file.exists() else None

    def keep_dense(self, state: dict[str, Tensor]) -> None:
        write_tensors(self.path / "dense.safetensors", state)
        self.checkpoint("dense").unlink(missing_ok=True)

    def step(self, number: int) -> Step | None:
        """What a step left, if it is over."""
        file = self._step(number)
        if not file.exists():
            return None
        content = read_json(file)
        plan = PruningPlan.model_validate_json(content["plan"])
        return Step(plan, read_tensors(file.with_suffix(".safetensors")), content["accuracy"])

    def keep_step(self, number: int, step: Step) -> None:
        """Weights first: the JSON says that the step is over."""
        file = self._step(number)
        write_tensors(file.with_suffix(".safetensors"), step.state)
        write_json(file, {"accuracy": step.accuracy, "plan": step.plan.to_json()})
        self.checkpoint(file.stem).unlink(missing_ok=True)

    def _step(self, number: int) -> Path:
        return self.path / f"step-{number:02d}.json"


def open_folder(path: Path, recipe: PruneRecipe, *, resume: bool) -> Folder:
    """Make the folder of a run, or go on in it.

    An earlier run is moved aside (`<path>.old-1`, …) where it is not resumed.

    Raises
    ------
    ConfigError
        The folder holds something else, or `resume` finds another run there; the message names what differs.
    """
    wanted = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    is_run = (path / RECIPE).is_file()
    if is_run and resume:
        _check_same(wanted, path / RECIPE)
        return Folder(path)
    if is_run:
        move_aside(path)
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"--out {path}: is there and no folder of a run ({RECIPE}); give another")
    write_text(path / RECIPE, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True))
    return Folder(path)


def _check_same(wanted: dict[str, Any], file: Path) -> None:
    found = read_yaml(file)
    for name in (*wanted, *found):
        if wanted.get(name) != found.get(name):
            raise ConfigError(
                f"{file}: --resume finds a run with {name} {found.get(name, 'not given')}, not "
                f"{wanted.get(name, 'not given')}; give {option(name)} as it was, another --out, or leave --resume out"
            )
