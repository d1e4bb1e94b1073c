"""fit: training a network in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

from cosim.data.batches import Batch, Loader, cut_batches
from cosim.data.dataset import Split
from cosim.errors import TrainingError
from cosim.training.checkpoint import TrainingState, identity_of, load_checkpoint, save_checkpoint
from cosim.training.judging import predict
from cosim.training.recipe import FitOptions, Recipe
from cosim.training.running import accelerated, device_of, mode, refuse_empty

Penalty = Callable[[nn.Module], Tensor]
_PLAIN = FitOptions()


def fit(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    seed: int,
    penalty: Penalty | None = None,
    on_step: Callable[[float], None] | None = None,
    options: FitOptions = _PLAIN,
) -> tuple[float, ...]:
    """Train the model in place.

    Parameters
    ----------
    model : nn.Module
        Trained in place, where it is; it keeps its train/eval mode, and its weights move to the channels_last memory
        format. On a GPU it is compiled, without `on_step` and `penalty`.
    split : Split
        Training images.
    recipe : Recipe
        Optimiser, learning rate, length, augmentation.
    seed : int
        Order and augmentation of the images, and every draw that the model makes (dropout, Gumbel noise).
    penalty : callable, optional
        Added to the loss of each step.
    on_step : callable, optional
        Called before each step with the share of the training that is done, in [0, 1).
    options : FitOptions
        A teacher, a checkpoint to go on from, a call after every epoch.

    Returns
    -------
    tuple of float
        Mean loss of each epoch.

    Raises
    ------
    TrainingError
        The split is empty, or a loss is not finite.
    ConfigError
        The checkpoint is damaged or of another training.
    """
    refuse_empty(split)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = split.to(device_of(model))
    loss_of = _objective(model, data, recipe, options, penalty, steady=on_step is None and penalty is None)
    optimizer = _optimizer(model, recipe)
    step = _stepper(optimizer, recipe, loss_of, on_step)
    state = TrainingState(model, optimizer, torch.Generator().manual_seed(seed))
    identity = identity_of(recipe, seed, len(split), distilled=options.teacher is not None)
    loader = Loader(data, recipe.batch_size, seed=seed, augmentation=recipe.augmentation)
    with mode(model, training=True), _seeded(model, seed):
        if options.checkpoint is not None and options.checkpoint.exists():
            load_checkpoint(options.checkpoint, state, identity)
        for epoch in range(len(state.losses), recipe.epochs):
            state.losses.append(_epoch(step, loader, recipe, epoch, state.order))
            if options.checkpoint is not None:
                save_checkpoint(options.checkpoint, state, identity)
            if options.on_epoch is not None:
                options.on_epoch(epoch + 1, state.losses[-1])
    return tuple(state.losses)


def _epoch(
    step: Callable[[Batch, float], Tensor], loader: Loader, recipe: Recipe, epoch: int, order: torch.Generator
) -> float:
    """One pass over the data; its mean loss."""
    count = len(loader.split)
    images = torch.randperm(count, generator=order)
    steps, total = len(cut_batches(images, recipe.batch_size)), 0.0
    for number, batch in enumerate(loader.epoch(epoch, images)):
        total += step(batch, (epoch + number / steps) / recipe.epochs).item() * len(batch.labels)
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss is {total} in epoch {epoch + 1} of {recipe.epochs} (lr {recipe.lr:g}, "
                f"{recipe.optimizer}); use a smaller lr, or look for infinite values in the data or the penalty"
            )
    return total / count


def _stepper(
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    loss_of: Callable[[Batch], Tensor],
    on_step: Callable[[float], None] | None,
) -> Callable[[Batch, float], Tensor]:
    """One step on a batch, at the learning rate of the share of the training that is done -> loss."""
    peaks = [group["lr"] for group in optimizer.param_groups]

    def step(batch: Batch, done: float) -> Tensor:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * recipe.rate(done)
        if on_step is not None:
            on_step(done)
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _objective(
    model: nn.Module, data: Split, recipe: Recipe, options: FitOptions, penalty: Penalty | None, *, steady: bool
) -> Callable[[Batch], Tensor]:
    """Batch -> its loss."""
    forward = accelerated(model, steady=steady, precision=recipe.precision)
    soft = _teacher(options.teacher, data, recipe)
    heat, weight = recipe.distill_temperature, recipe.distill_weight

    def loss_of(batch: Batch) -> Tensor:
        logits = forward(batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        if soft is not None:
            loss = (1 - weight) * loss + weight * heat**2 * F.cross_entropy(logits / heat, soft(batch))
        return loss if penalty is None else loss + penalty(model)

    return loss_of


def _teacher(teacher: nn.Module | Tensor | None, data: Split, recipe: Recipe) -> Callable[[Batch], Tensor] | None:
    """Batch -> the teacher's softened probabilities, computed once where the images stay as they are."""
    heat = recipe.distill_temperature
    if teacher is None:
        return None
    if isinstance(teacher, nn.Module) and recipe.augmentation is not None:
        forward = accelerated(teacher, steady=True, precision=recipe.precision)
        return lambda batch: (_judge(teacher, forward, batch.images) / heat).softmax(1)
    logits = predict(teacher, data) if isinstance(teacher, nn.Module) else teacher
    if recipe.augmentation is not None:
        raise TrainingError("teacher logits do not fit augmented images; give the teacher itself as the option")
    if len(logits) != len(data):
        raise TrainingError(f"{len(logits)} teacher logits for {len(data)} images; predict on this split")
    soft = (logits.to(data.images.device) / heat).softmax(1)
    return lambda batch: soft[batch.positions.to(soft.device)]


def _judge(teacher: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with mode(teacher, training=False), torch.no_grad():
        return forward(images)


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
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Random draws hang on the seed; the global random state is as before afterwards."""
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
