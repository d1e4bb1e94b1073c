"""Training and judging of networks on data held as tensors: fit, predict, evaluate, recalibrate_batchnorm.

Everything random hangs on the seed given, and the global random state is left as it was. The last digits of a result
depend on the number of threads (torch sums in another order), which is the caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cosim.data.dataset import Split
from cosim.errors import TrainingError

_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "linear": lambda t: 1.0 - t,
    "cosine": lambda t: 0.5 * (1.0 + math.cos(math.pi * t)),
    "warmup_cosine": lambda t: 0.1 + 4.5 * t if t < 0.2 else 0.5 * (1.0 + math.cos(math.pi * (t - 0.2) / 0.8)),
}


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
    """Share of the teacher's loss, in [0, 1], where teacher logits are given."""
    distill_temperature: float = 4.0
    """> 0; softens teacher and student (Hinton et al., arXiv 1503.02531, section 2)."""

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


def fit(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    seed: int,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    on_step: Callable[[float], None] | None = None,
    teacher_logits: Tensor | None = None,
) -> tuple[float, ...]:
    """Train the model in place.

    Parameters
    ----------
    model : nn.Module
        Trained in place; it keeps its train/eval mode, and its weights move to the channels_last memory format.
    split : Split
        Training images.
    recipe : Recipe
        Optimiser, learning rate, length.
    seed : int
        Order of the images, and every draw that the model makes (dropout, Gumbel noise).
    penalty : callable, optional
        Added to the loss of each step.
    on_step : callable, optional
        Called before each step with the share of the training that is done, in [0, 1).
    teacher_logits : Tensor [N, classes], optional
        `predict(teacher, split)`: trains towards the teacher's probabilities too.

    Returns
    -------
    tuple of float
        Mean loss of each epoch.

    Raises
    ------
    TrainingError
        The split is empty, or a loss is not finite.
    """
    _refuse_empty(split)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss_of = _objective(model, split, recipe, penalty, teacher_logits)
    optimizer = _optimizer(model, recipe)
    peaks = [group["lr"] for group in optimizer.param_groups]

    def step(index: Tensor, done: float) -> Tensor:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * _SCHEDULES[recipe.schedule](done)
        if on_step is not None:
            on_step(done)
        optimizer.zero_grad()
        loss = loss_of(index)
        loss.backward()
        optimizer.step()
        return loss.detach()

    with _mode(model, training=True), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tuple(_epochs(step, len(split), recipe, seed))


def predict(model: nn.Module, split: Split, batch_size: int = 512) -> Tensor:
    """Logits of every image, in eval mode.

    Returns
    -------
    Tensor [N, classes]

    Raises
    ------
    TrainingError
        The split is empty.
    """
    _refuse_empty(split)
    images = _images_for(model, split)
    with _mode(model, training=False), torch.inference_mode():
        logits = torch.cat([model(batch) for batch in images.split(batch_size)])
    return logits.clone()  # an inference tensor could not be used in a later training


def evaluate(model: nn.Module, split: Split, batch_size: int = 512) -> float:
    """Top-1 accuracy in [0, 1].

    Raises
    ------
    TrainingError
        The split is empty.
    """
    hits = predict(model, split, batch_size).argmax(1).cpu() == split.labels.cpu()
    return int(hits.sum()) / len(split)


def recalibrate_batchnorm(
    model: nn.Module, split: Split, *, images: int | None = None, batch_size: int = 1024, seed: int = 0
) -> None:
    """Replace the running statistics of every batch normalisation by those of the data; weights stay as they are.

    The statistics are the plain average over batches of nearly equal size, so with one batch (the default up to
    1,024 images) they are the mean and the unbiased variance of the data, exactly.

    Parameters
    ----------
    model : nn.Module
        Changed in place; modes and momenta are as before afterwards.
    split : Split
        Its labels are not used.
    images : int, >= 2, optional
        Use that many images, drawn by the seed; all by default.
    batch_size : int, >= 2
        Largest batch.

    Raises
    ------
    TrainingError
        Fewer than two images.
    """
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:images]
    if len(order) < 2:
        raise TrainingError(f"batch normalisation needs at least 2 images to recalibrate, got {len(order)}; give more")
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    data = _images_for(model, split)
    with _mode(model, training=False), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.training = True
        for index in order.tensor_split(math.ceil(len(order) / batch_size)):
            model(data[index])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _epochs(step: Callable[[Tensor, float], Tensor], count: int, recipe: Recipe, seed: int) -> Iterator[float]:
    order = torch.Generator().manual_seed(seed)
    for epoch in range(recipe.epochs):
        batches = _batches(torch.randperm(count, generator=order), recipe.batch_size)
        total = 0.0
        for number, index in enumerate(batches):
            total += step(index, (epoch + number / len(batches)) / recipe.epochs).item() * len(index)
            if not math.isfinite(total):
                raise TrainingError(
                    f"the loss is {total} in epoch {epoch + 1} of {recipe.epochs} (lr {recipe.lr:g}, "
                    f"{recipe.optimizer}); use a smaller lr, or look for infinite values in the data or the penalty"
                )
        yield total / count


def _batches(order: Tensor, batch_size: int) -> list[Tensor]:
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _objective(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    penalty: Callable[[nn.Module], Tensor] | None,
    teacher_logits: Tensor | None,
) -> Callable[[Tensor], Tensor]:
    """Index of the images of a batch -> its loss."""
    images = _images_for(model, split)
    labels = split.labels.to(images.device)
    heat, weight = recipe.distill_temperature, recipe.distill_weight
    soft = None
    if teacher_logits is not None:
        if len(teacher_logits) != len(split):
            raise TrainingError(f"{len(teacher_logits)} teacher logits for {len(split)} images; predict on this split")
        soft = (teacher_logits.to(images.device) / heat).softmax(1)

    def loss_of(index: Tensor) -> Tensor:
        logits = model(images[index])
        loss = F.cross_entropy(logits, labels[index])
        if soft is not None:
            loss = (1 - weight) * loss + weight * heat**2 * F.cross_entropy(logits / heat, soft[index])
        return loss if penalty is None else loss + penalty(model)

    return loss_of


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = next((factor for text, factor in recipe.lr_scale if text in name), None)
            decay = recipe.weight_decay if factor is None and parameter.dim() > 1 else 0.0
            groups.setdefault((1.0 if factor is None else factor, decay), []).append(parameter)
    if not groups:
        raise TrainingError("the model has no parameter to train; set requires_grad on some")
    options = [{"params": p, "lr": recipe.lr * f, "weight_decay": d} for (f, d), p in groups.items()]
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(options, lr=recipe.lr, fused=True)
    return torch.optim.SGD(options, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set the mode of every module, and give each its own back."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def _images_for(model: nn.Module, split: Split) -> Tensor:
    """The images where the model is, in the memory format in which convolutions are fastest."""
    parameter = next(model.parameters(), None)
    images = split.images if parameter is None else split.images.to(parameter.device)
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


def _refuse_empty(split: Split) -> None:
    if len(split) == 0:
        raise TrainingError("the split holds no image; give at least one")


def _check(valid: bool, field: str, value: object, allowed: str) -> None:
    if not valid:
        raise TrainingError(f"recipe: {field} is {value!r}; it must be {allowed}")
