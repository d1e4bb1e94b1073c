"""The criteria by name, and what each is given."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.activations import Where
from cosim.pruning.criteria.energy import Variant

Images = Tensor | Iterable[Any]
"""Tensor [N, C, H, W], or an iterable of batches: tensors, or (images, labels, …)."""


@dataclass(frozen=True)
class ScoreOptions:
    """What a criterion may ask for beside the network, the images and the layers.

    Raises
    ------
    PruningError
        A value is outside its range.
    """

    variant: Variant = "per_image"
    """Which matrix the nuclear norm (and the rank) are taken of. **Open** in arXiv 2103.10858: "per_image", the H x W
    map, averaged over images (default), or "per_batch", the B x H·W matrix, averaged over batches. "centred" is ours:
    per image, of the map's difference from the batch's mean map, because what all images share is no information and
    comes back when batch normalisation is recalibrated."""
    where: Where = "after_activation"
    """Which feature map belongs to a layer (see `activation_nodes`)."""
    seed: int = 0
    """For `random`, and for the probes of `hessian`."""
    batch_size: int = 128
    """Images in a batch, if the images are one tensor; >= 1."""
    stable: float | None = None
    """Stop after the batch where the median layer's reliability (see `LayerScore`) reaches this, in (0, 1]."""
    probes: int = 1
    """Random vectors a batch for the trace of `hessian`, >= 1."""

    def __post_init__(self) -> None:
        if self.variant not in ("per_image", "per_batch", "centred"):
            raise PruningError(f'variant = "{self.variant}" is not known; use "per_image", "per_batch" or "centred"')
        if self.where not in ("after_activation", "before_add"):
            raise PruningError(f'where = "{self.where}" is not known; use "after_activation" or "before_add"')
        if self.batch_size < 1 or self.probes < 1:
            raise PruningError(f"batch_size = {self.batch_size}, probes = {self.probes}: each must be at least 1")
        if self.stable is not None and not 0 < self.stable <= 1:
            raise PruningError(f"stable = {self.stable}: must be in (0, 1], or None to score with all images")


@dataclass(frozen=True)
class LayerScore:
    """Scores of one layer's output channels."""

    score: Tensor
    """[channels], float64, >= 0, higher = more important."""
    half_width: Tensor
    """[channels], float64: the mean over all images lies within score ± half_width with 95 % confidence (normal
    approximation); 0 for criteria that need no images, infinite for a single sample."""
    samples: int
    """Images (per batch: batches, or batches times probes) that were averaged; 0 for criteria that need none."""
    reliability: float
    """Rank correlation to be expected with the scores of as many other samples: Spearman-Brown, 2ρ / (1 + ρ), of the
    rank correlation ρ between the scores of even and odd samples. 1 for criteria that need no images."""


Criterion = Callable[[nn.Module, Images, Sequence[str], ScoreOptions], dict[str, LayerScore]]
CRITERIA: dict[str, Criterion] = {}
"""Name -> criterion."""


def register(name: str) -> Callable[[Criterion], Criterion]:
    """Decorator: put a criterion into CRITERIA."""

    def add(criterion: Criterion) -> Criterion:
        CRITERIA[name] = criterion
        return criterion

    return add


def criterion_names() -> tuple[str, ...]:
    """Names of the criteria."""
    return tuple(CRITERIA)


def measure_scores(
    model: nn.Module,
    images: Images,
    layers: Sequence[str],
    criterion: str = "nuclear_norm",
    options: ScoreOptions | None = None,
) -> dict[str, LayerScore]:
    """Score every output channel of the named layers, and say how sure that is; the network is left as it was.

    Parameters
    ----------
    model : nn.Module
    images : Tensor [N, C, H, W], or iterable of batches
        Scaled as the network takes them. A batch is a tensor or a sequence that starts with (images, labels); it is
        read once, and nothing is kept of it. Criteria of weights do not look at it; `taylor` and `hessian` need labels.
    layers : names of Conv2d or Linear modules
    criterion : str
        A name of `criterion_names()`.

    Returns
    -------
    dict of layer name to LayerScore

    Raises
    ------
    PruningError
        Unknown criterion or layer; no images, no labels; a weight or a feature map that is not finite (names the
        layer).
    UntraceableError
        The network cannot be traced, so that its activations cannot be found.
    """
    if criterion not in CRITERIA:
        raise PruningError(f'criterion "{criterion}" is not known; {nearest(criterion, CRITERIA)}')
    modules = dict(model.named_modules())
    for name in layers:
        if not isinstance(modules.get(name), nn.Conv2d | nn.Linear):
            known = [key for key, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)]
            raise PruningError(f"{name}: no Conv2d or Linear layer of that name; {nearest(name, known)}")
    with _evaluating(model):
        return CRITERIA[criterion](model, images, layers, options or ScoreOptions())


def score_layers(
    model: nn.Module,
    images: Images,
    layers: Sequence[str],
    criterion: str = "nuclear_norm",
    *,
    seed: int = 0,
    options: ScoreOptions | None = None,
) -> dict[str, Tensor]:
    """The scores of `measure_scores` alone: layer name -> float64 Tensor [out_channels] on the CPU, >= 0.

    `seed` counts where no options are given.
    """
    measured = measure_scores(model, images, layers, criterion, options or ScoreOptions(seed=seed))
    return {name: layer.score for name, layer in measured.items()}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: the known name that is closest, or all."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f'did you mean "{close[0]}"?' if close else f"known: {', '.join(names)[:200]}"


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
