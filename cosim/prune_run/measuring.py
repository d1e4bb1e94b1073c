"""Scores in units of damage: how far a network's outputs move where one group alone loses channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cosim.data import Augmentation, Split
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.sensitivity import calibrated_scores, measure_sensitivity
from cosim.training import predict, recalibrate_batchnorm

KEEP = (0.1, 0.25, 0.5, 0.75)
"""Shares of its channels at which a group is measured; below the least one its loss would be a guess."""
IMAGES = 256
"""Training images that measure."""


def divergence(model: nn.Module, sure: Tensor, split: Split, augmentation: Augmentation | None = None) -> float:
    """Mean Kullback-Leibler divergence (nats) of a network's outputs from given logits [N, classes].

    On images on which its batch normalisation is recalibrated first (augmented as in its training), in place.
    """
    recalibrate_batchnorm(model, split, augmentation=augmentation)
    return logits_divergence(predict(model, split), sure)


def logits_divergence(found: Tensor, sure: Tensor) -> float:
    """Mean Kullback-Leibler divergence (nats) of logits [N, classes] from given ones."""
    own, dense = found.log_softmax(1), sure.log_softmax(1)
    return float((dense.exp() * (dense - own)).sum(1).mean())


def measured_scores(
    model: nn.Module,
    example: Tensor,
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, Tensor],
    images: Split,
    augmentation: Augmentation | None = None,
) -> dict[str, Tensor]:
    """A criterion's scores, whose order counts within a group, in nats of measured `divergence`.

    Parameters
    ----------
    model, example, groups, scores
        As for `measure_sensitivity`.
    images : a few hundred that the network was trained on
    augmentation : of its training

    Returns
    -------
    dict of layer name to Tensor [output channels]; see `calibrated_scores`
    """
    sure = predict(model, images)

    def kept(pruned: nn.Module) -> float:
        return -divergence(pruned, sure, images, augmentation)

    return calibrated_scores(groups, scores, measure_sensitivity(model, example, groups, scores, kept, KEEP))


def drawn(split: Split, count: int, seed: int) -> Split:
    """So many images of a split, or all of a smaller one."""
    return split.part(torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count])
