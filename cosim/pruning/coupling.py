"""Which channels of a network must leave together, and which positions of which weights they own.

`trace_channel_groups` runs the network on channel ids (see `channel_ids`). `removal.remove_channels` takes the
groups and makes the smaller network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from cosim.pruning.channel_groups import Members, find_members, find_roots, lock_reasons
from cosim.pruning.channel_ids import ChannelRecord, Use
from cosim.pruning.channel_sizes import Resize, Shrinking, find_resizes, fix_counts
from cosim.pruning.channel_trace import INPUT, run_on_channel_ids
from cosim.pruning.tracing import Traced, trace_graph


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
    In attention a head is one channel.
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
    resizes: tuple[Resize, ...] = ()
    """Sizes written in the code that removal rewrites; the smaller network is then a `torch.fx.GraphModule`."""
    recorded: bool = False
    """Found on one pass that torch.export recorded, because torch.fx cannot trace the network."""

    def __hash__(self) -> int:
        return hash((self.name, self.size, self.producers))

    @property
    def consumers(self) -> tuple[str, ...]:
        """Convolution and linear layers that read the group's channels, in the order in which they run."""
        return tuple(part.name.rpartition(".")[0] for part in self.slices if part.role == "in")


def trace_channel_groups(model: nn.Module, example: Tensor | tuple[Any, ...]) -> list[ChannelGroup]:
    """Find the groups of channels that leave together.

    Parameters
    ----------
    model : nn.Module
        Traceable by torch.fx or torch.export; left as it is.
    example : Tensor [N, C, ...], or integers (tokens) of any shape; a tuple for several inputs
        An input of the right shape; its values do not matter, and nothing is computed on it where shapes suffice.

    Returns
    -------
    list of ChannelGroup
        In the order in which their first producers run; every channel of every convolution and linear layer that runs
        is in exactly one group. Groups that cannot lose a channel (the network's input and output, normalisation
        across channels, …) say why in `locked`.

    Raises
    ------
    UntraceableError
        The model cannot be traced, does not run on the example, or an operator is not known: the message names node
        and operator, or the line of the code.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        traced = trace_graph(model, example)
        return _groups_of(traced, example)
    finally:
        for module, training in modes:
            module.training = training


def _groups_of(traced: Traced, example: Tensor | tuple[Any, ...]) -> list[ChannelGroup]:
    run = run_on_channel_ids(traced, example)
    record = run.record
    roots = find_roots(record)
    code = Shrinking(run.ids, run.values, roots)
    fix_counts(record, traced.graph, code)
    members = find_members(record.uses, roots, lock_reasons(record, roots))
    resizes = find_resizes(record, members, code)
    return list(_named(members, resizes, record, traced.recorded))


def _named(
    groups: Sequence[Members], resizes: Sequence[tuple[Resize, ...]], record: ChannelRecord, recorded: bool
) -> Iterable[ChannelGroup]:
    taken: set[str] = set()
    uses = record.uses
    for members, sizes in zip(groups, resizes, strict=True):
        producers = tuple(dict.fromkeys(p for p in (uses[n].producer for n in members.uses) if p is not None))
        name = producers[0] if producers else "input" if members.locked == INPUT else uses[members.uses[0]].name
        if name in taken:
            name = f"{name}@{members.positions[0][0][0]}"
        taken.add(name)
        slices = tuple(_slice(uses[n], indices) for n, indices in zip(members.uses, members.positions, strict=True))
        yield ChannelGroup(name, len(members.roots), members.locked, producers, slices, sizes, recorded)


def _slice(use: Use, indices: tuple[tuple[int, ...], ...]) -> ChannelSlice:
    role = cast('Literal["out", "in"]', use.role)
    return ChannelSlice(use.name, use.dim, role, indices, len(use.ids))
