"""Physical removal of channels, verified: the smaller network computes what the larger one does without them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from cosim.errors import PruningError
from cosim.pruning.coupling import ChannelGroup

TOLERANCE = 1e-5
"""Largest difference of outputs, relative to the largest output, that rounding explains."""

Places = dict[tuple[str, int], set[int]]  # (parameter or buffer, dimension) -> positions


def remove_channels(
    model: nn.Module, example: Tensor, removals: Mapping[ChannelGroup, Iterable[int]], *, verify: bool = True
) -> nn.Module:
    """Make a network without the given channels.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    example : Tensor [N, C, ...]
        Shape of the input that the removal is verified on.
    removals : mapping of ChannelGroup to channel numbers
        Groups of `trace_channel_groups(model, example)`; numbers are 0 … size − 1. An empty mapping gives a copy.
    verify : bool
        Compare with the original whose consumers read zeros in place of the channels, on random input in eval mode.
        Leave it out only for a plan on which it passed before.

    Returns
    -------
    nn.Module
        Of the same class and mode, with smaller weights; its groups have to be traced anew.

    Raises
    ------
    PruningError
        A group is locked or of another network, a channel does not exist, no channel would remain, or the outputs
        differ by more than 1e-5 of the largest.
    """
    chosen = {group: _checked(model, group, channels) for group, channels in removals.items()}
    pruned = _without(model, _places(chosen, ("out", "in")))
    if verify:
        _verify(model, pruned, example, chosen)
    return pruned


def _checked(model: nn.Module, group: ChannelGroup, channels: Iterable[int]) -> frozenset[int]:
    numbers = frozenset(int(channel) for channel in channels)
    if group.locked is not None and numbers:
        raise PruningError(f"group {group.name}: {group.locked}, so no channel can be removed; leave this group out")
    unknown = sorted(number for number in numbers if not 0 <= number < group.size)
    if unknown:
        raise PruningError(f"group {group.name} has no channels {unknown}; it has 0..{group.size - 1}")
    if len(numbers) == group.size:
        raise PruningError(f"group {group.name}: all {group.size} channels would be removed; keep at least one")
    for part in group.slices:
        tensor = _find(model, part.name)
        if tensor is None or tensor.dim() <= part.dim or tensor.shape[part.dim] != part.length:
            found = "nothing" if tensor is None else f"shape {list(tensor.shape)}"
            raise PruningError(
                f"group {group.name} is not of this network: {part.name} should have {part.length} positions along "
                f"dimension {part.dim}, found {found}; trace the groups of this network"
            )
    return numbers


def _find(model: nn.Module, name: str) -> Tensor | None:
    path, _, leaf = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(path), leaf, None)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def _places(chosen: Mapping[ChannelGroup, frozenset[int]], roles: tuple[str, ...]) -> Places:
    places: Places = {}
    for group, channels in chosen.items():
        for part in group.slices:
            if part.role in roles and channels:
                positions = places.setdefault((part.name, part.dim), set())
                for channel in channels:
                    positions.update(part.indices[channel])
    return places


def _without(model: nn.Module, places: Places) -> nn.Module:
    """A copy with the positions cut out; tensors that shrink are not copied first."""
    smaller: dict[str, Tensor] = {}
    for (name, dim), positions in places.items():
        tensor = smaller.get(name, _find(model, name))
        assert tensor is not None
        keep = torch.tensor([i for i in range(tensor.shape[dim]) if i not in positions], device=tensor.device)
        smaller[name] = tensor.detach().index_select(dim, keep)
    pruned = _copy_with(model, smaller)
    for path in {name.rpartition(".")[0] for name in smaller}:
        _fit_attributes(model.get_submodule(path), pruned.get_submodule(path))
    return pruned


def _copy_with(model: nn.Module, replacements: Mapping[str, Tensor]) -> nn.Module:
    """A deep copy in which some parameters and buffers are others."""
    memo: dict[int, Any] = {}
    for name, tensor in replacements.items():
        original = _find(model, name)
        if isinstance(original, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=original.requires_grad)
        memo[id(original)] = tensor
    return copy.deepcopy(model, memo)


def _fit_attributes(old: nn.Module, new: nn.Module) -> None:
    """Make a module say what its smaller weight is."""
    weight = getattr(new, "weight", None)
    if isinstance(new, _BatchNorm | _InstanceNorm):
        vectors = (getattr(new, name) for name in ("weight", "running_mean"))
        new.num_features = next(len(vector) for vector in vectors if vector is not None)
    elif isinstance(new, nn.Linear) and isinstance(weight, Tensor):
        new.out_features, new.in_features = weight.shape
    elif isinstance(new, nn.PReLU) and isinstance(weight, Tensor):
        new.num_parameters = len(weight)
    elif isinstance(new, _ConvNd) and isinstance(weight, Tensor):
        _fit_convolution(old, new, weight)


def _fit_convolution(old: Any, new: Any, weight: Tensor) -> None:
    if isinstance(new, _ConvTransposeNd):
        new.in_channels, new.out_channels = weight.shape[:2]
        return
    if old.groups > 1 and old.groups == old.in_channels:  # depthwise: a group leaves with its channel
        new.groups = old.groups * weight.shape[0] // old.out_channels
    new.out_channels, new.in_channels = weight.shape[0], weight.shape[1] * new.groups


def _verify(
    model: nn.Module, pruned: nn.Module, example: Tensor, chosen: Mapping[ChannelGroup, frozenset[int]]
) -> None:
    """Zero in the original what consumers read of the channels, run both, compare."""
    reference = _copy_with(model, _zeroed(model, _places(chosen, ("in",))))
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    noise = noise.to(device=example.device, dtype=example.dtype)
    try:
        expected, found = _outputs(reference, noise), _outputs(copy.deepcopy(pruned), noise)
    except RuntimeError as error:
        raise PruningError(f"the network does not run after the removal of {_described(chosen)}: {error}") from error
    difference = max(map(_relative_difference, expected, found), default=0.0)
    if len(expected) != len(found) or not difference <= TOLERANCE:
        raise PruningError(
            f"the removal of {_described(chosen)} changes the outputs by {difference:.1e} of the largest "
            f"(allowed {TOLERANCE:.0e}); the coupling was traced wrongly: leave these groups out and report the network"
        )


def _zeroed(model: nn.Module, places: Places) -> dict[str, Tensor]:
    zeroed: dict[str, Tensor] = {}
    for (name, dim), positions in places.items():
        tensor = zeroed.get(name, _find(model, name))
        assert tensor is not None
        at = torch.tensor(sorted(positions), device=tensor.device)
        zeroed[name] = tensor.detach().index_fill(dim, at, 0.0)
    return zeroed


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        outputs = model.eval()(images)
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [outputs] if isinstance(outputs, Tensor) else [value for value in values if isinstance(value, Tensor)]


def _relative_difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((expected - found).abs().max() / scale)


def _described(chosen: Mapping[ChannelGroup, frozenset[int]]) -> str:
    return ", ".join(f"{len(channels)} of {group.size} channels of {group.name}" for group, channels in chosen.items())
