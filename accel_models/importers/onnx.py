"""ONNX files become workloads, with the conventions of `cosim.extract`.

Activation functions, batch normalisation, casts, quantisation and whatever only moves, joins or cuts tensors are free:
they ride on the layer that produces or reads the tensor. So does every element-wise function of one tensor (Sigmoid and
Mul make a SiLU; Div, Erf, Add and Mul a GELU), a bias, and a constant mask before a softmax. Pooling, reductions,
padding, resizing, normalisation, softmax, element-wise work on two tensors and embeddings (rows gathered from a stored
table) become vector work with their traffic. Attention is NAME.scores, NAME.softmax and NAME.context, as one operator
or in parts.
Weights are not read, only their shapes; widths are 8 bits unless the file is quantised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from accel_models.errors import InvalidInputError
from accel_models.importers.onnx_attention import find_attention
from accel_models.importers.onnx_graph import Node, OnnxGraph, read_graph
from accel_models.importers.onnx_layers import (
    Operands,
    attention_shape,
    convolution,
    find_weights,
    matrix_product,
)
from accel_models.importers.onnx_names import Names
from accel_models.layers import Bits, Layer, VectorOp
from accel_models.workload import Workload

_SUM_BITS = 32
"""Of the outputs of ConvInteger and MatMulInteger. Source: the ONNX operators' type constraint T3, int32."""
_MOVES = {
    "Cast", "CastLike", "Compress", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand",
    "EyeLike", "Flatten", "GatherElements", "GatherND", "Identity", "Range", "Reshape", "Shape", "Size",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze",
}  # fmt: skip
_FUNCTIONS = {
    "Abs", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu",
    "Log", "Mish", "Neg", "Not", "PRelu", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
}  # fmt: skip
_FREE = {"BatchNormalization", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"}
_KEEP_WIDTH = _MOVES | {"Clip", "DequantizeLinear", "Gather", "MaxPool", "Pad", "Relu"}
"""Operators whose output has as many bits as their input, of a network that carries quantised values as floats."""
_SAME_VALUE = _FUNCTIONS | {"Cast", "Dropout", "Identity", "QuantizeLinear", "DequantizeLinear"}
_POOLS = {"AveragePool": "avg_pool", "LpPool": "lp_pool", "MaxPool": "max_pool"}
_GLOBAL_POOLS = {
    "GlobalAveragePool": "adaptive_avg_pool",
    "GlobalLpPool": "adaptive_lp_pool",
    "GlobalMaxPool": "adaptive_max_pool",
}
_REDUCTIONS = {
    "ArgMax": "argmax", "ArgMin": "argmin", "ReduceL1": "norm", "ReduceL2": "norm", "ReduceLogSumExp": "logsumexp",
    "ReduceMax": "amax", "ReduceMean": "mean", "ReduceMin": "amin", "ReduceProd": "prod", "ReduceSum": "sum",
    "ReduceSumSquare": "sum",
}  # fmt: skip
_ELEMENTWISE = {
    "Add": "add", "And": "and_", "Div": "truediv", "Equal": "eq", "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt",
    "LessOrEqual": "le", "Max": "maximum", "Mean": "mean", "Min": "minimum", "Mod": "mod", "Mul": "mul", "Or": "or_",
    "Pow": "pow", "Sub": "sub", "Sum": "add", "Where": "where", "Xor": "xor",
}  # fmt: skip
_NORMALIZATIONS = {
    "GroupNormalization": "group_norm", "InstanceNormalization": "instance_norm", "LayerNormalization": "layer_norm",
    "LpNormalization": "normalize", "LRN": "local_response_norm", "MeanVarianceNormalization": "instance_norm",
    "RMSNormalization": "rms_norm",
}  # fmt: skip
_SOFTMAXES = {"Hardmax": "hardmax", "LogSoftmax": "log_softmax", "Softmax": "softmax"}
_WEIGHT_POSITION = {"QLinearConv": 3, "QLinearMatMul": 3}
"""Of the second factor: it stands behind scale and zero point of the first one."""
_ADVICE = {
    "ConvTranspose": "write it as Resize and Conv",
    "Einsum": "write it as Transpose, Reshape and MatMul",
    "If": "export the branch that is taken",
    "Loop": "export the network unrolled",
    "Scan": "export the network unrolled",
}


def read_onnx(path: Path | str, batch: int = 1) -> Workload:
    """The layers that hardware executes for one pass through an ONNX file.

    Parameters
    ----------
    batch : at least 1
        Images, where the file leaves the first dimension of an input open.

    Raises
    ------
    InvalidInputError
        The package onnx is missing, the file is none of ONNX, an operator has no cost model or an input no fixed size;
        the message names file, node and operator.
    """
    path = Path(path)
    if batch < 1:
        raise InvalidInputError(f"{path}: batch = {batch} must be at least 1")
    importer = _Importer(read_graph(path, batch))
    for node in importer.graph.nodes:
        importer.add(node)
    if not importer.layers:
        raise InvalidInputError(f"{path}: no operator of the graph costs anything; give a network with layers")
    return Workload(name=path.stem, layers=tuple(importer.layers.values()), edges=tuple(dict.fromkeys(importer.edges)))


class _Importer:
    """Writes down a layer for every node that costs something, and which layers made each tensor."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.layers: dict[str, Layer] = {}
        self.edges: list[tuple[str, str]] = []
        self.names = Names()
        self.makers: dict[str, tuple[str, ...]] = {}
        self.widths = dict(graph.widths)
        self.arguments: dict[str, str] = {}
        """Tensor -> the one tensor that it is an element-wise function of."""
        self.products: set[str] = set()
        """Tensors that a product with weights wrote and that still wait for their bias."""
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                self.readers.setdefault(name, []).append(node)
        self.parts = find_attention(graph, self.readers)
        """Tensor -> the part of attention that writes it."""
        self.calls: dict[str, str] = {}
        """Tensor of the scores -> name of the attention."""

    def add(self, node: Node) -> None:
        """Count one node."""
        self._keep_width(node)
        if all(name in self.graph.constants for name in node.outputs):
            return
        self._set_makers(node, self._sources(node))
        handler = _HANDLERS.get(node.op)
        if handler is None:
            advice = _ADVICE.get(node.op, "cut it off, or export the network without it")
            raise self.graph.refuse(node, f"operator {node.op} has no cost model; {advice}")
        try:
            handler(self, node)
        except InvalidInputError as error:
            if str(error).startswith(str(self.graph.path)):
                raise
            raise self.graph.refuse(node, str(error)) from error

    def free(self, node: Node) -> None:
        """Rides on its producers; a quantisation tells them the width of their outputs."""
        if node.op in _SAME_VALUE:
            self.arguments[node.outputs[0]] = self._argument(node.inputs[0])
        makers = self.makers[node.outputs[0]]
        if node.op == "QuantizeLinear" and len(makers) == 1:
            layer = self.layers[makers[0]]
            width = self.widths.get(node.outputs[0], layer.bits.output)
            self.layers[layer.name] = replace(layer, bits=replace(layer.bits, output=width))

    def convolution(self, node: Node) -> None:
        weight = node.input(_WEIGHT_POSITION.get(node.op, 1))
        if weight not in self.graph.constants:
            raise self.graph.refuse(node, "its weights are computed by the network: that has no cost model")
        operands = Operands(node.inputs[0], weight)
        bias = node.input(8 if node.op == "QLinearConv" else 2)
        name = self.names.of_weights(node, self._stored(weight, bias))
        self._append(node, convolution(self.graph, node, name, operands, self._bits(node, *node_factors(node))))

    def product(self, node: Node) -> None:
        factors = node_factors(node)
        operands = find_weights(self.graph, *factors)
        if operands.weight:
            name = self.names.of_weights(node, self._stored(operands.weight, self._bias_of(node)))
            self.products.add(node.outputs[0])
        else:
            name = self._part_of_attention(node) or self.names.of_kind(node, "matmul")
        bits = self._bits(node, operands.input, operands.weight or factors[1])
        self._append(node, matrix_product(self.graph, node, name, factors, bits))

    def attention(self, node: Node) -> None:
        """Scores, their softmax, and the product with the values, one after the other."""
        shape, makers = attention_shape(self.graph, node), [self._made(name) for name in node.inputs[:3]]
        base = self.names.of_kind(node, "scaled_dot_product_attention")
        names = (f"{base}.scores", f"{base}.context")
        scores, context = shape.products(names, self._bits(node, *node.inputs[:2]))
        softmax = VectorOp(
            name=f"{base}.softmax",
            kind="softmax",
            input_elements=shape.scores,
            output_elements=shape.scores,
            operations=shape.scores,
        )
        self._put(scores, (*makers[0], *makers[1]))
        self._put(softmax, (scores.name,))
        self._put(context, (softmax.name, *makers[2]))
        self._set_makers(node, (context.name,))

    def gather(self, node: Node) -> None:
        """Rows of a stored table by computed numbers are an embedding; all else is a move."""
        table, numbers = node.inputs[:2]
        stored = table in self.graph.constants and numbers not in self.graph.constants
        if stored and len(self.graph.shape(table, node)) == 2 and node.attributes.get("axis", 0) == 0:
            self._vector(node, "embedding", "embedding", [table])

    def pool(self, node: Node) -> None:
        axes = len(self.graph.shape(node.inputs[0], node)) - 2
        base = f"{_POOLS.get(node.op) or _GLOBAL_POOLS[node.op]}{axes}d"
        self._vector(node, "pool", base, node.inputs[:1])

    def reduction(self, node: Node) -> None:
        self._vector(node, "pool", _REDUCTIONS[node.op], node.inputs[:1])

    def normalization(self, node: Node) -> None:
        self._vector(node, "normalization", _NORMALIZATIONS[node.op], node.inputs[:1])

    def softmax(self, node: Node) -> None:
        self._vector(node, "softmax", _SOFTMAXES[node.op], node.inputs[:1], self._part_of_attention(node))

    def _part_of_attention(self, node: Node) -> str:
        """NAME.scores, NAME.softmax or NAME.context; empty if the node is no part of one call."""
        scores, part = self.parts.get(node.outputs[0], ("", ""))
        if not part:
            return ""
        if part == "scores":
            self.calls[scores] = self.names.of_kind(node, "scaled_dot_product_attention")
        return f"{self.calls[scores]}.{part}"

    def resize(self, node: Node) -> None:
        self._vector(node, "resize", "interpolate", node.inputs[:1])

    def pad(self, node: Node) -> None:
        pads = self.graph.values.get(node.input(1), np.array(node.attributes.get("pads", (1,))))
        if np.any(pads):
            self._vector(node, "pad", "pad", node.inputs[:1])

    def elementwise(self, node: Node) -> None:
        """Work on two tensors; scalars, biases, masks and functions of one tensor are free."""
        operands = dict.fromkeys(node.inputs[1:] if node.op == "Where" else node.inputs)
        wide = [name for name in operands if self.graph.elements(name, node) > 1]
        arguments = {self._argument(name) for name in wide}
        if len(arguments) <= 1:
            self.arguments[node.outputs[0]] = next(iter(arguments), node.outputs[0])
        elif not self._is_bias(node, wide) and not self._is_mask(node, wide):
            self._vector(node, "elementwise", _ELEMENTWISE[node.op], wide)

    def _is_bias(self, node: Node, wide: Sequence[str]) -> bool:
        """A stored vector that is added right after a product with weights."""
        stored = [name for name in wide if name in self.graph.constants]
        made = [name for name in wide if name in self.products]
        if node.op != "Add" or len(stored) != 1 or len(made) != 1:
            return False
        return self.graph.elements(stored[0], node) == max(self.graph.shape(stored[0], node))

    def _is_mask(self, node: Node, wide: Sequence[str]) -> bool:
        readers = self.readers.get(node.outputs[0], [])
        stored = any(name in self.graph.constants for name in wide)
        return node.op in ("Add", "Where") and stored and [reader.op for reader in readers] == ["Softmax"]

    def _bias_of(self, node: Node) -> str:
        """Name of the stored tensor that is added to a product, empty if there is none."""
        if node.op == "Gemm":
            return node.input(2)
        readers = self.readers.get(node.outputs[0], [])
        if len(readers) != 1 or readers[0].op != "Add":
            return ""
        return next((name for name in readers[0].inputs if name in self.graph.constants), "")

    def _stored(self, *tensors: str) -> tuple[str, ...]:
        return tuple(self.graph.constants[name] for name in tensors if name in self.graph.constants)

    def _bits(self, node: Node, first: str, second: str) -> Bits:
        wide = _SUM_BITS if node.op in ("ConvInteger", "MatMulInteger") else Bits().output
        return Bits(
            weight=self.widths.get(second, Bits().weight),
            input=self.widths.get(first, Bits().input),
            output=self.widths.get(node.outputs[0], wide),
        )

    def _vector(self, node: Node, kind: str, base: str, inputs: Sequence[str], name: str = "") -> None:
        written = prod(self.graph.shape(node.outputs[0], node))
        read = written if kind == "embedding" else sum(self.graph.elements(given, node) for given in inputs)
        bits = self._bits(node, inputs[0], "")
        layer = VectorOp(
            name=name or self.names.of_kind(node, base),
            kind=kind,
            input_elements=read,
            output_elements=written,
            operations=max(read if kind == "pool" else 0, written),
            bits=bits,
        )
        self._append(node, layer)

    def _append(self, node: Node, layer: Layer) -> None:
        self._put(layer, self._sources(node))
        self._set_makers(node, (layer.name,))

    def _put(self, layer: Layer, sources: Sequence[str]) -> None:
        self.layers[layer.name] = layer
        self.edges += [(source, layer.name) for source in dict.fromkeys(sources)]

    def _sources(self, node: Node) -> tuple[str, ...]:
        return tuple(dict.fromkeys(maker for name in node.inputs for maker in self._made(name)))

    def _made(self, name: str) -> tuple[str, ...]:
        return () if name in self.graph.constants else self.makers.get(name, ())

    def _set_makers(self, node: Node, makers: tuple[str, ...]) -> None:
        self.makers |= dict.fromkeys(node.outputs, makers)

    def _argument(self, name: str) -> str:
        return self.arguments.get(name, name)

    def _keep_width(self, node: Node) -> None:
        if node.op not in _KEEP_WIDTH or not node.inputs:
            return
        read = node.inputs if node.op == "Concat" else node.inputs[:1]
        found = {self.widths.get(name) for name in read}
        width = found.pop() if len(found) == 1 else None
        if width is not None:
            for name in node.outputs:
                self.widths.setdefault(name, width)


def node_factors(node: Node) -> tuple[str, str]:
    """Names of the two tensors that a convolution or matrix product multiplies."""
    return node.inputs[0], node.input(_WEIGHT_POSITION.get(node.op, 1))


_HANDLERS: dict[str, Callable[[_Importer, Node], None]] = {
    **dict.fromkeys(_MOVES | _FUNCTIONS | _FREE, _Importer.free),
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv"), _Importer.convolution),
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"), _Importer.product),
    "Attention": _Importer.attention,
    "Gather": _Importer.gather,
    **dict.fromkeys((*_POOLS, *_GLOBAL_POOLS), _Importer.pool),
    **dict.fromkeys(_REDUCTIONS, _Importer.reduction),
    **dict.fromkeys(_NORMALIZATIONS, _Importer.normalization),
    **dict.fromkeys(_SOFTMAXES, _Importer.softmax),
    **dict.fromkeys(("Resize", "Upsample"), _Importer.resize),
    "Pad": _Importer.pad,
    **dict.fromkeys(_ELEMENTWISE, _Importer.elementwise),
}
