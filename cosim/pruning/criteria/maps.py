"""Criteria that look at feature maps: all layers in one forward pass a batch, each map reduced where it arises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from cosim.errors import PruningError
from cosim.pruning.activations import activation_nodes
from cosim.pruning.criteria.energy import as_maps, channel_energies, nuclear_norms
from cosim.pruning.criteria.registry import Images, LayerScore, ScoreOptions, register
from cosim.pruning.criteria.streaming import Batch, average

Reduce = Callable[[Tensor], Tensor]
"""Output of a layer on one batch -> samples [S, channels]; not finite where the output is not."""
_CHUNK_ELEMENTS = 1 << 24
"""Elements of the matrices that CHIP makes at once: 64 MiB."""


class NodeHooks(fx.Interpreter):
    """Runs the network and calls a hook with the outputs of some nodes, in place of which it may give others."""

    def __init__(self, model: nn.Module, graph: fx.Graph, hooks: dict[fx.Node, Callable[[Tensor], Tensor]]) -> None:
        super().__init__(model, graph=graph)
        self.extra_traceback = False
        self.hooks = hooks

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        return self.hooks[n](output) if n in self.hooks else output


def refuse_not_finite(values: Tensor, layer: str, node: fx.Node) -> None:
    """Name the layer whose feature map is not finite."""
    if not bool(values.isfinite().all()):
        raise PruningError(
            f"{layer}: its feature map after the activation ({node.name}) is not finite; check the images and that the "
            "network did not diverge"
        )


def _score_maps(
    model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions, reduce: Reduce
) -> dict[str, LayerScore]:
    """Scores of layers whose samples are a function of their feature map; layers that share a map share the score."""
    graph, nodes = activation_nodes(model, layers, options.where)
    first = {node: name for name, node in reversed(nodes.items())}
    samples: dict[str, Tensor] = {}

    def hook(name: str, node: fx.Node) -> Callable[[Tensor], Tensor]:
        def keep(output: Tensor) -> Tensor:
            samples[name] = reduce(output)
            refuse_not_finite(samples[name], name, node)
            return output

        return keep

    runner = NodeHooks(model, graph, {node: hook(name, node) for node, name in first.items()})

    def sample(batch: Batch) -> dict[str, Tensor]:
        samples.clear()
        runner.run(batch.images)
        return dict(samples)

    scores = average(model, images, sample, options)
    return {name: scores[first[node]] for name, node in nodes.items()}


@register("nuclear_norm")
def nuclear_norm(
    model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions
) -> dict[str, LayerScore]:
    """Energy of the feature maps: Σ of their singular values (Yeom, Shim, Hwang, arXiv 2103.10858)."""
    return _score_maps(model, images, layers, options, lambda output: channel_energies(output, options.variant))


@register("hrank")
def hrank(model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions) -> dict[str, LayerScore]:
    """Mean rank of the feature maps (Lin et al., arXiv 2002.10179, equation 4), at float32's default tolerance."""
    return _score_maps(model, images, layers, options, lambda output: _ranks(output, options))


def _ranks(output: Tensor, options: ScoreOptions) -> Tensor:
    maps = as_maps(output)
    if options.variant == "centred":
        maps = maps - maps.mean(dim=0)
    if options.variant == "per_batch":
        maps = maps.transpose(0, 1).flatten(2)[None]
    finite = maps.sum(dim=(-2, -1)).isfinite()
    ranks = torch.linalg.matrix_rank(torch.where(finite[..., None, None], maps, 0)).double()
    return torch.where(finite, ranks, torch.nan)


@register("chip")
def chip(model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions) -> dict[str, LayerScore]:
    """Channel independence: what the nuclear norm of an image's channels x H·W matrix loses with a channel's row.

    Sui et al., arXiv 2110.13981, equation 3.
    """
    return _score_maps(model, images, layers, options, independence)


def independence(output: Tensor) -> Tensor:
    """‖A‖* - ‖A without row c‖* for each image and channel.

    An orthogonal factor changes no singular value: the rows of A = (Q R)ᵀ are the columns of R, which has no more
    than `channels` rows, however large the maps are.

    Parameters
    ----------
    output : Tensor [B, K, H, W], or [B, …, K] of a linear layer

    Returns
    -------
    Tensor [B, K], float64
        NaN for an image whose map is not finite.
    """
    rows = as_maps(output).flatten(2)
    finite = rows.sum(dim=(1, 2)).isfinite()
    factor = torch.linalg.qr(torch.where(finite[:, None, None], rows, 0).mT.float(), mode="r").R
    R, K = factor.shape[1:]
    keep = torch.cat((torch.ones(1, K), 1 - torch.eye(K))).to(factor)  # all channels, then each without its own
    norms = []
    for part in factor.split(max(1, _CHUNK_ELEMENTS // ((K + 1) * R * K))):
        variants = part[:, None] * keep[None, :, None]
        norms.append(nuclear_norms(variants.flatten(0, 1)).reshape(-1, K + 1))
    every = torch.cat(norms)
    loss = (every[:, :1] - every[:, 1:]).clamp_min(0.0)
    return torch.where(finite[:, None], loss, torch.nan)
