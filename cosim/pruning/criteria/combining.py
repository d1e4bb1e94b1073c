"""Several layers' scores as one: for channels that they share, and between layers of different scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from cosim.errors import PruningError

if TYPE_CHECKING:
    from cosim.pruning.coupling import ChannelGroup

Normalisation = Literal["mean", "max", "l2", "sum", "rank", "none"]


def _ranks(score: Tensor) -> Tensor:
    """Share of channels that score lower, in [0, 1)."""
    return score.argsort(stable=True).argsort().double() / len(score)


_SCALES: dict[Normalisation, Callable[[Tensor], Tensor]] = {
    "mean": lambda score: score.mean(),
    "max": lambda score: score.max(),
    "l2": lambda score: score.norm(),
    "sum": lambda score: score.sum(),
    "none": lambda score: torch.ones((), dtype=torch.float64),
}


def normalise(score: Tensor, how: Normalisation = "mean") -> Tensor:
    """A layer's scores without its scale, so that those of several layers can be compared.

    **Open** in arXiv 2103.10858: by what the scores of a layer are divided. "mean" (default), "max", "l2" or "sum" of
    the layer; "rank": the share of channels that score lower; "none".

    Parameters
    ----------
    score : Tensor [channels], >= 0

    Returns
    -------
    Tensor [channels], float64; zeros where all are zero

    Raises
    ------
    PruningError
        The normalisation is not known.
    """
    score = score.double()
    if how == "rank":
        return _ranks(score)
    if how not in _SCALES:
        raise PruningError(f'normalisation "{how}" is not known; use one of {", ".join((*_SCALES, "rank"))}')
    scale = _SCALES[how](score)
    return score / torch.where(scale > 0, scale, torch.ones_like(scale))


def combine_scores(scores: Sequence[Tensor], how: Normalisation = "mean") -> Tensor:
    """One score for channels that several layers share (a residual stream): normalised per layer, then averaged.

    **Open** in the paper: how coupled layers are combined. Each layer's scores are divided by their mean (or as `how`
    says), so that no layer outvotes the others by its scale; a layer whose scores are all zero adds zeros.

    Parameters
    ----------
    scores : sequence of Tensor [channels], >= 0

    Returns
    -------
    Tensor, [channels], float64, by default of mean 1 (unless a layer is all zero)

    Raises
    ------
    PruningError
        No scores, or of different lengths.
    """
    shapes = {tuple(score.shape) for score in scores}
    if len(shapes) != 1:
        raise PruningError(f"scores of shapes {sorted(shapes)} cannot be combined; give one or more of equal length")
    return torch.stack([normalise(score, how) for score in scores]).mean(dim=0)


def group_score(group: ChannelGroup, scores: Mapping[str, Tensor], how: Normalisation = "mean") -> Tensor:
    """One score for each channel of a group, from the scores of its layers.

    Positions of a layer that leave together (a head, the places of a shuffle) are averaged; a layer of which the group
    owns a part only counts if every channel of the group has a position there.

    Parameters
    ----------
    scores
        Layer name -> Tensor [output channels].

    Raises
    ------
    PruningError
        None of its layers has scores.
    """
    found = []
    for part in group.slices:
        layer = part.name.rpartition(".")[0]
        if part.role == "out" and part.name == f"{layer}.weight" and layer in scores and layer in group.producers:
            score = scores[layer]
            found.append(torch.stack([score[list(positions)].mean() for positions in part.indices if positions]))
    found = [score for score in found if len(score) == group.size]
    if not found:
        raise PruningError(f"group {group.name}: none of its layers has scores; list the channels that stay in keep")
    return combine_scores(found, how)


def weigh_by_readers(
    model: nn.Module, groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Scores times the norm of the weights that read the channel; ours, not of arXiv 2103.10858.

    The energy of a map says what a channel offers, not what the next layers take of it: a convolution passes on at most
    ‖map‖ x ‖its weights for that map‖. Where several layers read a channel, their squared norms are added. Channels
    that no layer with weights reads keep their score.

    Parameters
    ----------
    scores : layer name -> Tensor [output channels], >= 0

    Returns
    -------
    dict of layer name to Tensor [output channels], float64
    """
    found = {name: score.double().clone() for name, score in scores.items()}
    parameters = dict(model.named_parameters())
    for group in groups:
        reads = _reads(group, parameters)
        if reads is None:
            continue
        for part in group.slices:
            layer = part.name.rpartition(".")[0]
            if part.role == "out" and part.name == f"{layer}.weight" and layer in found:
                for read, positions in zip(reads, part.indices, strict=True):
                    found[layer][list(positions)] *= read
    return found


def _reads(group: ChannelGroup, parameters: Mapping[str, Tensor]) -> Tensor | None:
    """Norm of the weights that read each channel of a group, [channels]; None where none does."""
    found = []
    for part in group.slices:
        if part.role == "in" and part.name in parameters:
            weight = parameters[part.name].detach().double().cpu().movedim(part.dim, 0).flatten(1).square().sum(dim=1)
            found.append(torch.stack([weight[list(positions)].sum() for positions in part.indices]))
    return torch.stack(found).sum(dim=0).sqrt() if found else None
