"""A training that can be interrupted: its whole state in a file, written after every epoch."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cosim.errors import ConfigError
from cosim.files import replace_file
from cosim.training.recipe import Recipe

_VERSION = 1


@dataclass
class TrainingState:
    """Everything that the rest of a training hangs on, besides data and recipe."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    """Draws the order of the images, epoch by epoch."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of each epoch that is over."""


def identity_of(recipe: Recipe, seed: int, images: int, *, distilled: bool) -> dict[str, Any]:
    """What a checkpoint must share with the training that goes on from it."""
    parts = {**asdict(recipe), "seed": seed, "images": images, "distilled": distilled}
    return json.loads(json.dumps(parts))  # tuples as a file gives them back


def save_checkpoint(path: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Write the state atomically."""
    cuda = torch.cuda.get_rng_state_all() if _on_gpu(state.model) else []
    content = {
        "version": _VERSION,
        "identity": json.dumps(identity),
        "losses": list(state.losses),
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "order": state.order.get_state(),
        "random": [torch.get_rng_state(), *cuda],
    }
    replace_file(path, lambda target: torch.save(content, target))


def load_checkpoint(path: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Fill the state, and torch's random state, from a file.

    Raises
    ------
    ConfigError
        The file is damaged, no checkpoint, or of another training; the message names what differs.
    """
    content = _read(path)
    _check_identity(path, json.loads(content["identity"]), identity)
    try:
        state.model.load_state_dict(content["model"])
        state.optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        first = str(error).splitlines()[-1].strip()
        raise ConfigError(f"{path}: is of another network ({first}); delete it or train that network") from error
    state.order.set_state(content["order"])
    state.losses[:] = content["losses"]
    torch.set_rng_state(content["random"][0])
    if content["random"][1:] and _on_gpu(state.model):
        torch.cuda.set_rng_state_all(content["random"][1:])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: is damaged or no checkpoint ({first}); delete it to start anew") from error
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise ConfigError(f"{path}: is no checkpoint of version {_VERSION}; delete it to start anew")
    return content


def _check_identity(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise ConfigError(
                f"{path}: is of a training with {name} {found.get(name)}, not {wanted[name]}; delete it to start anew, "
                "or train as it was begun"
            )


def _on_gpu(model: nn.Module) -> bool:
    return any(parameter.is_cuda for parameter in model.parameters())
