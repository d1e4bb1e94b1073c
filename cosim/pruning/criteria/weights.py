"""Criteria that look at the weights only."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.activations import following_norms
from cosim.pruning.criteria.registry import Criterion, Images, LayerScore, ScoreOptions, register


def _known(score: Tensor) -> LayerScore:
    score = score.detach().double().cpu()
    return LayerScore(score, torch.zeros_like(score), samples=0, reliability=1.0)


def _of_filters(measure: Callable[[Tensor], Tensor]) -> Criterion:
    """A criterion from a function of the filters [channels, weights] of a layer."""

    def criterion(
        model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions
    ) -> dict[str, LayerScore]:
        scores = {}
        for name in layers:
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            filters = weight.detach().flatten(1).double()
            if not bool(filters.isfinite().all()):
                raise PruningError(
                    f"{name}: a weight is not finite; score a network that is trained and did not diverge"
                )
            scores[name] = _known(measure(filters))
        return scores

    return criterion


def _distances(filters: Tensor) -> Tensor:
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)


register("l1")(_of_filters(lambda filters: filters.abs().sum(dim=1)))  # Li et al., arXiv 1608.08710, section 3.1
register("l2")(_of_filters(lambda filters: filters.norm(dim=1)))  # He et al., arXiv 1808.06866, section 3.2
register("fpgm")(_of_filters(_distances))  # He et al., arXiv 1811.00250, equation 6: nearness to the geometric median


@register("bn_scale")
def bn_scale(model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions) -> dict[str, LayerScore]:
    """|γ| of the batch normalisation that follows the layer (Liu et al., arXiv 1708.06519, section 3)."""
    scores = {}
    for name, norm in following_norms(model, layers).items():
        if norm is None or norm.weight is None:
            raise PruningError(
                f"{name}: no batch normalisation with a scale follows it, which bn_scale needs; leave the layer out or "
                "use another criterion"
            )
        if not bool(norm.weight.isfinite().all()):
            raise PruningError(f"{name}: the scale of its batch normalisation is not finite; the network diverged")
        scores[name] = _known(norm.weight.abs())
    return scores


@register("random")
def random(model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions) -> dict[str, LayerScore]:
    """Uniform in [0, 1); a layer's draw depends on the seed and its name only."""
    scores = {}
    for name in layers:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{options.seed}/{name}".encode()))
        channels = int(model.get_submodule(name).weight.shape[0])  # type: ignore[index]
        scores[name] = _known(torch.rand(channels, generator=generator, dtype=torch.float64))
    return scores
