"""How the layers of a workload shrink with the channel groups: every size is a straight line in the widths.

A group that loses a channel makes a convolution narrower by so many inputs or outputs, a sum by so many elements.
The slopes are read off networks that lose one channel of one group; a network in which all groups are narrower then
checks them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor, nn

from accel_models.layers import Layer
from accel_models.workload import Workload
from cosim.errors import PruningError
from cosim.extract import extract_workload
from cosim.pruning.apply import plan_of_groups, prunable_groups, remove_filters
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.plan import PruningPlan

Slopes = Mapping[str, Mapping[int, int]]
"""Field of a layer -> number of a group -> what the field loses with each of its channels."""


@dataclass(frozen=True)
class LayerShape:
    """A layer of the dense network, and how its sizes follow the groups."""

    layer: Layer
    slopes: Slopes = field(default_factory=dict)

    @property
    def groups(self) -> tuple[int, ...]:
        """Numbers of the groups that the layer's sizes hang on, ascending."""
        return tuple(sorted({group for slope in self.slopes.values() for group in slope}))

    def at(self, lost: Mapping[int, int]) -> Layer:
        """The layer when the groups have lost so many channels."""
        if not self.slopes:
            return self.layer
        sizes: dict[str, Any] = {
            name: getattr(self.layer, name) - sum(step * lost.get(group, 0) for group, step in slope.items())
            for name, slope in self.slopes.items()
        }
        return replace(self.layer, **sizes)


@dataclass(frozen=True)
class NetworkShapes:
    """The workload of a network as a function of the widths of its groups."""

    name: str
    groups: tuple[ChannelGroup, ...]
    """Those that can lose channels; their position is their number."""
    layers: tuple[LayerShape, ...]
    edges: tuple[tuple[str, str], ...]

    def workload(self, widths: Sequence[int]) -> Workload:
        """The layers when so many channels of each group stay."""
        lost = {
            number: group.size - width for number, (group, width) in enumerate(zip(self.groups, widths, strict=True))
        }
        return Workload(name=self.name, layers=tuple(shape.at(lost) for shape in self.layers), edges=self.edges)


def network_shapes(
    name: str,
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    groups: Sequence[ChannelGroup],
    bits: PruningPlan | None = None,
) -> NetworkShapes:
    """Read the slopes of every layer.

    Parameters
    ----------
    groups
        All groups of the network (`trace_channel_groups`).
    bits
        A plan whose weight and activation bits the layers have; None: 8.

    Raises
    ------
    PruningError
        A layer's sizes are no straight lines in the widths.
    """
    free = prunable_groups(groups)
    shapes, example = (model, example) if any(group.recorded for group in groups) else _on_meta(model, example)

    def workload(widths: Mapping[str, int]) -> Workload:
        plan = plan_of_groups(name, groups, widths)
        return extract_workload(remove_filters(shapes, example, plan, groups, verify=False), example, name, bits)

    dense = workload({})
    slopes: list[dict[str, dict[int, int]]] = [{} for _ in dense.layers]
    for number, group in enumerate(free):
        narrower = workload({group.name: group.size - 1})
        for slope, before, after in zip(slopes, dense.layers, narrower.layers, strict=True):
            for size, lost in _lost(before, after).items():
                slope.setdefault(size, {})[number] = lost
    found = NetworkShapes(name, free, tuple(map(LayerShape, dense.layers, slopes)), dense.edges)
    widths = [_probe_width(group.size, number) for number, group in enumerate(free)]
    _check(found, widths, workload({group.name: width for group, width in zip(free, widths, strict=True)}))
    return found


def _on_meta(model: nn.Module, example: Tensor | tuple[Any, ...]) -> tuple[nn.Module, Tensor | tuple[Any, ...]]:
    """Shapes without numbers: removals cost nothing there."""
    if isinstance(example, Tensor):
        moved: Tensor | tuple[Any, ...] = example.to("meta")
    else:
        moved = tuple(part.to("meta") if isinstance(part, Tensor) else part for part in example)
    return copy.deepcopy(model).to("meta"), moved


def _lost(before: Layer, after: Layer) -> dict[str, int]:
    return {
        item.name: getattr(before, item.name) - getattr(after, item.name)
        for item in fields(before)
        if type(getattr(before, item.name)) is int and getattr(before, item.name) != getattr(after, item.name)
    }


def _probe_width(size: int, number: int) -> int:
    """Somewhere between a half and all, different from group to group."""
    return max(1, size * (9 + number % 6) // 16)


def _check(shapes: NetworkShapes, widths: Sequence[int], found: Workload) -> None:
    for expected, layer in zip(shapes.workload(widths).layers, found.layers, strict=True):
        if expected != layer:
            raise PruningError(
                f"network {shapes.name!r}: the sizes of layer {layer.name!r} do not follow the widths of its groups in "
                "proportion, so that no plan can be made; give cosim prune a plan instead"
            )


__all__ = ["LayerShape", "NetworkShapes", "network_shapes"]
