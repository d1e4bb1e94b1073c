"""Criteria that look at the loss: they need labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.pruning.activations import activation_nodes
from cosim.pruning.criteria.energy import as_maps
from cosim.pruning.criteria.maps import NodeHooks, refuse_not_finite
from cosim.pruning.criteria.registry import Images, LayerScore, ScoreOptions, register
from cosim.pruning.criteria.streaming import Batch, average


def _loss(criterion: str, logits: Tensor, batch: Batch, reduction: str) -> Tensor:
    if batch.labels is None:
        raise PruningError(f"{criterion} needs labels; give batches of (images, labels)")
    return F.cross_entropy(logits, batch.labels, reduction=reduction)


@register("taylor")
def taylor(model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions) -> dict[str, LayerScore]:
    """|mean over positions of activation x gradient of the image's loss|, averaged over images.

    The first-order change of the loss when a feature map is set to zero: Molchanov et al., arXiv 1611.06440,
    equation 8. Layers are normalised where scores are compared (`combining.normalise`), not here.
    """
    graph, nodes = activation_nodes(model, layers, options.where)
    first = {node: name for name, node in reversed(nodes.items())}
    outputs: dict[fx.Node, Tensor] = {}

    def hook(node: fx.Node) -> Callable[[Tensor], Tensor]:
        def keep(output: Tensor) -> Tensor:
            refuse_not_finite(output.detach(), first[node], node)
            outputs[node] = output
            return output.clone()  # what follows may work in place

        return keep

    runner = NodeHooks(model, graph, {node: hook(node) for node in first})

    def sample(batch: Batch) -> dict[str, Tensor]:
        outputs.clear()
        with torch.enable_grad():
            loss = _loss("taylor", runner.run(batch.images.detach().requires_grad_()), batch, "sum")
            gradients = torch.autograd.grad(loss, list(outputs.values()))
        found = {
            node: as_maps(output.detach() * gradient).mean(dim=(2, 3)).abs()
            for (node, output), gradient in zip(outputs.items(), gradients, strict=True)
        }
        return {name: found[node] for name, node in nodes.items()}

    return average(model, images, sample, options)


@register("hessian")
def hessian(model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions) -> dict[str, LayerScore]:
    """‖w‖² x mean curvature of the loss over a filter's weights: tr(H) / 2p x ‖w‖², p weights a filter.

    Yu et al., arXiv 2101.08940, equation 5. The trace is Hutchinson's estimate: the mean of vᵀHv over vectors v of
    random signs (`options.probes` a batch). A filter whose estimate is negative scores 0.
    """
    weights = {name: _leaf(model, name) for name in layers}
    generator = torch.Generator().manual_seed(options.seed)
    sizes = {name: weight[0].numel() for name, weight in weights.items()}
    squares = {name: weight.detach().flatten(1).double().square().sum(dim=1).cpu() for name, weight in weights.items()}

    def sample(batch: Batch) -> dict[str, Tensor]:
        with torch.enable_grad(), _differentiable(weights.values()):
            loss = _loss("hessian", model(batch.images), batch, "mean")
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            traces = [_probe(weights, gradients, generator) for _ in range(options.probes)]
        found = {}
        for name in weights:
            samples = torch.stack([trace[name] for trace in traces]) * squares[name] / (2 * sizes[name])
            if not bool(samples.isfinite().all()):
                raise PruningError(f"{name}: the curvature of the loss is not finite; the network diverged")
            found[name] = samples
        return found

    return average(model, images, sample, options)


def _leaf(model: nn.Module, name: str) -> Tensor:
    module = model.get_submodule(name)
    if parametrize.is_parametrized(module, "weight"):
        raise PruningError(f"{name}: a mask or a quantizer lies on its weight; freeze it before scoring with hessian")
    assert isinstance(module.weight, Tensor)
    return module.weight


def _probe(weights: dict[str, Tensor], gradients: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """vᵀHv of each filter for one vector v of random signs."""
    signs = [torch.randint(0, 2, w.shape, generator=generator).to(w) * 2 - 1 for w in weights.values()]
    products = torch.autograd.grad(gradients, list(weights.values()), grad_outputs=signs, retain_graph=True)
    return {
        name: (sign * product).flatten(1).double().sum(dim=1).cpu()
        for name, sign, product in zip(weights, signs, products, strict=True)
    }


@contextmanager
def _differentiable(weights: Iterable[Tensor]) -> Iterator[None]:
    """Frozen weights take part too."""
    tensors = list(weights)
    before = [tensor.requires_grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.requires_grad_(True)
        yield
    finally:
        for tensor, was in zip(tensors, before, strict=True):
            tensor.requires_grad_(was)
