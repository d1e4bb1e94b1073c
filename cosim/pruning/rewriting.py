"""Write other sizes into the graph of a network whose code fixes them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import fx

from cosim.pruning.channel_moves import sizes_of
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.tracing import Traced, operator_name


def rewrite_sizes(traced: Traced, chosen: Mapping[ChannelGroup, frozenset[int]], class_name: str) -> fx.GraphModule:
    """A module of the graph in which the sizes of `ChannelGroup.resizes` are those that remain."""
    sizes: dict[str, dict[int, int]] = {}
    whole: dict[str, int] = {}
    for group, channels in chosen.items():
        for resize in group.resizes:
            gone = sum(resize.counts[channel] for channel in channels)
            slots = sizes.setdefault(resize.node, {})
            whole[resize.node] = resize.whole
            before = slots.get(resize.slot, resize.size)
            slots[resize.slot] = before - gone if resize.size >= 0 else before + gone
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(traced.graph, copies)
    by_name = {old.name: new for old, new in copies.items()}
    if result is not None:
        graph.output(result)
    for name, slots in sizes.items():
        if whole[name]:
            _unpack(by_name[name], whole[name])
        _rewrite(by_name[name], slots)
    module = fx.GraphModule(traced.root, graph, class_name=class_name)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module.train(traced.root.training)


def _unpack(n: fx.Node, count: int) -> None:
    """The sizes of a node that takes the shape of a tensor, one by one."""
    shape = n.args[1] if len(n.args) > 1 else next(iter(n.kwargs.values()))
    with n.graph.inserting_before(n):
        n.args = (n.args[0], [n.graph.call_function(operator.getitem, (shape, i)) for i in range(count)])
    n.kwargs = {}


def _rewrite(n: fx.Node, slots: Mapping[int, int]) -> None:
    name = operator_name(n)
    if name == "getitem":
        n.args = (n.args[0], _resliced(n.args[1], slots))
    elif name in ("split", "split_with_sizes"):
        _replace_argument(n, 1, ("split_size", "split_size_or_sections", "split_sizes"), _resplit(n, slots))
    elif name == "pad":
        widths: Any = n.args[1] if len(n.args) > 1 else n.kwargs["pad"]
        _replace_argument(n, 1, ("pad",), [slots.get(i, width) for i, width in enumerate(widths)])
    elif name == "unflatten":
        sizes: Any = n.args[2] if len(n.args) > 2 else n.kwargs["sizes"]
        _replace_argument(n, 2, ("sizes",), _resized(list(sizes), slots, infer=True))
    else:
        old = sizes_of(n)
        assert old is not None
        new = _resized(old, slots, infer=name != "expand")
        n.args = (n.args[0], new if n.op == "call_function" else tuple(new))
        n.kwargs = {}


def _resized(sizes: list[Any], slots: Mapping[int, int], infer: bool) -> list[Any]:
    """With -1 where one size alone changes, so that the batch stays free."""
    if infer and len(slots) == 1 and not any(isinstance(size, int) and size == -1 for size in sizes):
        (slot,) = slots
        return [*sizes[:slot], -1, *sizes[slot + 1 :]]
    return [slots.get(i, size) for i, size in enumerate(sizes)]


def _resplit(n: fx.Node, slots: Mapping[int, int]) -> list[Any]:
    raw: Any = n.args[1] if len(n.args) > 1 else next(iter(n.kwargs.values()))
    if isinstance(raw, tuple | list):
        return [slots.get(i, size) for i, size in enumerate(raw)]
    return [slots[i] for i in sorted(slots)]


def _replace_argument(n: fx.Node, position: int, names: tuple[str, ...], value: Any) -> None:
    if len(n.args) > position:
        n.args = (*n.args[:position], value, *n.args[position + 1 :])
        return
    given = next(name for name in names if name in n.kwargs)
    n.kwargs = {**n.kwargs, given: value}


def _resliced(index: Any, slots: Mapping[int, int]) -> Any:
    items = list(index) if isinstance(index, tuple) else [index]
    for slot, size in slots.items():
        old = items[slot // 2]
        items[slot // 2] = slice(size, old.stop) if slot % 2 == 0 else slice(old.start, size)
    return tuple(items) if isinstance(index, tuple) else items[0]
