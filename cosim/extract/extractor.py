"""Runs a network on shapes and writes down a layer for every node that costs something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from accel_models.layers import Bits, Layer
from accel_models.workload import Workload
from cosim.errors import UntraceableError
from cosim.extract import geometry, kinds
from cosim.extract.widths import with_activation_bits
from cosim.pruning.heads import HeadAttention
from cosim.pruning.plan import PruningPlan
from cosim.pruning.tracing import ShapeInterpreter, operator_name, run_on_shapes, trace_graph


def extract_workload(
    model: nn.Module, example: Tensor | tuple[Any, ...], name: str, plan: PruningPlan | None = None
) -> Workload:
    """The layers that hardware executes for one pass over `example`.

    Parameters
    ----------
    model
        Traceable by torch.fx or torch.export; left as it was. Nothing is computed where shapes suffice.
    example : Tensor [N, C, H, W], tokens, or a tuple for several inputs
        Decides the shapes.
    plan
        Gives the bits of each layer's weights and inputs; 8 otherwise.

    Raises
    ------
    UntraceableError
        An operator that has no cost model; the message names node and operator. A network that cannot be traced; the
        message names the line of its code.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        found = run_on_shapes(
            trace_graph(model, example), example, lambda root, graph, shapes: _Extractor(root, graph, shapes, plan)
        )
    finally:
        for module, training in modes:
            module.training = training
    if not found.layers:
        raise UntraceableError(f"{name}: no operator of the network costs anything; give a network with layers")
    workload = Workload(name=name, layers=tuple(found.layers), edges=tuple(dict.fromkeys(found.edges)))
    return workload if plan is None else with_activation_bits(workload, plan)


class _Extractor(ShapeInterpreter):
    """Layers, and the edges between them, in order of execution."""

    def __init__(self, root: nn.Module, graph: fx.Graph, shapes_only: bool, plan: PruningPlan | None) -> None:
        super().__init__(root, graph, shapes_only)
        self.plan = plan
        self.layers: list[Layer] = []
        self.edges: list[tuple[str, str]] = []
        self.makers: dict[fx.Node, tuple[str, ...]] = {}
        self.stored: set[fx.Node] = set()
        """Tensors that no input of the network changes."""
        self.arguments: dict[fx.Node, fx.Node] = {}
        """Node -> the one node that it is an element-wise function of."""
        self.products: set[fx.Node] = set()
        self.names: Counter[str] = Counter()
        self.taken: set[str] = set()

    def visit(self, n: fx.Node, value: Any) -> None:
        sources = [node for node in n.all_input_nodes if _is_tensors(self.values[node])]
        constant = n.op == "get_attr" or all(node in self.stored for node in sources)
        if constant and n.op not in ("placeholder", "output"):
            self.stored.add(n)
            return
        self.makers[n] = self._made(sources)
        if n.op in ("call_module", "call_function", "call_method") and _is_tensors(value):
            self._count(n, value)

    def _count(self, n: fx.Node, value: Any) -> None:
        module = self._module(n)
        if module is None:
            self._function(n, value)
        elif isinstance(module, nn.MultiheadAttention | HeadAttention):
            self._multihead(n, module)
        elif isinstance(module, _ConvNd):
            if isinstance(module, _ConvTransposeNd):
                raise UntraceableError(
                    f"module {n.target!r}: {type(module).__name__} has no cost model; write it as Upsample and Conv"
                )
            name, kernel = self._unique(str(n.target)), geometry.module_kernel(module)
            image = self.shape(self._argument(n, 0, "input"))
            self.put(n, geometry.convolution(name, kernel, image, tuple(value.shape), self._bits(str(n.target))))
        elif isinstance(module, nn.Linear):
            bits, name = self._bits(str(n.target)), self._unique(str(n.target))
            self.put(n, geometry.linear(name, module.weight, tuple(value.shape), bits))
            self.products.add(n)
        else:
            self._plain_module(n, module, value)

    def _plain_module(self, n: fx.Node, module: nn.Module, value: Any) -> None:
        if isinstance(module, kinds.FREE_MODULES):
            if isinstance(module, kinds.FUNCTION_MODULES):
                self._same(n, self._argument(n, 0, "input"))
            return
        for classes, kind in kinds.VECTOR_MODULES:
            if isinstance(module, classes):
                self.vector(n, kind, self._unique(str(n.target)), [self._argument(n, 0, "input")], value)
                return
        raise UntraceableError(f"module {str(n.target)!r}: {type(module).__name__} has no cost model; {kinds.ADVICE}")

    def _function(self, n: fx.Node, value: Any) -> None:
        name = operator_name(n)
        base = name.rstrip("_")
        if name in _SPECIAL:
            _SPECIAL[name](self, n, value)
        elif base in kinds.FREE or name in kinds.FREE:
            return
        elif base in kinds.FUNCTIONS:
            self._same(n, self._argument(n, 0, "input"))
        elif base in kinds.ELEMENTWISE:
            self._elementwise(n, kinds.ELEMENTWISE[base], value)
        elif name in kinds.VECTORS:
            self.vector(n, kinds.VECTORS[name], self.counted(base), [self._argument(n, 0, "input")], value)
        else:
            raise UntraceableError(f"node {n.name!r}: operator {name or n.target!r} has no cost model; {kinds.ADVICE}")

    def _elementwise(self, n: fx.Node, base: str, value: Tensor) -> None:
        """Work on two tensors; numbers, biases, masks and functions of one tensor are free."""
        operands = list(dict.fromkeys(n.all_input_nodes[1:] if base == "where" else n.all_input_nodes))
        if base == "where":
            operands = [node for node in operands if node is not n.args[0]]
        wide = [node for node in operands if isinstance(self.values[node], Tensor) and self.values[node].numel() > 1]
        origins = {self.arguments.get(node, node) for node in wide}
        if len(origins) <= 1:
            if origins:
                self.arguments[n] = next(iter(origins))
        elif not self._is_bias(base, wide) and not self._is_mask(n, base, wide):
            self.vector(n, "elementwise", self.counted(base), wide, value)

    def _is_bias(self, base: str, wide: Sequence[fx.Node]) -> bool:
        stored = [node for node in wide if node in self.stored]
        made = [node for node in wide if node in self.products]
        if base != "add" or len(stored) != 1 or len(made) != 1:
            return False
        return bool(self.values[stored[0]].numel() == max(self.shape(stored[0])))

    def _is_mask(self, n: fx.Node, base: str, wide: Sequence[fx.Node]) -> bool:
        readers = [self._kind_of(user) for user in n.users]
        return base in ("add", "where") and any(node in self.stored for node in wide) and readers == ["softmax"]

    def _kind_of(self, n: fx.Node) -> str:
        return "softmax" if isinstance(self._module(n), nn.Softmax) else operator_name(n)

    def _multihead(self, n: fx.Node, module: Any) -> None:
        """nn.MultiheadAttention: one or three projections in, scores, softmax, context, one projection out."""
        base = str(n.target)
        parts = [self._argument(n, i, name) for i, name in enumerate(("query", "key", "value"))]
        shapes = [self.shape(part) for part in parts]
        rows, inner = [shape[0] * (shape[1] if len(shape) == 3 else 1) for shape in shapes], module.in_proj_weight
        width, inputs = inner.shape[0] // 3, inner.shape[1]
        batch = 1 if len(shapes[0]) == 2 else shapes[0][0 if module.batch_first else 1]
        heads = [(batch, module.num_heads, count // batch, module.head_dim) for count in rows]
        fused = len({id(part) for part in parts}) == 1
        names = ["in_proj"] if fused else ["in_proj.query", "in_proj.key", "in_proj.value"]
        for name, count in zip(names, rows, strict=False):
            out = (count, 3 * width if fused else width)
            weight = inner.new_empty((out[1], inputs))
            self.put(n, geometry.linear(self._unique(f"{base}.{name}"), weight, out, self._bits(base)))
        self._attention(n, self._unique(base), heads)
        name = self._unique(f"{base}.out_proj")
        out = (rows[0], module.out_proj.weight.shape[0])
        self.put(n, geometry.linear(name, module.out_proj.weight, out, self._bits(f"{base}.out_proj")))

    def _attention(self, n: fx.Node, base: str, shapes: Sequence[geometry.Shape]) -> None:
        for layer in geometry.attention(base, shapes[0], shapes[1], shapes[2]):
            self.put(n, layer)

    def sdpa(self, n: fx.Node, value: Any) -> None:
        """Scores read queries and keys, the context reads the values too."""
        parts = [self._argument(n, i, name) for i, name in enumerate(("query", "key", "value"))]
        base = self.counted("scaled_dot_product_attention")
        scores, softmax, context = geometry.attention(base, *(self.shape(part) for part in parts))
        self.makers[n] = self._made(parts[:2])
        self.put(n, scores)
        self.put(n, softmax)
        self.makers[n] = tuple(dict.fromkeys((*self.makers[n], *self._made(parts[2:]))))
        self.put(n, context)

    def linear(self, n: fx.Node, value: Tensor) -> None:
        name, weight = self._weight(n)
        self.put(n, geometry.linear(self._unique(name), weight, tuple(value.shape), self._bits(name)))
        self.products.add(n)

    def convolution(self, n: fx.Node, value: Tensor) -> None:
        name, weight = self._weight(n)
        image, kernel = self.shape(self._argument(n, 0, "input")), geometry.function_kernel(n, weight)
        self.put(n, geometry.convolution(self._unique(name), kernel, image, tuple(value.shape), self._bits(name)))

    def product(self, n: fx.Node, value: Tensor) -> None:
        factors = [self._argument(n, 0, "input"), self._argument(n, 1, "mat2" if "mat2" in n.kwargs else "other")]
        stored = (factors[0] in self.stored, factors[1] in self.stored)
        name = self._owner(factors[stored.index(True)]) if any(stored) else self.counted("matmul")
        shapes = [self.shape(factor) for factor in factors]
        self.put(n, geometry.product(self._unique(name), shapes[0], shapes[1], stored, self._bits(name)))
        if any(stored):
            self.products.add(n)

    def einsum(self, n: fx.Node, value: Tensor) -> None:
        raw: Any = n.args[1] if isinstance(n.args[1], tuple | list) else n.args[1:]
        factors: list[fx.Node] = list(raw)
        stored = [factor in self.stored for factor in factors]
        name = self._owner(factors[stored.index(True)]) if any(stored) else self.counted("einsum")
        shapes = [self.shape(factor) for factor in factors]
        self.put(n, geometry.einsum(self._unique(name), str(n.args[0]), shapes, stored))

    def pad(self, n: fx.Node, value: Tensor) -> None:
        widths: Any = n.args[1] if len(n.args) > 1 else n.kwargs["pad"]
        if any(width != 0 for width in widths):
            self.vector(n, "pad", self.counted("pad"), [self._argument(n, 0, "input")], value)

    def embedding(self, n: fx.Node, value: Tensor) -> None:
        self.put(n, geometry.vector(self.counted("embedding"), "embedding", value.numel(), value.numel()))

    def vector(self, n: fx.Node, kind: str, name: str, operands: Sequence[fx.Node], value: Any) -> None:
        if not isinstance(value, Tensor):
            raise UntraceableError(f"node {n.name!r}: gives more than one tensor, which has no cost model")
        read = value.numel() if kind == "embedding" else sum(self.values[node].numel() for node in operands)
        self.put(n, geometry.vector(name, kind, read, value.numel()))

    def put(self, n: fx.Node, layer: Layer) -> None:
        """Append a layer that reads what the node's makers wrote, and is the node's maker from now on."""
        self.taken.add(layer.name)
        self.layers.append(layer)
        self.edges += [(source, layer.name) for source in self.makers[n]]
        self.makers[n] = (layer.name,)

    def shape(self, n: fx.Node) -> geometry.Shape:
        return tuple(self.values[n].shape)

    def counted(self, base: str) -> str:
        """A name for work without a module: add, add_1, …"""
        number = self.names[base]
        self.names[base] += 1
        return self._unique(f"{base}_{number}" if number else base)

    def _unique(self, name: str) -> str:
        unique, number = name, 1
        while unique in self.taken:
            unique, number = f"{name}#{number}", number + 1
        return unique

    def _made(self, nodes: Sequence[fx.Node]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for node in nodes for name in self.makers.get(node, ())))

    def _same(self, n: fx.Node, source: fx.Node) -> None:
        self.arguments[n] = self.arguments.get(source, source)

    def _module(self, n: fx.Node) -> nn.Module | None:
        return self.fetch_attr(str(n.target)) if n.op == "call_module" else None

    def _argument(self, n: fx.Node, position: int, name: str) -> fx.Node:
        found: Any = n.args[position] if len(n.args) > position else n.kwargs.get(name)
        if not isinstance(found, fx.Node):
            raise UntraceableError(f"node {n.name!r}: argument {name} is no tensor; pass the tensors by position")
        return found

    def _weight(self, n: fx.Node) -> tuple[str, Tensor]:
        weight = self._argument(n, 1, "weight")
        if weight not in self.stored:
            raise UntraceableError(f"node {n.name!r}: its weights are computed by the network: that has no cost model")
        return self._owner(weight), self.values[weight]

    def _owner(self, n: fx.Node) -> str:
        """The layer whose weight a stored tensor is, or comes from."""
        while n.op != "get_attr" and n.all_input_nodes:
            n = n.all_input_nodes[0]
        return str(n.target).removesuffix(".weight")

    def _bits(self, layer: str) -> Bits:
        return Bits(weight=self.plan[layer].weight_bits) if self.plan is not None else Bits()


def _is_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(map(_is_tensors, value)))


_SPECIAL: dict[str, Callable[[_Extractor, fx.Node, Any], None]] = {
    "linear": _Extractor.linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _Extractor.convolution),
    **dict.fromkeys(("matmul", "bmm", "mm"), _Extractor.product),
    "scaled_dot_product_attention": _Extractor.sdpa,
    "einsum": _Extractor.einsum,
    "pad": _Extractor.pad,
    "embedding": _Extractor.embedding,
}
