"""Which feature map belongs to a layer: the first activation that consumes it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Literal

import torch
from torch import fx, nn

from cosim.errors import PruningError, UntraceableError

_ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Sigmoid,
    nn.Tanh,
)
_TRANSPARENT = (
    nn.modules.batchnorm._BatchNorm,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
)
F = nn.functional
_ACTIVATION_FUNCTIONS = {
    *(F.relu, F.relu6, F.relu_, F.leaky_relu, F.elu, F.gelu, F.silu, F.hardswish),
    *(torch.relu, torch.relu_, torch.sigmoid, torch.tanh),
}
_TRANSPARENT_FUNCTIONS = {F.dropout, F.batch_norm, F.max_pool2d, F.avg_pool2d}
_ADD_FUNCTIONS = {operator.add, operator.iadd, torch.add}
_ACTIVATION_METHODS = {"relu", "relu_", "sigmoid", "tanh"}
_TRANSPARENT_METHODS = {"contiguous"}
_ADD_METHODS = {"add", "add_"}
Where = Literal["after_activation", "before_add"]


class _LeafTracer(fx.Tracer):
    """Keeps every layer with a weight whole, also when a parametrization has changed its class."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaves = (nn.Conv2d, nn.Linear, *_ACTIVATIONS, *_TRANSPARENT)
        return isinstance(m, leaves) or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module) -> fx.Graph:
    try:
        return _LeafTracer().trace(model)
    except Exception as error:  # a model's own code may raise anything under tracing
        raise UntraceableError(
            f"{type(model).__name__} cannot be traced ({error}); "
            "take data-dependent control flow out of forward, or score with l1 or l2"
        ) from error


def _is(node: fx.Node, modules: dict[str, nn.Module], kinds: tuple[type, ...], functions: set, methods: set) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], kinds)
    if node.op == "call_function":
        return node.target in functions
    return node.op == "call_method" and node.target in methods


def _follow(node: fx.Node, modules: dict[str, nn.Module], where: Where) -> fx.Node:
    """The first activation downstream, breadth first; if there is none: the last batch norm of an unbranched chain."""
    functions, methods = _TRANSPARENT_FUNCTIONS, _TRANSPARENT_METHODS
    if where == "after_activation":
        functions, methods = functions | _ADD_FUNCTIONS, methods | _ADD_METHODS
    fallback, queue, seen = node, [node], {node}
    while queue:
        at = queue.pop(0)
        for user in at.users:
            if _is(user, modules, _ACTIVATIONS, _ACTIVATION_FUNCTIONS, _ACTIVATION_METHODS):
                return user
            if user not in seen and _is(user, modules, _TRANSPARENT, functions, methods):
                seen.add(user)
                queue.append(user)
                if at is fallback and _is(user, modules, _TRANSPARENT, set(), set()):
                    fallback = user
    return fallback


def activation_nodes(
    model: nn.Module, layers: Sequence[str], where: Where = "after_activation"
) -> tuple[fx.Graph, dict[str, fx.Node]]:
    """The graph of the network, and for each layer the node whose output is its feature map.

    From the layer on, through batch norm, dropout, pooling and residual adds, to the first ReLU-like module or
    function. So the last convolution of a residual branch and the convolution of its shortcut get the map *after* the
    add, which is what the next layers see and what coupled layers share (**open** in arXiv 2103.10858). A layer that
    reaches no activation (the classifier, a linear bottleneck) gets its own output, after its batch norm.

    Parameters
    ----------
    where : "after_activation" or "before_add"
        The latter stops at residual adds: the last convolution of a branch gets its own output, after its batch norm.

    Raises
    ------
    UntraceableError
        The network cannot be traced.
    PruningError
        A layer is never called, or more than once (it has no single map).
    """
    graph, modules = _trace(model), dict(model.named_modules())
    return graph, {name: _follow(_only_call(graph, name), modules, where) for name in layers}


def following_norms(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.modules.batchnorm._BatchNorm | None]:
    """The batch normalisation that takes a layer's output, or None.

    Raises
    ------
    UntraceableError
        The network cannot be traced.
    PruningError
        A layer is never called, or more than once.
    """
    graph, modules = _trace(model), dict(model.named_modules())
    found: dict[str, nn.modules.batchnorm._BatchNorm | None] = {}
    for name in layers:
        users = [modules.get(str(user.target)) for user in _only_call(graph, name).users if user.op == "call_module"]
        found[name] = next((user for user in users if isinstance(user, nn.modules.batchnorm._BatchNorm)), None)
    return found


def _only_call(graph: fx.Graph, layer: str) -> fx.Node:
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if len(calls) != 1:
        raise PruningError(f"{layer}: called {len(calls)} times in one pass; only a layer called once has one map")
    return calls[0]
