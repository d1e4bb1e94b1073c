"""Multiplications and parameters of a network whose channel groups have other widths, without making it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cosim.pruning.coupling import ChannelGroup

Widths = Mapping[str, int]
"""Name of a channel group -> channels that stay; groups that are not named keep all."""
Cost = Callable[[Widths], float]
"""What a network of these widths costs; counts are never more for smaller widths, energy and latency may be."""


@dataclass(frozen=True)
class Budget:
    """A limit on what the network may cost."""

    name: str
    """As messages name it: "MACs", "energy_pj"."""
    limit: float
    cost: Cost


def macs_cost(model: nn.Module, example: Tensor | tuple[Any, ...], groups: Sequence[ChannelGroup]) -> Cost:
    """Multiply-accumulates of all convolution and linear layers for one input: weights x output positions.

    Parameters
    ----------
    example : as for `trace_channel_groups`
        A batch of it is counted as one input.
    """
    positions = _output_positions(model, example)
    sizes = _Sizes(model, groups, {f"{name}.weight": count for name, count in positions.items()})
    return sizes.total


def parameters_cost(model: nn.Module, groups: Sequence[ChannelGroup]) -> Cost:
    """Number of parameters, of all layers."""
    return _Sizes(model, groups, {name: 1.0 for name, _ in model.named_parameters()}).total


class _Sizes:
    """Σ factor x elements of some parameters, as a function of the widths of groups."""

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], factors: Mapping[str, float]) -> None:
        shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters() if name in factors}
        rows = {name: row for row, name in enumerate(shapes)}
        deepest = max((len(shape) for shape in shapes.values()), default=1)
        self.lengths = np.array([shape + [1] * (deepest - len(shape)) for shape in shapes.values()], np.float64)
        self.factors = np.array([factors[name] for name in shapes])
        self.shares: dict[str, list[tuple[int, int, float]]] = {}
        self.sizes = {group.name: group.size for group in groups}
        for group in groups:
            for part in group.slices:
                if part.name in rows:
                    each = sum(map(len, part.indices)) / group.size
                    self.shares.setdefault(group.name, []).append((rows[part.name], part.dim, each))

    def total(self, widths: Widths) -> float:
        lengths = self.lengths.copy()
        for name, width in widths.items():
            for row, dim, each in self.shares.get(name, ()):
                lengths[row, dim] -= each * (self.sizes[name] - width)
        return float(self.factors @ lengths.prod(axis=1))


def _output_positions(model: nn.Module, example: Tensor | tuple[Any, ...]) -> dict[str, float]:
    """Layer -> output elements per output channel, for one input; summed over its calls."""
    found: dict[str, float] = {}
    inputs = example if isinstance(example, tuple) else (example,)

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            channels = module.weight.shape[0]  # type: ignore[index]
            found[name] = found.get(name, 0.0) + output.numel() / (int(channels) * len(inputs[0]))

        return hook

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(watch(name)) for name, module in layers]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in hooks:
            handle.remove()
        for module, training in modes:
            module.training = training
    return found
