"""Attention that an exporter wrote in parts: which products and softmax were one call of the network's code.

torch writes `scaled_dot_product_attention` as scaled queries and keys, their product, a mask, a softmax and a product
with the values, unless the opset has the operator Attention (23). torch.export says in the metadata from which call a
node comes; TorchScript does not, but scales both factors, which code written by hand hardly does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from accel_models.importers.onnx_graph import Node, OnnxGraph
from accel_models.importers.onnx_names import called_operator

Part = Literal["scores", "softmax", "context"]
_CALL = "scaled_dot_product_attention"
_MASKS = {"Add", "Where"}
_RIDES = {"Cast", "Dropout", "Identity"}


def find_attention(graph: OnnxGraph, readers: Mapping[str, Sequence[Node]]) -> dict[str, tuple[str, Part]]:
    """Parts of attention by the tensor that they write: (tensor of the scores, part)."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    found: dict[str, tuple[str, Part]] = {}
    for node in graph.nodes:
        if node.op != "Softmax":
            continue
        scores, context = _scores(graph, makers, node), _context(graph, readers, node)
        if scores is not None and context is not None and _is_one_call(graph, makers, scores):
            base = scores.outputs[0]
            found |= {
                base: (base, "scores"),
                node.outputs[0]: (base, "softmax"),
                context.outputs[0]: (base, "context"),
            }
    return found


def _scores(graph: OnnxGraph, makers: Mapping[str, Node], softmax: Node) -> Node | None:
    """The product of two computed tensors before the softmax; between them only a constant mask."""
    node = makers.get(softmax.inputs[0])
    while node is not None and node.op in _MASKS | _RIDES:
        computed = [name for name in node.inputs if name and name not in graph.constants]
        node = makers.get(computed[0]) if len(computed) == 1 else None
    return node if node is not None and _multiplies_computed(graph, node) else None


def _context(graph: OnnxGraph, readers: Mapping[str, Sequence[Node]], softmax: Node) -> Node | None:
    """The product that alone reads the softmax, as its left factor."""
    node = softmax
    while True:
        name = node.outputs[0]
        following = readers.get(name, [])
        if len(following) != 1:
            return None
        (node,) = following
        if node.op not in _RIDES:
            return node if _multiplies_computed(graph, node) and node.inputs[0] == name else None


def _multiplies_computed(graph: OnnxGraph, node: Node) -> bool:
    return node.op == "MatMul" and not any(name in graph.constants for name in node.inputs)


def _is_one_call(graph: OnnxGraph, makers: Mapping[str, Node], scores: Node) -> bool:
    called = called_operator(scores)
    if called:
        return _CALL in called
    return all(_is_scaled(graph, makers.get(name)) for name in scores.inputs)


def _is_scaled(graph: OnnxGraph, node: Node | None) -> bool:
    """A tensor times a stored number."""
    if node is None or node.op != "Mul":
        return False
    stored = [name for name in node.inputs if name in graph.constants]
    return len(stored) == 1 and graph.elements(stored[0], node) == 1


__all__ = ["Part", "find_attention"]
