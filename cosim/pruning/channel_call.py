"""One node of a traced network while it runs on channel ids (see `channel_ids`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from cosim.pruning.channel_ids import NO_CHANNEL, ChannelRecord, constant, varies


@dataclass(frozen=True)
class Run:
    """What the nodes of one run share."""

    root: nn.Module
    """The network; its tensors may be without values (device "meta")."""
    record: ChannelRecord
    ids: dict[fx.Node, Any]
    """Channel ids of the nodes that hold tensors, or tuples of them."""
    values: dict[fx.Node, Any]
    """What the nodes computed on the example."""
    seen: dict[str, tuple[Tensor, Tensor]]
    """Layers called before: what each read and gave out."""


@dataclass(frozen=True)
class Call:
    """One node while the network runs."""

    node: fx.Node
    module: Any
    """The module that the node calls, or None."""
    value: Any
    """What the node computed on the example."""
    run: Run

    @property
    def record(self) -> ChannelRecord:
        return self.run.record

    @property
    def target(self) -> str:
        return str(self.node.target)

    def raw(self, position: int, name: str, default: Any = None) -> Any:
        """An argument as the graph holds it."""
        n = self.node
        return n.args[position] if len(n.args) > position else n.kwargs.get(name, default)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """A concrete argument, with ids in the place of tensors."""
        return self.concrete(self.raw(position, name, default))

    def concrete(self, raw: Any) -> Any:
        return fx.node.map_arg(raw, self._known)

    def _known(self, node: fx.Node) -> Any:
        if node in self.run.ids:
            return self.run.ids[node]
        return fx.node.map_aggregate(self.run.values[node], constant)

    def parameter(self, position: int, name: str) -> tuple[str, Tensor] | None:
        """Name and value of an argument that is a parameter or buffer of the network; None: no such argument."""
        node = self.raw(position, name)
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        value = self.run.values[node]
        return (str(node.target), value) if isinstance(value, Tensor) else None

    def channels(self, ids: Tensor, dim: int) -> Tensor:
        """Ids along `dim`; channels that do not lie along it alone are locked."""
        others = [d for d in range(ids.dim()) if d != dim % ids.dim()]
        if any(varies(ids, d) for d in others):
            self.record.lock(ids, f"lies across the positions that {self.node.name} reads")
            return torch.full((ids.shape[dim],), NO_CHANNEL)
        for d in others:
            ids = ids.narrow(d, 0, 1)
        return ids.reshape(-1)

    def weighted(self, key: str, read: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Ids that a layer gives out; a layer called again reads and gives out the same."""
        if key in self.run.seen:
            before, given = self.run.seen[key]
            self.record.join(before, read, self.node.name)
            return given
        given = make()
        self.run.seen[key] = (read, given)
        return given


Handler = Callable[[Call], Any]
