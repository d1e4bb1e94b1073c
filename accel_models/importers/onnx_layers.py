"""Geometry of the ONNX operators that multiply: convolution, matrix product, attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from accel_models.importers.onnx_graph import Node, OnnxGraph, Shape
from accel_models.layers import Bits, Conv2d, Gemm


@dataclass(frozen=True)
class Operands:
    """Names of the tensors that a node multiplies; `weight` is empty where both are computed by the network."""

    input: str
    weight: str


def convolution(graph: OnnxGraph, node: Node, name: str, operands: Operands, bits: Bits) -> Conv2d:
    """A 1-D (height 1) or 2-D convolution.

    Unequal paddings of an axis become the larger of the two, the trailing one as far as outputs use it: seen in a
    mirror the same convolution, it touches as many inputs.
    """
    image, out = graph.shape(operands.input, node), graph.shape(node.outputs[0], node)
    weights = graph.shape(operands.weight, node)
    rank = len(image) - 2
    if rank not in (1, 2):
        raise graph.refuse(node, f"a convolution over {rank} axes has no cost model; 1 or 2 have")
    kernel = weights[2:]
    stride = tuple(node.attributes.get("strides", (1,) * rank))
    dilation = tuple(node.attributes.get("dilations", (1,) * rank))
    begin = _leading_padding(node, image[2:], out[2:], kernel, stride, dilation)
    padding = tuple(
        max(before, (o - 1) * step + d * (taps - 1) + 1 - size - before)
        for o, step, d, taps, size, before in zip(out[2:], stride, dilation, kernel, image[2:], begin, strict=True)
    )
    return Conv2d(
        name=name,
        n=out[0],
        k=weights[0],
        c=image[1],
        p=_pair(out[2:], 1)[0],
        q=out[-1],
        r=_pair(kernel, 1)[0],
        s=kernel[-1],
        stride=_pair(stride, 1),
        padding=_pair(padding, 0),
        dilation=_pair(dilation, 1),
        groups=node.attributes.get("group", 1),
        input_size=_pair(image[2:], 1),
        bits=bits,
    )


def _leading_padding(
    node: Node, image: Shape, out: Shape, kernel: Shape, stride: Shape, dilation: Shape
) -> Sequence[int]:
    """Padding before the first row and column. Source: ONNX operator Conv, attributes auto_pad and pads."""
    mode = node.attributes.get("auto_pad", b"NOTSET")
    if mode == b"NOTSET":
        return node.attributes.get("pads", (0,) * 2 * len(image))[: len(image)]
    if mode == b"VALID":
        return (0,) * len(image)
    total = [
        max(0, (o - 1) * step + d * (taps - 1) + 1 - size)
        for o, step, d, taps, size in zip(out, stride, dilation, kernel, image, strict=True)
    ]
    return [pad // 2 if mode == b"SAME_UPPER" else -(-pad // 2) for pad in total]


def _pair(values: Sequence[int], height: int) -> tuple[int, int]:
    """(height, width); the height of a 1-D convolution is given."""
    return (int(values[0]) if len(values) == 2 else height, int(values[-1]))


def find_weights(graph: OnnxGraph, left: str, right: str) -> Operands:
    """Which of two factors is the weight: the one that is stored; none if the network computes both."""
    if right in graph.constants:
        return Operands(input=left, weight=right)
    if left in graph.constants:
        return Operands(input=right, weight=left)
    return Operands(input=left, weight="")


def matrix_product(graph: OnnxGraph, node: Node, name: str, factors: tuple[str, str], bits: Bits) -> Gemm:
    """left [..., M, K] x right [..., K, N]; a stored left factor changes places with the right one.

    A batch of the weights becomes groups; all other batch dimensions become rows.
    """
    left, right = (_transposed(graph, node, factor, flag) for factor, flag in zip(factors, "AB", strict=True))
    left = (1, *left) if len(left) == 1 else left
    right = (*right, 1) if len(right) == 1 else right
    weight = find_weights(graph, *factors).weight
    if weight and weight == factors[0]:
        left, right = _swapped(right), _swapped(left)
    batch = _broadcast(left[:-2], right[:-2])
    groups, n = prod(right[:-2]), right[-1]
    rows = left[-2] * prod(batch) // max(1, groups)  # an empty batch is refused as groups = 0
    source = "parameter" if weight else "activation"
    return Gemm(name=name, m=rows, n=n, k=left[-1], groups=groups, b_source=source, bits=bits)  # type: ignore[arg-type]


def _transposed(graph: OnnxGraph, node: Node, name: str, which: str) -> Shape:
    shape = graph.shape(name, node)
    return _swapped(shape) if node.attributes.get(f"trans{which}", 0) else shape


def _swapped(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


def _broadcast(left: Shape, right: Shape) -> Shape:
    """The common shape; onnx' shape inference has refused those that have none."""
    rank = max(len(left), len(right))
    padded = [(1,) * (rank - len(shape)) + shape for shape in (left, right)]
    return tuple(max(pair) for pair in zip(*padded, strict=True))


@dataclass(frozen=True)
class AttentionShape:
    """Of the operator Attention: query heads share the keys of a group where there are fewer of those."""

    batch: int
    heads: int
    shared: int
    """Query heads for each key head."""
    queries: int
    keys: int
    width: int
    value_width: int

    def products(self, names: tuple[str, str], bits: Bits) -> tuple[Gemm, Gemm]:
        """Scores [queries, keys] and their product with the values."""
        groups, rows = self.batch * self.heads // self.shared, self.queries * self.shared
        scores = Gemm(name=names[0], m=rows, n=self.keys, k=self.width, groups=groups, b_source="activation", bits=bits)
        context = Gemm(
            name=names[1], m=rows, n=self.value_width, k=self.keys, groups=groups, b_source="activation", bits=bits
        )
        return scores, context

    @property
    def scores(self) -> int:
        return self.batch * self.heads * self.queries * self.keys


def attention_shape(graph: OnnxGraph, node: Node) -> AttentionShape:
    """Of tensors [batch, heads, length, width] or [batch, length, heads x width].

    Source: ONNX operator Attention, opset 23.
    """
    query, key, value = (_by_heads(graph, node, i) for i in range(3))
    past = graph.shape(node.input(4), node)[2] if node.input(4) else 0
    return AttentionShape(
        batch=query[0],
        heads=query[1],
        shared=query[1] // key[1],
        queries=query[2],
        keys=key[2] + past,
        width=query[3],
        value_width=value[3],
    )


def _by_heads(graph: OnnxGraph, node: Node, position: int) -> Shape:
    shape = graph.shape(node.inputs[position], node)
    if len(shape) == 4:
        return shape
    attribute = "q_num_heads" if position == 0 else "kv_num_heads"
    heads = node.attributes.get(attribute, 0)
    if heads < 1 or shape[2] % heads:
        raise graph.refuse(node, f"attribute {attribute} = {heads} must divide the width {shape[2]} of its input")
    return (shape[0], heads, shape[1], shape[2] // heads)
