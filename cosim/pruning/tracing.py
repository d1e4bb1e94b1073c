"""From a network to a graph of operators, and the run of that graph on shapes alone.

torch.fx first: it keeps sizes as the code computes them. Where fx cannot trace (control flow on shapes), `torch.export`
records one pass; its sizes are numbers. Control flow on values is refused with the line that causes it.
"""

from __future__ import annotations

import copy
import linecache
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules import activation, dropout
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cosim.errors import UntraceableError
from cosim.pruning.heads import HeadAttention

ACTIVATIONS = (
    activation.ReLU, activation.ReLU6, activation.LeakyReLU, activation.ELU, activation.SELU, activation.CELU,
    activation.GELU, activation.SiLU, activation.Mish, activation.Sigmoid, activation.LogSigmoid, activation.Tanh,
    activation.Hardtanh, activation.Hardswish, activation.Hardsigmoid, activation.Softplus, activation.Softsign,
)  # fmt: skip
PLAIN_MODULES = (*ACTIVATIONS, dropout._DropoutNd, nn.Identity)
"""Element-wise modules: the shape stays."""


@dataclass(frozen=True)
class Traced:
    """A graph, and the module whose submodules and tensors it names (the network's own names)."""

    root: nn.Module
    graph: fx.Graph
    recorded: bool = False
    """One pass, recorded by torch.export: its sizes are numbers, its branches those of the example."""


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # slices of a buffer by sizes of the input (a causal mask) are nodes, too

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, HeadAttention) or super().is_leaf_module(m, module_qualified_name)


def trace_graph(model: nn.Module, example: Tensor | tuple[Any, ...]) -> Traced:
    """The graph of a network in its present mode.

    Raises
    ------
    UntraceableError
        Neither torch.fx nor torch.export can trace it; the message names the line of the code that prevents it.
    """
    try:
        return Traced(model, _Tracer().trace(model))
    except Exception as error:  # fx passes on whatever the user's forward raises on a proxy
        first = error
    try:
        return _exported(model, example)
    except UntraceableError:
        raise
    except Exception as second:  # torch.export has no common base either
        raise UntraceableError(
            f"{type(model).__name__} cannot be traced by torch.fx ({one_line(first)}) nor by torch.export "
            f"({one_line(second)}){_source_line(second, first)}; its forward must not branch or loop on tensor values"
        ) from second


def _exported(model: nn.Module, example: Tensor | tuple[Any, ...]) -> Traced:
    """The operators of one pass, on the network's own parameters."""
    program = torch.export.export(model, arguments(example), strict=False)
    module = program.module()
    graph, copies = fx.Graph(), {}  # type: tuple[fx.Graph, dict[fx.Node, fx.Node]]
    for n in module.graph.nodes:
        if n.op == "output":
            (outputs,) = fx.node.map_arg(n.args, lambda node: copies[node])
            graph.output(outputs[0] if program.call_spec.out_spec.is_leaf() else tuple(outputs))
        elif n.target != "_guards_fn":  # checks of the example's shapes
            copies[n] = graph.node_copy(n, lambda node: copies[node])
    return Traced(fx.GraphModule(module, graph), graph, recorded=True)


def arguments(example: Tensor | tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(example) if isinstance(example, tuple | list) else (example,)


def one_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _source_line(*errors: BaseException) -> str:
    """The last line of the user's code on the way to an error."""
    torch_home = str(Path(torch.__file__).parent)
    for error in errors:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(torch_home)]
        users = [f for f in frames if f.filename != __file__ and not f.filename.startswith("<")]
        if users:
            last = users[-1]
            line = (linecache.getline(last.filename, last.lineno or 0) or last.line or "").strip()
            return f" at {last.filename}:{last.lineno}: {line!r}"
    return ""


def operator_name(n: fx.Node) -> str:
    """`relu` of torch.relu, F.relu, Tensor.relu, operator.relu and aten.relu.default."""
    name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
    return name.partition(".")[0]


Ran = TypeVar("Ran", bound="ShapeInterpreter")


def run_on_shapes(
    traced: Traced, example: Tensor | tuple[Any, ...], make: Callable[[nn.Module, fx.Graph, bool], Ran]
) -> Ran:
    """Run a graph on zeros that take no memory, where convolutions and the like are known by their shapes.

    Where a node asks for more (it writes in place, or its shape hangs on values) all is run on the example itself.

    Parameters
    ----------
    make
        Gives the interpreter of (network, graph, shapes only).

    Raises
    ------
    UntraceableError
        It does not run on the example, or what the interpreter raises.
    """
    interpreter = make(_with_own_buffers(traced.root), traced.graph, True)
    try:
        interpreter.compute(tuple(_no_memory(a) for a in arguments(example)))
    except _NeedsValuesError:
        interpreter = make(copy.deepcopy(traced.root), traced.graph, False)
        interpreter.compute(arguments(example))
    return interpreter


class _NeedsValuesError(Exception):
    """A node does not run on shapes alone."""


def _no_memory(value: Any) -> Any:
    return _zeros(value, value.shape) if isinstance(value, Tensor) and value.is_floating_point() else value


def _zeros(like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_zeros(()).expand(tuple(shape))


def _with_own_buffers(root: nn.Module) -> nn.Module:
    """A copy that shares everything but its buffers, which a network may write to."""
    seen: dict[int, nn.Module] = {}

    def clone(module: nn.Module) -> nn.Module:
        if id(module) in seen:
            return seen[id(module)]
        new = object.__new__(type(module))
        seen[id(module)] = new
        vars(new).update(vars(module))
        vars(new)["_parameters"] = dict(module._parameters)
        vars(new)["_buffers"] = {key: b if b is None else b.clone() for key, b in module._buffers.items()}
        vars(new)["_modules"] = {key: m and clone(m) for key, m in module._modules.items()}
        return new

    return clone(root)


def _known_shape(module: nn.Module, x: Tensor) -> tuple[int, ...] | None:
    """Shape that a plain module gives out; None where it has to be run to tell."""
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if isinstance(module, PLAIN_MODULES):
        return tuple(x.shape)
    if isinstance(module, nn.LayerNorm) and tuple(x.shape[-len(module.normalized_shape) :]) == module.normalized_shape:
        return tuple(x.shape)
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and x.dim() > 1 and x.shape[1] == module.num_features:
        return tuple(x.shape)
    if isinstance(module, nn.Linear) and x.shape[-1:] == module.weight.shape[1:]:
        return (*x.shape[:-1], module.weight.shape[0])
    if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
        return _convolved_shape(module, x)
    return None


def _convolved_shape(module: _ConvNd, x: Tensor) -> tuple[int, ...] | None:
    """Source: the formula in the documentation of nn.Conv2d."""
    if x.dim() != module.weight.dim() or x.shape[1] != module.in_channels or isinstance(module.padding, str):
        return None
    sizes = tuple(
        (size + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
        for size, pad, dilation, taps, stride in zip(
            x.shape[2:], module.padding, module.dilation, module.kernel_size, module.stride, strict=True
        )
    )
    return (x.shape[0], module.out_channels, *sizes) if min(sizes) > 0 else None


_SHAPE_KEEPING = frozenset(
    ("add", "iadd", "sub", "mul", "imul", "truediv", "relu", "relu_", "relu6", "sigmoid", "tanh", "gelu", "silu")
)
"""Operators whose result has the common shape of their tensors."""


def _known_result(n: fx.Node, values: dict[fx.Node, Any]) -> Tensor | None:
    """What an element-wise operator gives out; None where it has to be run to tell."""
    if operator_name(n) not in _SHAPE_KEEPING or n.kwargs:
        return None
    operands = [values[a] if isinstance(a, fx.Node) else a for a in n.args]
    found = [a for a in operands if isinstance(a, Tensor)]
    if not found or any(a.dtype != found[0].dtype or not a.is_floating_point() for a in found):
        return None
    shapes = {a.shape for a in found}
    shape = found[0].shape if len(shapes) == 1 else np.broadcast_shapes(*shapes)
    return found[0] if shape == found[0].shape else _zeros(found[0], shape)


class ShapeInterpreter(fx.Interpreter):
    """Computes the values of all nodes, or only their shapes, and calls `visit` with each."""

    def __init__(self, root: nn.Module, graph: fx.Graph, shapes_only: bool) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self.values: dict[fx.Node, Any] = {}
        self.shapes_only = shapes_only

    def compute(self, inputs: tuple[Any, ...]) -> None:
        """Run all nodes."""
        with torch.no_grad():
            self.run(*inputs, initial_env=self.values)

    def visit(self, n: fx.Node, value: Any) -> None:
        """What a subclass does with a node and its value."""
        raise NotImplementedError

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = self._known(n) if self.shapes_only else None
            value = super().run_node(n) if value is None else value
        except Exception as error:  # whatever the user's modules raise
            if self.shapes_only:
                raise _NeedsValuesError from error
            raise UntraceableError(f"node {n.name} does not run on the example: {one_line(error)}") from error
        self.values[n] = value
        self.visit(n, value)
        return value

    def _known(self, n: fx.Node) -> Tensor | None:
        """The result of a node that need not be computed, as zeros; None where it has to be run."""
        if n.op in ("call_function", "call_method"):
            return _known_result(n, self.env)
        if n.op != "call_module" or len(n.args) != 1 or not isinstance(n.args[0], fx.Node):
            return None
        x = self.env[n.args[0]]
        shape = _known_shape(self.fetch_attr(str(n.target)), x) if isinstance(x, Tensor) else None
        return None if shape is None else x if shape == x.shape else _zeros(x, shape)
