"""Means over a stream of batches: one pass, memory that does not grow, a stop once the ranking is stable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.criteria.registry import Images, LayerScore, ScoreOptions

_QUANTILE = 1.959964
"""Of the standard normal distribution at 97.5 %: two-sided 95 %."""


class Batch(NamedTuple):
    """A few images as the network takes them, where its weights are."""

    images: Tensor
    """[B, C, …]"""
    labels: Tensor | None
    """[B], int64."""


Sampler = Callable[[Batch], dict[str, Tensor]]
"""Batch -> layer name -> samples [S, channels] whose mean is the score."""


class _Tally:
    """Mean and variance of samples (Chan, Golub, LeVeque 1979), and the sums of even and odd ones."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean, self.squares = torch.zeros(2, channels, dtype=torch.float64)
        self.halves = torch.zeros(2, channels, dtype=torch.float64)
        self.in_half = [0, 0]

    def add(self, samples: Tensor) -> None:
        """Samples [S, channels]."""
        samples = samples.double().cpu()
        new, total = len(samples), self.count + len(samples)
        mean = samples.mean(dim=0)
        shift = mean - self.mean
        self.squares += (samples - mean).square().sum(dim=0) + shift.square() * (self.count * new / total)
        self.mean += shift * (new / total)
        for half in (0, 1):
            part = samples[(half + self.count) % 2 :: 2]
            self.halves[half] += part.sum(dim=0)
            self.in_half[half] += len(part)
        self.count = total

    def reliability(self) -> float:
        """See `LayerScore`; NaN before there are two samples."""
        if min(self.in_half) == 0:
            return math.nan
        means = [self.halves[half] / self.in_half[half] for half in (0, 1)]
        correlation = rank_correlation(means[0], means[1])
        return 2 * correlation / (1 + correlation) if correlation > 0 else 0.0

    def result(self) -> LayerScore:
        sure = torch.full_like(self.mean, torch.inf)
        if self.count > 1:
            sure = _QUANTILE * (self.squares / (self.count - 1) / self.count).sqrt()
        return LayerScore(self.mean.clamp_min(0.0), sure, self.count, self.reliability())


def average(model: nn.Module, images: Images, sampler: Sampler, options: ScoreOptions) -> dict[str, LayerScore]:
    """Mean of the samples of all batches, or of the first ones if their ranking is stable (`options.stable`).

    Raises
    ------
    PruningError
        There are no images, or they are bytes.
    """
    tallies: dict[str, _Tally] = {}
    for batch in _batches(model, images, options.batch_size):
        for name, samples in sampler(batch).items():
            tallies.setdefault(name, _Tally(samples.shape[1])).add(samples)
        if options.stable is not None and is_stable([t.reliability() for t in tallies.values()], options.stable):
            break
    if not tallies:
        raise PruningError("there are no images to score with; give at least one batch")
    return {name: tally.result() for name, tally in tallies.items()}


def is_stable(reliabilities: Sequence[float], wanted: float) -> bool:
    """Whether half of the layers, or more, have at least the wanted reliability."""
    reached = sum(value >= wanted for value in reliabilities)
    return bool(reliabilities) and 2 * reached >= len(reliabilities)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, with mean ranks for ties; 1 where neither ranks anything, 0 where one of them does not.

    Parameters
    ----------
    one, other : Tensor [n]
    """
    ranks = [_mean_ranks(values) for values in (one, other)]
    centred = [rank - rank.mean() for rank in ranks]
    spread = [float(rank.square().sum()) for rank in centred]
    if min(spread) == 0:
        return float(max(spread) == 0)
    return float((centred[0] * centred[1]).sum()) / math.sqrt(spread[0] * spread[1])


def _mean_ranks(values: Tensor) -> Tensor:
    _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[place]


def _batches(model: nn.Module, images: Images, batch_size: int) -> Iterator[Batch]:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    for item in images.split(batch_size) if isinstance(images, Tensor) else images:
        batch = item if isinstance(item, Tensor) else item[0]
        labels = None if isinstance(item, Tensor) or len(item) < 2 else item[1]
        if not len(batch):
            continue
        if batch.dtype == torch.uint8:
            raise PruningError("the images are bytes; scale them as the network takes them (`Split.batch` does)")
        batch = batch.to(like.device, like.dtype if batch.is_floating_point() else None)
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)  # in which convolutions are fastest
        yield Batch(batch, labels if labels is None else labels.to(like.device))
