"""Make modules say what their smaller weights are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrize

from cosim.pruning.dpp import KofNMask
from cosim.pruning.heads import HeadAttention, as_head_attention


def fit_modules(old: nn.Module, new: nn.Module, paths: Iterable[str]) -> None:
    """Correct the attributes of the modules at `paths`; attention that its own class cannot hold is replaced."""
    attentions = set()
    for path in paths:
        _fit_attributes(old.get_submodule(path), new.get_submodule(path))
        for candidate in (path, path.rpartition(".")[0]):
            if isinstance(new.get_submodule(candidate), nn.MultiheadAttention):
                attentions.add(candidate)
    for path in attentions:
        parent, _, leaf = path.rpartition(".")
        if leaf:
            setattr(new.get_submodule(parent), leaf, as_head_attention(new.get_submodule(path)))


def _fit_attributes(old: nn.Module, new: nn.Module) -> None:
    _fit_masks(new)
    weight = getattr(new, "weight", None)
    if isinstance(new, _BatchNorm | _InstanceNorm):
        vectors = (getattr(new, name) for name in ("weight", "running_mean"))
        new.num_features = next(len(vector) for vector in vectors if vector is not None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(new, nn.Linear):
        new.out_features, new.in_features = weight.shape
    elif isinstance(new, nn.Embedding):
        new.embedding_dim = weight.shape[1]
    elif isinstance(new, nn.PReLU):
        new.num_parameters = len(weight)
    elif isinstance(new, nn.GroupNorm):
        new.num_groups = new.num_groups * len(weight) // new.num_channels
        new.num_channels = len(weight)
    elif isinstance(new, _ConvNd):
        _fit_convolution(old, new, weight)


def _fit_convolution(old: Any, new: Any, weight: Tensor) -> None:
    depthwise = old.groups > 1 and old.groups == old.in_channels
    if isinstance(new, _ConvTransposeNd):
        new.groups = weight.shape[0] if depthwise else old.groups
        new.in_channels, new.out_channels = weight.shape[0], weight.shape[1] * new.groups
        return
    if depthwise:  # a group leaves with its channel
        new.groups = old.groups * weight.shape[0] // old.out_channels
    new.out_channels, new.in_channels = weight.shape[0], weight.shape[1] * new.groups


def _fit_masks(new: nn.Module) -> None:
    """First of all: a masked weight is computed from its mask."""
    if parametrize.is_parametrized(new, "weight"):
        for part in new.parametrizations["weight"]:  # type: ignore[index]
            if isinstance(part, KofNMask):
                part.shape = new.parametrizations["weight"].original.shape  # type: ignore[index, union-attr]


__all__ = ["HeadAttention", "fit_modules"]
