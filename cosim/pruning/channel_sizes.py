"""Sizes in the code of a network: which of them follow when channels leave, and which have to be rewritten."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx

from cosim.pruning.channel_groups import Ints, Members, distinct, extents, rooted
from cosim.pruning.channel_ids import ChannelRecord, Sized, Slot
from cosim.pruning.tracing import operator_name


@dataclass(frozen=True)
class Resize:
    """A size written in the code that shrinks with a group's channels, because the code would not follow."""

    node: str
    """Node of the traced network."""
    slot: int
    """Which of its sizes (for a slice: twice the dimension, plus one for its end)."""
    size: int
    """Its value; negative: counted from the end."""
    counts: tuple[int, ...]
    """`counts[c]`: how much of it goes with channel c."""
    whole: int = 0
    """Number of sizes that one node of the graph holds together (the shape of a tensor); 0 where each is written."""


@dataclass(frozen=True)
class Shrinking:
    """Evaluates what the code computes when one channel has left."""

    ids: Mapping[fx.Node, Any]
    values: Mapping[fx.Node, Any]
    roots: Ints

    def evaluate(self, raw: Any, root: int) -> Any:
        """A size of the code, without the channel."""
        if isinstance(raw, tuple | list):
            return type(raw)(self.evaluate(item, root) for item in raw)
        if not isinstance(raw, fx.Node):
            return raw
        if self._is_shape(raw):
            shape = self._shape(raw.args[0], root)
            asked = raw.args[1:] if raw.target in ("size", "sym_size") else ()
            return shape[asked[0]] if asked and isinstance(asked[0], int) else shape
        value = self.values.get(raw)
        plain = not isinstance(value, Tensor) and raw.op in ("call_function", "call_method")
        if not plain or isinstance(raw.target, str):
            return value
        return raw.target(*(self.evaluate(a, root) for a in raw.args), **raw.kwargs)

    @staticmethod
    def _is_shape(n: fx.Node) -> bool:
        if n.op == "call_function":
            return n.target is getattr and n.args[1] == "shape"
        return n.op == "call_method" and n.target == "size"

    def _shape(self, source: Any, root: int) -> tuple[int, ...]:
        shape = list(self.values[source].shape)
        ids = self.ids.get(source)
        if isinstance(ids, Tensor):
            at = rooted(ids, self.roots)
            for dim, size in enumerate(at.shape):
                found, count = extents(at, dim)
                own = int(count[found == root].sum())
                shape[dim] -= own if own < size else 0
        return tuple(shape)

    def counts(self, raw: Any) -> list[tuple[fx.Node, int]]:
        """(tensor, dimension) pairs of which a number of the code is computed."""
        if isinstance(raw, tuple | list):
            return [pair for item in raw for pair in self.counts(item)]
        if not isinstance(raw, fx.Node) or isinstance(self.values.get(raw), Tensor):
            return []
        if self._is_shape(raw):
            return [(raw.args[0], int(d)) for d in raw.args[1:]] or _every(raw.args[0], self.values)  # type: ignore
        if raw.target is operator.getitem and self._is_shape(raw.args[0]):  # type: ignore[arg-type]
            source = raw.args[0].args[0]  # type: ignore[union-attr]
            if isinstance(raw.args[1], int):
                return [(source, raw.args[1])]  # type: ignore[list-item]
        return self.counts(raw.args)


def _every(source: Any, values: Mapping[fx.Node, Any]) -> list[tuple[fx.Node, int]]:
    return [(source, dim) for dim in range(values[source].dim())]


def fix_counts(record: ChannelRecord, graph: fx.Graph, code: Shrinking) -> None:
    """Numbers that count channels and enter the arithmetic of tensors (a mean, a scale) fix what they count."""
    for n in graph.nodes:
        if n.op not in ("call_function", "call_method") or not isinstance(code.values.get(n), Tensor):
            continue
        if operator_name(n) in _SIZE_TAKERS:
            continue
        for source, dim in code.counts(list(n.args) + list(n.kwargs.values())):
            ids = code.ids.get(source)
            if isinstance(ids, Tensor):
                record.fix(ids, dim, f"their number enters the arithmetic of {n.name}")


_SIZE_TAKERS = (
    "pad", "view", "reshape", "expand", "split", "split_with_sizes", "chunk", "getitem", "unflatten", "flatten",
    "repeat", "tile", "arange", "zeros", "ones", "empty", "full", "interpolate",
)  # fmt: skip


def find_resizes(record: ChannelRecord, groups: Sequence[Members], code: Shrinking) -> list[tuple[Resize, ...]]:
    """What has to be rewritten for each group; sizes that cannot be rewritten are None, and lock the group."""
    owner = np.full(len(code.roots) + 1, -1, np.int64)
    for number, group in enumerate(groups):
        owner[group.roots] = number
    found: list[list[Resize]] = [[] for _ in groups]
    for sized in record.sized:
        touched = distinct(np.concatenate([owner[rooted(slot.ids, code.roots)].ravel() for slot in sized.slots]))
        for number in touched.tolist():
            if number >= 0 and groups[number].locked is None:
                found[number] += _resizes(sized, groups[number], code)
    return [tuple(items) for items in found]


def _resizes(sized: Sized, group: Members, code: Shrinking) -> list[Resize]:
    """The sizes of one node that the code would not make follow the channels of one group."""
    counts = [_counted(slot, group, code.roots) for slot in sized.slots]
    stuck = [not _follows(slot, own, group, code) for slot, own in zip(sized.slots, counts, strict=True)]
    if sized.together and any(stuck):
        stuck = [True] * len(stuck)
    return [
        Resize(sized.node, slot.number, slot.size, own, sized.whole)
        for slot, own, rewritten in zip(sized.slots, counts, stuck, strict=True)
        if rewritten
    ]


def _follows(slot: Slot, counts: tuple[int, ...], group: Members, code: Shrinking) -> bool:
    if not any(counts):
        return True
    at = next(i for i, count in enumerate(counts) if count)
    if not isinstance(slot.raw, fx.Node):
        return False
    natural = code.evaluate(slot.raw, int(group.roots[at]))
    if isinstance(natural, tuple | list):
        natural = natural[slot.number]
    return bool(natural == slot.size - (-1 if slot.size < 0 else 1) * counts[at])


def _counted(slot: Slot, group: Members, roots: Ints) -> tuple[int, ...]:
    """How much of a size each channel makes up; 0 where a channel leaves along another dimension."""
    at = rooted(slot.ids, roots)
    found, count = extents(at, slot.dim)
    cuts = set(found[count < at.shape[slot.dim]].tolist())
    inside = at.take(np.arange(slot.start, slot.stop), axis=slot.dim)
    lookup = dict(zip(*(part.tolist() for part in extents(inside, slot.dim)), strict=True)) if inside.size else {}
    return tuple(lookup.get(root, 0) if root in cuts else 0 for root in group.roots.tolist())
