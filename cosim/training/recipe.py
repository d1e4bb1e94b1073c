"""Recipe: how a network is trained; FitOptions: what else happens while it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from cosim.data.batches import Augmentation
from cosim.errors import TrainingError

_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "linear": lambda t: 1.0 - t,
    "cosine": lambda t: 0.5 * (1.0 + math.cos(math.pi * t)),
    "warmup_cosine": lambda t: 0.1 + 4.5 * t if t < 0.2 else 0.5 * (1.0 + math.cos(math.pi * (t - 0.2) / 0.8)),
}
_PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Raises
    ------
    TrainingError
        A value is outside its range.
    """

    epochs: int
    """Passes over the data, >= 0."""
    batch_size: int = 64
    """Images per step, >= 1; a last batch of one image joins the one before it (batch normalisation needs two)."""
    lr: float = 0.1
    """Peak learning rate, > 0."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    """In [0, 1); Nesterov; for "sgd" only."""
    weight_decay: float = 5e-4
    """>= 0; on weights of two dimensions and more, never on biases, normalisation or `lr_scale` parameters."""
    schedule: Literal["constant", "linear", "cosine", "warmup_cosine"] = "cosine"
    """Learning rate over the training; the last three fall to 0, "warmup_cosine" rises over the first 20 %."""
    lr_scale: tuple[tuple[str, float], ...] = ()
    """(text, factor): parameters whose name contains the text learn at factor x lr; the first match counts."""
    distill_weight: float = 0.9
    """Share of the teacher's loss, in [0, 1], where a teacher is given."""
    distill_temperature: float = 4.0
    """> 0; softens teacher and student (Hinton et al., arXiv 1503.02531, section 2)."""
    crop_padding: int = 0
    """Pixels, >= 0: each epoch cuts every image anew out of itself padded by so many (`cosim.data.Augmentation`)."""
    flip: bool = False
    """Mirror images by chance; not for digits or letters."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of convolutions and products; weights, sums of batch normalisation and the loss stay in float32. "auto" is
    bfloat16 on a GPU that has it and float32 elsewhere; a CPU with bfloat16 instructions trains up to 1.5 x faster."""

    def __post_init__(self) -> None:
        _check(self.epochs >= 0, "epochs", self.epochs, "at least 0")
        _check(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _check(self.lr > 0, "lr", self.lr, "more than 0")
        _check(self.optimizer in ("sgd", "adam"), "optimizer", self.optimizer, '"sgd" or "adam"')
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        _check(self.schedule in _SCHEDULES, "schedule", self.schedule, f"one of {', '.join(_SCHEDULES)}")
        _check(0 <= self.distill_weight <= 1, "distill_weight", self.distill_weight, "in [0, 1]")
        _check(self.distill_temperature > 0, "distill_temperature", self.distill_temperature, "more than 0")
        _check(self.crop_padding >= 0, "crop_padding", self.crop_padding, "at least 0")
        _check(self.precision in _PRECISIONS, "precision", self.precision, f"one of {', '.join(_PRECISIONS)}")

    @property
    def augmentation(self) -> Augmentation | None:
        """What happens to the images, if anything."""
        return Augmentation(self.crop_padding, self.flip) if self.crop_padding or self.flip else None

    def rate(self, done: float) -> float:
        """Share of the peak learning rate once `done`, in [0, 1), of the training is over."""
        return _SCHEDULES[self.schedule](done)


@dataclass(frozen=True)
class FitOptions:
    """What else a training does."""

    teacher: nn.Module | Tensor | None = None
    """Train towards the probabilities of this network too (as the recipe's distill_… say), or of these logits
    [N, classes], `predict(teacher, split)`: those cost nothing per epoch, but know no augmentation."""
    checkpoint: Path | None = None
    """Written after every epoch; where it is there at the start, the training goes on from it, to the same bits."""
    on_epoch: Callable[[int, float], None] | None = None
    """Called after each epoch with its number, from 1, and its mean loss."""


def _check(valid: bool, field: str, value: object, allowed: str) -> None:
    if not valid:
        raise TrainingError(f"recipe: {field} is {value!r}; it must be {allowed}")
