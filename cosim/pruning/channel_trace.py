"""The run of a network's graph on channel ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from cosim.errors import UntraceableError
from cosim.pruning.channel_call import Call, Run
from cosim.pruning.channel_ids import ChannelRecord, constant, spread, tensors
from cosim.pruning.channel_operators import handler_of
from cosim.pruning.tracing import ShapeInterpreter, Traced, one_line, operator_name, run_on_shapes

INPUT = "network input"
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)
_WEIGHTED_FUNCTIONS = ("linear", "conv1d", "conv2d", "conv3d", "embedding")
_PARAMETER_FUNCTIONS = (*_WEIGHTED_FUNCTIONS, "batch_norm", "instance_norm", "prelu", "layer_norm", "group_norm")


def run_on_channel_ids(traced: Traced, example: Tensor | tuple[Any, ...]) -> Run:
    """Run a graph on the ids of its channels.

    Raises
    ------
    UntraceableError
        It does not run on the example, or an operator is not known.
    """
    return run_on_shapes(traced, example, _IdInterpreter).shared


def _canonical_names(root: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    names = {}
    for source in (root.named_parameters(remove_duplicate=False), root.named_buffers(remove_duplicate=False)):
        for name, tensor in source:
            names[name] = first.setdefault(id(tensor), name)
    return names


class _IdInterpreter(ShapeInterpreter):
    """Beside each value that is a tensor or a tuple of tensors, its channel ids."""

    def __init__(self, root: nn.Module, graph: fx.Graph, shapes_only: bool) -> None:
        super().__init__(root, graph, shapes_only)
        self.record = ChannelRecord(canonical=_canonical_names(root))
        self.shared = Run(root, self.record, {}, self.values, {})

    def visit(self, n: fx.Node, value: Any) -> None:
        ids = self._ids(n, value)
        if ids is not None:
            self.shared.ids[n] = ids

    def _ids(self, n: fx.Node, value: Any) -> Any:
        if n.op == "placeholder":
            return self._placeholder(n, value)
        if n.op == "get_attr":
            taken = n.users and all(operator_name(user) in _PARAMETER_FUNCTIONS for user in n.users)
            return None if taken else self._attribute(str(n.target), value)
        if n.op == "output":
            self._output(n)
            return None
        if not tensors(value):
            return None
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        weighted = isinstance(module, _WEIGHTED) or (module is None and operator_name(n) in _WEIGHTED_FUNCTIONS)
        if not weighted and not any(source in self.shared.ids for source in n.all_input_nodes):
            return None
        return self._handled(n, Call(n, module, value, self.shared))

    def _handled(self, n: fx.Node, call: Call) -> Any:
        handler = handler_of(n, call.module)
        try:
            return handler(call)
        except UntraceableError:
            raise
        except Exception as error:  # an operator used in a way that its handler does not foresee
            raise UntraceableError(
                f"node {n.name}: {n.target} is used in a way that the channel tracer cannot follow ({one_line(error)})"
            ) from error

    def _placeholder(self, n: fx.Node, value: Any) -> Tensor | None:
        if not isinstance(value, Tensor):
            return None
        if not value.is_floating_point():  # tokens: numbers of rows, no channels
            return constant(value)
        if value.dim() < 2:
            raise UntraceableError(f"input {n.name} is not a tensor [N, C, ...]; give an example of that shape")
        ids = self.record.fresh(value.shape[1])
        self.record.lock(ids, INPUT)
        return spread(ids, 1, value.shape)

    def _attribute(self, name: str, value: Any) -> Any:
        """A parameter that is used directly has channels along the one dimension that is longer than 1."""
        long = [dim for dim, size in enumerate(value.shape) if size > 1] if isinstance(value, nn.Parameter) else []
        if len(long) != 1:
            return None
        ids = self.record.fresh(value.shape[long[0]])
        self.record.use(name, long[0], "out", ids)
        return spread(ids, long[0], value.shape)

    def _output(self, n: fx.Node) -> None:
        for source in _nested_nodes(n.args):
            for ids in tensors(self.shared.ids.get(source, ())):
                self.record.lock(ids, "network output")


def _nested_nodes(args: Any) -> Sequence[fx.Node]:
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.node.map_arg(args, note)
    return found
