"""Physical removal of channels, verified: the smaller network computes what the larger one does without them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.dpp import KofNMask
from cosim.pruning.fitting import fit_modules
from cosim.pruning.rewriting import rewrite_sizes
from cosim.pruning.tracing import Traced, arguments, trace_graph

TOLERANCE = 1e-5
"""Largest difference of outputs, relative to the largest output, that rounding explains."""

Places = dict[tuple[str, int], set[int]]  # (parameter or buffer, dimension) -> positions
Chosen = Mapping[ChannelGroup, frozenset[int]]
Example = Tensor | tuple[Any, ...]


def remove_channels(
    model: nn.Module, example: Example, removals: Mapping[ChannelGroup, Iterable[int]], *, verify: bool = True
) -> nn.Module:
    """Make a network without the given channels.

    Parameters
    ----------
    model : nn.Module
        Left as it is. Masks (`attach_masks`) lose the rows of filters that leave; quantizers, and masks on layers that
        lose inputs, have to be frozen first.
    example : Tensor [N, C, ...], tokens, or a tuple for several inputs
        Shape of the input that the removal is verified on.
    removals : mapping of ChannelGroup to channel numbers
        Groups of `trace_channel_groups(model, example)`; numbers are 0 … size − 1. An empty mapping gives a copy.
    verify : bool
        Compare with the original whose consumers read zeros in place of the channels, on random input in eval mode.
        Leave it out only for a plan on which it passed before.

    Returns
    -------
    nn.Module
        With smaller weights under the same names, in the same mode; its groups have to be traced anew. Of the same
        class, unless a group says in `resizes` that the code fixes a size: then a `torch.fx.GraphModule` of the
        network's own code with other sizes.

    Raises
    ------
    PruningError
        A group is locked or of another network, a channel does not exist, no channel of a layer would remain, or the
        outputs differ by more than 1e-5 of the largest.
    """
    chosen = {group: _checked(model, group, channels) for group, channels in removals.items()}
    leaving = [group for group, channels in chosen.items() if channels]
    if any(group.recorded for group in leaving):
        return _recorded(model, example, chosen)
    pruned = _without(model, _places(chosen, ("out", "in")))
    if any(group.resizes for group in leaving):
        pruned = rewrite_sizes(trace_graph(pruned, example), chosen, type(model).__name__)
    if verify:
        _verify(model, pruned, example, chosen)
    return pruned


def _recorded(model: nn.Module, example: Example, chosen: Chosen) -> nn.Module:
    """The network's own code if it follows the removal, else the pass that torch.export recorded, with other sizes."""
    places = _places(chosen, ("out", "in"))
    pruned = _without(model, places)
    try:
        _verify(model, pruned, example, chosen)
    except PruningError:
        traced = trace_graph(copy.deepcopy(model).eval(), example)
        root = _without(traced.root, places)
        pruned = rewrite_sizes(Traced(root, traced.graph), chosen, type(model).__name__)
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
        module = model.get_submodule(path)
    except AttributeError:
        return None
    if parametrize.is_parametrized(module, leaf):
        original = getattr(module.parametrizations, leaf).original
        return original if isinstance(original, Tensor) else None
    found = getattr(module, leaf, None)
    return found if isinstance(found, Tensor) else None


def _places(chosen: Chosen, roles: tuple[str, ...]) -> Places:
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
        if not len(keep):
            raise PruningError(f"{name}: all {tensor.shape[dim]} channels would be removed; keep at least one")
        smaller[name] = tensor.detach().index_select(dim, keep)
        smaller |= _smaller_masks(model, name, dim, keep)
    pruned = _copy_with(model, smaller)
    fit_modules(model, pruned, {name.rpartition(".")[0] for name in smaller if "parametrizations." not in name})
    return pruned


def _smaller_masks(model: nn.Module, name: str, dim: int, keep: Tensor) -> dict[str, Tensor]:
    """What lies on a masked weight loses the rows of its filters."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if not parametrize.is_parametrized(module, leaf):
        return {}
    parts = list(module.parametrizations[leaf])  # type: ignore[index]
    if dim != 0 or not all(isinstance(part, KofNMask) for part in parts):
        raise PruningError(
            f"{path}: a mask over the inputs, or a quantizer, would change with its weights; call freeze_masks or "
            "freeze_quantizers before the removal"
        )
    inner = f"{path}.parametrizations.{leaf}" if path else f"parametrizations.{leaf}"
    return {f"{inner}.{i}.logits": part.logits.detach().index_select(0, keep) for i, part in enumerate(parts)}


def _copy_with(model: nn.Module, replacements: Mapping[str, Tensor]) -> nn.Module:
    """A deep copy in which some parameters and buffers are others."""
    memo: dict[int, Any] = {}
    for name, tensor in replacements.items():
        original = _find(model, name)
        if isinstance(original, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=original.requires_grad)
        memo[id(original)] = tensor
    return copy.deepcopy(model, memo)


def _verify(model: nn.Module, pruned: nn.Module, example: Example, chosen: Chosen) -> None:
    """Zero in the original what consumers read of the channels, run both, compare."""
    reference = _copy_with(model, _zeroed(model, _places(chosen, ("in",))))
    try:
        difference = _difference(reference, copy.deepcopy(pruned), example)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise PruningError(f"the network does not run after the removal of {_described(chosen)}: {error}") from error
    if not difference <= TOLERANCE:
        raise PruningError(
            f"the removal of {_described(chosen)} changes the outputs by {difference:.1e} of the largest "
            f"(allowed {TOLERANCE:.0e}); the coupling was traced wrongly: leave these groups out and report the network"
        )


def _difference(reference: nn.Module, pruned: nn.Module, example: Example) -> float:
    """Largest difference on random input over the largest output; where the input hardly moves the outputs (a network
    without training whose signal fades), in double precision over what it moves them."""
    inputs = random_inputs(reference, example)
    expected, found = _outputs(reference, inputs), _outputs(pruned, inputs)
    difference = output_difference(expected, found)
    moved = output_difference(expected, _outputs(reference, random_inputs(reference, example, seed=1)))
    if moved >= FAINT or difference > TOLERANCE:
        return difference
    try:
        return _exact_difference(reference.double(), pruned.double(), example) or difference
    except RuntimeError:  # the code insists on single precision
        return difference


def _exact_difference(reference: nn.Module, pruned: nn.Module, example: Example) -> float:
    """In double precision, over what another input changes."""
    inputs, others = (random_inputs(reference, example, seed, torch.float64) for seed in (0, 1))
    expected, found = _outputs(reference, inputs), _outputs(pruned, inputs)
    moved = output_difference(expected, _outputs(reference, others))
    return output_difference(expected, found) / max(moved, RESOLVED)


RESOLVED = 1e-9
"""Smallest relative change of the outputs that double precision (2.2e-16) measures to 1e-5, rounding included."""
FAINT = 1e-2
"""A random input that moves the outputs by less of the largest is looked at in double precision."""


def output_difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """Largest relative difference of the outputs of two networks; infinite where number or shapes differ."""
    if len(expected) != len(found):
        return float("inf")
    return max(map(_relative_difference, expected, found), default=0.0)


def random_inputs(
    model: nn.Module, example: Example, seed: int = 0, dtype: torch.dtype | None = None
) -> tuple[Any, ...]:
    """Inputs of the example's shapes: normal noise; tokens that every embedding of the network has."""
    tokens = min((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=1)
    generator = torch.Generator().manual_seed(seed)
    return tuple(_random_like(a, tokens, generator, dtype) if isinstance(a, Tensor) else a for a in arguments(example))


def _random_like(example: Tensor, tokens: int, generator: torch.Generator, dtype: torch.dtype | None) -> Tensor:
    if not example.is_floating_point():
        drawn = torch.randint(max(tokens, int(example.max()) + 1), example.shape, generator=generator)
        return drawn.to(device=example.device, dtype=example.dtype)
    noise = torch.randn(example.shape, generator=generator, dtype=torch.float32)
    return noise.to(device=example.device, dtype=dtype or example.dtype)


def _zeroed(model: nn.Module, places: Places) -> dict[str, Tensor]:
    zeroed: dict[str, Tensor] = {}
    for (name, dim), positions in places.items():
        tensor = zeroed.get(name, _find(model, name))
        assert tensor is not None
        at = torch.tensor(sorted(positions), device=tensor.device)
        zeroed[name] = tensor.detach().index_fill(dim, at, 0.0)
    return zeroed


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        outputs = model.eval()(*inputs)
    return flat_outputs(outputs)


def flat_outputs(outputs: Any) -> list[Tensor]:
    """The tensors of a network's output: one, several in a tuple, or the values of a mapping."""
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [tensor for value in values if value is not None for tensor in flat_outputs(value)]


def _relative_difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((expected - found).abs().max() / scale)


def _described(chosen: Chosen) -> str:
    return ", ".join(f"{len(channels)} of {group.size} channels of {group.name}" for group, channels in chosen.items())
