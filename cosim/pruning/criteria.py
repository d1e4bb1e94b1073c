"""Which filters matter: one score per output channel of each layer, higher = keep.

A criterion is a function with one contract (see `score_layers`), registered in CRITERIA. `nuclear_norm` is
energy-aware pruning (Yeom, Shim, Hwang 2021, arXiv 2103.10858): the energy of the feature map that a filter produces,
after the activation. `l1`, `l2` and `random` are baselines and look at the weights only.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from cosim.errors import PruningError
from cosim.pruning.activations import activation_nodes

Variant = Literal["per_image", "per_batch"]
Images = Tensor | Iterable[Any]
_CHUNK_ELEMENTS = 1 << 22
"""Map elements converted to float64 at once: 32 MiB."""
_GRAM_TOLERANCE = 1e-9
"""Relative error of the trace above which eigenvalues of a Gram matrix are not believed."""


@dataclass(frozen=True)
class ScoreOptions:
    """What a criterion may ask for beside the network, the images and the layers."""

    variant: Variant = "per_image"
    seed: int = 0
    batch_size: int = 128


Criterion = Callable[[nn.Module, Images, Sequence[str], ScoreOptions], dict[str, Tensor]]
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


def score_layers(
    model: nn.Module,
    images: Images,
    layers: Sequence[str],
    criterion: str = "nuclear_norm",
    variant: Variant = "per_image",
    *,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, Tensor]:
    """Score every output channel of the named layers; the network is left as it was.

    Parameters
    ----------
    model : nn.Module
    images : Tensor [N, C, H, W], or iterable of batches
        A batch is a tensor or a sequence that starts with one (images, labels). Weight criteria do not look at it.
    layers : names of Conv2d or Linear modules
    criterion : str
        A key of CRITERIA.
    variant : "per_image" or "per_batch"
        Which matrix the nuclear norm is taken of. **Open** in the paper: per image the H x W map, averaged over
        images (default), or per batch the B x H·W matrix, averaged over batches.
    seed : int
        For `random`.
    batch_size : int
        Images in a batch, if `images` is one tensor.

    Returns
    -------
    dict of layer name to float64 Tensor [out_channels] on the CPU, >= 0, higher = more important

    Raises
    ------
    PruningError
        Unknown criterion, variant or layer; no images; a feature map that is not finite (names the layer).
    UntraceableError
        The network cannot be traced, so that its activations cannot be found.
    """
    if criterion not in CRITERIA:
        raise PruningError(f'criterion "{criterion}" is not known; {_nearest(criterion, CRITERIA)}')
    if variant not in ("per_image", "per_batch"):
        raise PruningError(f'variant = "{variant}" is not known; use "per_image" or "per_batch"')
    modules = dict(model.named_modules())
    for name in layers:
        if not isinstance(modules.get(name), nn.Conv2d | nn.Linear):
            known = [key for key, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)]
            raise PruningError(f"{name}: no Conv2d or Linear layer of that name; {_nearest(name, known)}")
    return CRITERIA[criterion](model, images, layers, ScoreOptions(variant, seed, batch_size))


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f'did you mean "{close[0]}"?' if close else f"known: {', '.join(names)[:200]}"


def combine_scores(scores: Sequence[Tensor]) -> Tensor:
    """One score for channels that several layers share (a residual stream): normalised per layer, then averaged.

    **Open** in the paper: how coupled layers are combined. Each layer's scores are divided by their mean, so that no
    layer outvotes the others by its scale; a layer whose scores are all zero adds zeros.

    Parameters
    ----------
    scores : sequence of Tensor [channels], >= 0

    Returns
    -------
    Tensor, [channels], float64, mean 1 (unless a layer is all zero)

    Raises
    ------
    PruningError
        No scores, or of different lengths.
    """
    shapes = {tuple(score.shape) for score in scores}
    if len(shapes) != 1:
        raise PruningError(f"scores of shapes {sorted(shapes)} cannot be combined; give one or more of equal length")
    stacked = torch.stack([score.double() for score in scores])
    means = stacked.mean(dim=1, keepdim=True)
    return (stacked / torch.where(means > 0, means, torch.ones_like(means))).mean(dim=0)


# ---------------------------------------------------------------- weight criteria


def _weight_norm(model: nn.Module, layers: Sequence[str], order: int) -> dict[str, Tensor]:
    scores = {}
    for name in layers:
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        scores[name] = weight.detach().flatten(1).double().norm(p=order, dim=1).cpu()
        if not bool(scores[name].isfinite().all()):
            raise PruningError(f"{name}: a weight is not finite; score a network that is trained and did not diverge")
    return scores


@register("l1")
def l1(model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions) -> dict[str, Tensor]:
    """Σ |W| of each filter."""
    return _weight_norm(model, layers, 1)


@register("l2")
def l2(model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions) -> dict[str, Tensor]:
    """Euclidean norm of each filter."""
    return _weight_norm(model, layers, 2)


@register("random")
def random(model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions) -> dict[str, Tensor]:
    """Uniform in [0, 1); a layer's draw depends on the seed and its name only."""
    scores = {}
    for name in layers:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{options.seed}/{name}".encode()))
        channels = int(model.get_submodule(name).weight.shape[0])  # type: ignore[index]
        scores[name] = torch.rand(channels, generator=generator, dtype=torch.float64)
    return scores


# ---------------------------------------------------------------- nuclear norm


def nuclear_norms(matrices: Tensor) -> Tensor:
    """Sum of the singular values of each matrix.

    A float64 Gram matrix on the smaller side and its eigenvalues; matrices whose eigenvalues do not add up to the
    trace, and batches that do not converge, go to `torch.linalg.svdvals`.

    Parameters
    ----------
    matrices : Tensor, [B, H, W], finite

    Returns
    -------
    Tensor, [B], float64
    """
    H, W = matrices.shape[1:]
    if min(H, W) == 1:
        return matrices.double().flatten(1).norm(dim=1)
    chunk = max(1, _CHUNK_ELEMENTS // (H * W))
    return torch.cat([_gram_norms(part.double()) for part in matrices.split(chunk)] or [matrices.new_zeros(0).double()])


def _gram_norms(x: Tensor) -> Tensor:
    """Nuclear norms of float64 matrices [B, H, W]."""
    gram = x @ x.mT if x.shape[1] <= x.shape[2] else x.mT @ x
    try:
        eigenvalues = torch.linalg.eigvalsh(gram)
    except torch.linalg.LinAlgError:
        return torch.linalg.svdvals(x).sum(dim=1)
    trace = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
    positive = eigenvalues.clamp_min(0.0)
    bad = ~((positive.sum(dim=1) - trace).abs() <= _GRAM_TOLERANCE * trace)
    norms = positive.sqrt_().sum(dim=1)
    if bool(bad.any()):
        norms[bad] = torch.linalg.svdvals(x[bad]).sum(dim=1)
    return norms


def channel_energy(maps: Tensor, variant: Variant) -> Tensor:
    """Nuclear norm of each channel of one batch.

    Parameters
    ----------
    maps : Tensor, [B, K, H, W], or [B, ..., K] of a linear layer (a column of positions; [B, K]: a 1 x 1 map)
    variant : "per_image" or "per_batch"

    Returns
    -------
    Tensor, [K], float64
        per_image: Σ over the batch of ‖H x W map‖*, for a 1 x 1 map Σ |activation|. per_batch: ‖B x H·W‖*.
    """
    if maps.dim() != 4:
        maps = maps.movedim(-1, 1).flatten(2) if maps.dim() > 2 else maps[:, :, None]
        maps = maps[..., None]
    B, K, H, W = maps.shape
    if variant == "per_batch":
        return nuclear_norms(maps.transpose(0, 1).reshape(K, B, H * W))
    return nuclear_norms(maps.reshape(B * K, H, W)).reshape(B, K).sum(dim=0)


class _Scorer(fx.Interpreter):
    """Runs the network and reduces the wanted nodes' outputs to channel energies on the way."""

    def __init__(self, model: nn.Module, graph: fx.Graph, wanted: dict[fx.Node, str], variant: Variant) -> None:
        super().__init__(model, graph=graph)
        self.wanted, self.variant = wanted, variant
        self.energy: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if n in self.wanted:
            if not bool(output.isfinite().all()):
                raise PruningError(
                    f"{self.wanted[n]}: its feature map after the activation ({n.name}) is not finite; "
                    "check the images and that the network did not diverge"
                )
            energy = channel_energy(output, self.variant).cpu()
            self.energy[n] = self.energy[n] + energy if n in self.energy else energy
        return output


def _batches(images: Images, batch_size: int) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        images = images.split(batch_size)
    for batch in images:
        tensor = batch if isinstance(batch, Tensor) else batch[0]
        if len(tensor):
            yield tensor


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


@register("nuclear_norm")
def nuclear_norm(model: nn.Module, images: Images, layers: Sequence[str], options: ScoreOptions) -> dict[str, Tensor]:
    """Energy of the post-activation feature maps, all layers in one forward pass per batch (arXiv 2103.10858).

    Which map belongs to a layer is decided by `activation_nodes`: before a residual add, the one after it.
    """
    graph, nodes = activation_nodes(model, layers)
    wanted: dict[fx.Node, str] = {}
    for name, node in nodes.items():
        wanted.setdefault(node, name)
    scorer = _Scorer(model, graph, wanted, options.variant)
    parameter = next(model.parameters())
    total = 0
    with _evaluating(model):
        for batch in _batches(images, options.batch_size):
            total += len(batch) if options.variant == "per_image" else 1
            scorer.run(batch.to(parameter.device, parameter.dtype))
    if total == 0:
        raise PruningError("nuclear_norm: there are no images to score with; give at least one batch")
    return {name: scorer.energy[node] / total for name, node in nodes.items()}
