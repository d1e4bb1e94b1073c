"""How much of a network a plan keeps: shares of squared weights, layer by layer.

A layer's share is the product of what stays of its filters (their squared weights, or given scores), what its mask
keeps of its squared weights, and what quantisation leaves of them. The importance of a plan is the geometric mean of
the shares of all layers with weights: 1 for the dense network, and small as soon as one layer is left with little, as
a signal that passes through all of them asks for. Its logarithm is a sum over the decisions, and concave in each width,
because the best channels stay. A layer whose filters belong to several groups has the geometric mean of their shares,
weighted by what they own. A mask is taken to keep of the filters that stay what it keeps of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.dpp_layout import magnitude_mask
from cosim.pruning.plan import MaskPlan
from cosim.pruning.quantize import fake_quantize

Scores = Mapping[str, Tensor]
"""Layer -> a score for each filter, >= 0, higher = more important."""


@dataclass(frozen=True)
class ChannelImportance:
    """Which channels of each group stay first, and what the first ones are worth to each weight."""

    order: tuple[tuple[int, ...], ...]
    """Channels of each group, the most important first."""
    shares: Mapping[str, Mapping[int, NDArray[np.float64]]]
    """Weight -> number of a group -> [size + 1] share of the weight in the first channels; the groups of a weight add
    up to at most 1, and what no group owns always stays."""


def channel_importance(
    model: nn.Module, groups: Sequence[ChannelGroup], scores: Scores | None = None
) -> ChannelImportance:
    """Rank the channels of every group by the mean share that they have of the weights that make them.

    Parameters
    ----------
    groups
        Those that can lose channels; their position is their number.
    scores
        In place of squared weights, for the layers that they name; those of channels that leave together add up.

    Raises
    ------
    PruningError
        A weight or a score is not finite, or a score is negative; the message names the layer.
    """
    shares: dict[str, dict[int, NDArray[np.float64]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        for number, group in enumerate(groups):
            for part in group.slices:
                if part.role == "out" and part.name == name:
                    rows = _row_shares(name, parameter, part.dim, scores or {})
                    own = np.array([rows[list(positions)].sum() for positions in part.indices])
                    shares.setdefault(name, {})[number] = shares.get(name, {}).get(number, 0.0) + own
    order = []
    for number, group in enumerate(groups):
        total = sum((own[number] for own in shares.values() if number in own), np.zeros(group.size))
        order.append(tuple(int(channel) for channel in np.argsort(-total, kind="stable")))
    kept = {
        name: {n: np.concatenate([[0.0], np.cumsum(own[list(order[n])])]) for n, own in parts.items()}
        for name, parts in shares.items()
    }
    return ChannelImportance(tuple(order), kept)


def _row_shares(name: str, weight: Tensor, dim: int, scores: Scores) -> NDArray[np.float64]:
    """Share of each position along `dim` of all squared weights (or scores); equal where all are zero."""
    layer = name.removesuffix(".weight")
    if layer in scores and dim == 0:
        worth = scores[layer].detach().double().cpu().flatten()
        if len(worth) != weight.shape[0]:
            raise PruningError(f"{layer}: {len(worth)} scores for {weight.shape[0]} filters; give one a filter")
    else:
        worth = weight.detach().double().cpu().square().movedim(dim, 0).flatten(1).sum(dim=1)
    if not bool(worth.isfinite().all()) or bool((worth < 0).any()):
        raise PruningError(f"{layer}: a weight or score is not finite, or a score negative; give a trained network")
    total = worth.sum()
    equal = torch.full_like(worth, 1 / len(worth))
    return np.asarray((worth / total if total > 0 else equal).numpy())


def weight_quality(weight: Tensor, mask: MaskPlan | None, bits: int | None) -> float:
    """Share of the squared weights that a magnitude mask keeps x that quantisation leaves; None: all."""
    energy = float(weight.detach().double().square().sum())
    if energy == 0.0:
        return 1.0
    quality = 1.0
    if mask is not None:
        kept = weight.detach() * magnitude_mask(weight, mask)
        quality *= float(kept.double().square().sum()) / energy
    if bits is not None:
        error = (fake_quantize(weight.detach(), bits) - weight.detach()).double().square().sum()
        quality *= max(0.0, 1.0 - float(error) / energy)
    return quality


__all__ = ["ChannelImportance", "Scores", "channel_importance", "weight_quality"]
