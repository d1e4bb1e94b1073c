"""Which channels of a network must leave together, and which positions of which weights they own.

`trace_channel_groups` runs the network on channel ids (see `channel_ids`). `removal.remove_channels` takes the
groups and makes the smaller network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, fx, nn

from cosim.errors import UntraceableError
from cosim.pruning.channel_ids import ChannelRecord, Use, constant, spread, tensors
from cosim.pruning.channel_operators import Call, handler_of

INPUT = "network input"


@dataclass(frozen=True)
class ChannelSlice:
    """What the channels of a group own of one parameter or buffer, along one of its dimensions."""

    name: str
    """Name of the parameter or buffer in the network."""
    dim: int
    role: Literal["out", "in"]
    """"out": the positions make the channel (a filter, its bias, its normalisation); "in": they read it."""
    indices: tuple[tuple[int, ...], ...]
    """`indices[c]`: positions that channel c owns along `dim`."""
    length: int
    """Size of the dimension, of which other groups may own a part."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of which each can leave, and then leaves everywhere: in all producers and all consumers.

    In a residual network the stream of a stage is one group, over the stem and the last convolution of each block.
    """

    name: str
    """The first producer; `producer@position` where another group has that name; "input" for the network's input."""
    size: int
    """Number of channels."""
    locked: str | None
    """Why no channel can leave, or None."""
    producers: tuple[str, ...]
    """Convolution and linear layers whose outputs are the group's channels, in the order in which they run."""
    slices: tuple[ChannelSlice, ...]

    def __hash__(self) -> int:
        return hash((self.name, self.size, self.producers))

    @property
    def consumers(self) -> tuple[str, ...]:
        """Convolution and linear layers that read the group's channels, in the order in which they run."""
        return tuple(part.name.rpartition(".")[0] for part in self.slices if part.role == "in")


def trace_channel_groups(model: nn.Module, example: Tensor) -> tuple[ChannelGroup, ...]:
    """Find the groups of channels that leave together.

    Parameters
    ----------
    model : nn.Module
        Traceable by torch.fx; left as it is.
    example : Tensor [N, C, ...]
        An input of the right shape; its values do not matter.

    Returns
    -------
    tuple of ChannelGroup
        In the order in which their first producers run; every channel of every convolution and linear layer is in
        exactly one group. Groups that cannot lose a channel (the network's input and output, widths that the code
        fixes, normalisation across channels) say why in `locked`.

    Raises
    ------
    UntraceableError
        torch.fx cannot trace the model, it does not run on the example, or an operator is not known: the message
        names node and operator.
    """
    record = _run_on_channel_ids(copy.deepcopy(model).eval(), example)
    roots = _roots(record)
    locks: dict[int, str] = {}
    for ids, reason in record.locks:
        for root in {roots[i] for i in ids.tolist() if i >= 0}:
            locks.setdefault(root, reason)
    return tuple(_named(_grouped(record.uses, roots, locks), record.uses))


class _IdInterpreter(fx.Interpreter):
    """Computes each node's value, and beside it `ids[node]` where the value is a tensor or a tuple of tensors."""

    def __init__(self, module: fx.GraphModule, record: ChannelRecord) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.record = record
        self.ids: dict[fx.Node, Any] = {}
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:  # whatever the user's modules raise
            raise UntraceableError(f"node {n.name} does not run on the example: {error}") from error
        ids = self._ids(n, value)
        if ids is not None:
            self.ids[n] = ids
        return value

    def _ids(self, n: fx.Node, value: Any) -> Any:
        if n.op == "placeholder":
            return self._placeholder(n, value)
        if n.op == "get_attr":
            return self._attribute(str(n.target), value)
        if n.op == "output":
            self._output(n)
            return None
        if not tensors(value):
            return None
        if not any(source in self.ids for source in n.all_input_nodes):
            return fx.node.map_aggregate(value, constant)
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        return handler_of(n, module)(Call(n, module, value, self.record, self.ids, self.env, self.seen))

    def _placeholder(self, n: fx.Node, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.dim() < 2:
            raise UntraceableError(f"input {n.name} is not a tensor [N, C, ...]; give an example of that shape")
        ids = self.record.fresh(value.shape[1])
        self.record.lock(ids, INPUT)
        return spread(ids, 1, value.shape)

    def _attribute(self, name: str, value: Any) -> Any:
        """A parameter that is used directly has channels along the one dimension that is longer than 1."""
        if not isinstance(value, Tensor):
            return None
        long = [dim for dim, size in enumerate(value.shape) if size > 1]
        if len(long) != 1 or name.startswith("_tensor_constant"):
            return constant(value)
        ids = self.record.fresh(value.shape[long[0]])
        self.record.use(name, long[0], "out", ids)
        return spread(ids, long[0], value.shape)

    def _output(self, n: fx.Node) -> None:
        for source in n.all_input_nodes:
            for ids in tensors(self.ids.get(source, ())):
                self.record.lock(ids, "network output")


def _run_on_channel_ids(model: nn.Module, example: Tensor) -> ChannelRecord:
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # fx passes on whatever the user's forward raises on a proxy
        raise UntraceableError(
            f"{type(model).__name__} cannot be traced by torch.fx ({error}); "
            "its forward must not branch or loop on tensor values"
        ) from error
    record = ChannelRecord()
    with torch.no_grad():
        _IdInterpreter(fx.GraphModule(model, graph), record).run(example)
    return record


def _roots(record: ChannelRecord) -> list[int]:
    """The smallest id of the channel that each id belongs to (union-find)."""
    parent = list(range(record.count))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for left, right in record.same:
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            low, high = sorted((find(a), find(b)))
            parent[high] = low
    return [find(i) for i in range(record.count)]


Positions = dict[int, list[int]]  # number of a use -> positions along its dimension


def _grouped(uses: list[Use], roots: list[int], locks: dict[int, str]) -> Iterable[tuple[str | None, list[Positions]]]:
    """Channels that own positions in the same places, and are locked for the same reason, form a group."""
    channels: dict[int, Positions] = {}
    for number, use in enumerate(uses):
        for position, channel in enumerate(use.ids.tolist()):
            if channel >= 0:
                channels.setdefault(roots[channel], {}).setdefault(number, []).append(position)
    groups: dict[tuple[tuple[int, ...], str | None], list[Positions]] = {}
    for root, owned in channels.items():
        groups.setdefault((tuple(owned), locks.get(root)), []).append(owned)
    for (_, locked), members in sorted(groups.items(), key=lambda item: (item[0][0], item[1][0][item[0][0][0]])):
        yield locked, members


def _named(groups: Iterable[tuple[str | None, list[Positions]]], uses: list[Use]) -> Iterable[ChannelGroup]:
    taken: set[str] = set()
    for locked, members in groups:
        numbers = list(members[0])
        producers = tuple(dict.fromkeys(p for p in (uses[number].producer for number in numbers) if p is not None))
        name = producers[0] if producers else "input" if locked == INPUT else uses[numbers[0]].name
        if name in taken:
            name = f"{name}@{members[0][numbers[0]][0]}"
        taken.add(name)
        slices = tuple(_slice(uses[number], [owned[number] for owned in members]) for number in numbers)
        yield ChannelGroup(name, len(members), locked, producers, slices)


def _slice(use: Use, positions: list[list[int]]) -> ChannelSlice:
    role = cast(Literal["out", "in"], use.role)
    return ChannelSlice(use.name, use.dim, role, tuple(map(tuple, positions)), len(use.ids))
