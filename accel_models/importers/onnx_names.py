"""Names of layers: those of the network that was exported, as far as the file still tells them.

A convolution or matrix product is called after its module, or its stored weights (`layer1.0.conv1.weight`), or what
called it, or its bias: the first that is known. Exporters of torch write the modules into the metadata (torch.export)
or the node's name (TorchScript: `/layer1/layer1.0/conv1/Conv`); they rename weights that they transpose, let equal
biases share one tensor and put a convolution into the batch normalisation behind it. Vector work is called after its
module, or counted by kind as torch.fx does: add, add_1.
"""

from __future__ import annotations

import ast
import re
from collections import Counter

from accel_models.importers.onnx_graph import Node

_WEIGHT = re.compile(r"(.+)\.(?:weight|bias)(?:_quantized|_q)?$")
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
_CONTAINER = "torch.nn.modules.container."
_PRODUCTS = ("torch.nn.modules.conv.", "torch.nn.modules.linear.")


_OFTEN_FUNCTIONS = ("Add", "Sub", "Mul", "Div", "Pad", "MatMul", "Softmax")
"""Operators that networks call outside of a module of their own, as TorchScript does not tell."""


class Names:
    """Gives every layer a name of its own."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: Counter[str] = Counter()

    def of_weights(self, node: Node, stored: tuple[str, ...]) -> str:
        """Name of a layer with weights; `stored` are the names of its stored tensors, weights first."""
        weights, *others = (_owner(tensor) for tensor in stored)
        candidates = (_leaf_module(node, _PRODUCTS), weights, module_path(node), *others)
        known = [name for name in candidates if name] or [node.name]
        return self._unique(next((name for name in known if name not in self._taken), known[0]))

    def of_kind(self, node: Node, kind: str) -> str:
        """Name of a layer without weights: its module's, if that does nothing else, or the kind and a number."""
        leaf = _leaf_module(node)
        if leaf and leaf not in self._taken:
            return self._unique(leaf)
        number = self._counts[kind]
        self._counts[kind] += 1
        return self._unique(f"{kind}_{number}" if number else kind)

    def _unique(self, name: str) -> str:
        unique, number = name, 1
        while unique in self._taken:
            unique, number = f"{name}#{number}", number + 1
        self._taken.add(unique)
        return unique


def module_path(node: Node) -> str:
    """Path of the module in which a node was called, empty if not written down."""
    scopes = _listed(node, _SCOPES)
    if scopes:
        return scopes[-2] if len(scopes) > 1 else ""
    if not node.name.startswith("/"):
        return ""
    path: list[str] = []
    for part in node.name.split("/")[1:-1]:  # TorchScript repeats the container: layer1/layer1.0
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path)


def called_operator(node: Node) -> str:
    """The operator of torch that a node is, or is a part of, empty if not written down."""
    classes = _listed(node, _CLASSES)
    return classes[-1] if classes else ""


def _leaf_module(node: Node, kinds: tuple[str, ...] = ("torch.nn.",)) -> str:
    """Path of the module of torch.nn to which a node belongs; torch.fx does not look into those either."""
    scopes, classes = _listed(node, _SCOPES), _listed(node, _CLASSES)
    if scopes:
        own = len(scopes) > 1 and len(classes) == len(scopes)
        leaf = own and classes[-2].startswith(kinds) and not classes[-2].startswith(_CONTAINER)
        return scopes[-2] if leaf else ""
    return "" if node.op in _OFTEN_FUNCTIONS else module_path(node)


def _owner(tensor: str) -> str:
    """The module whose parameter a stored tensor is, empty if its name does not tell."""
    match = _WEIGHT.match(tensor)
    return match[1] if match is not None else ""


def _listed(node: Node, key: str) -> list[str]:
    try:
        value = ast.literal_eval(node.metadata.get(key, "[]"))
    except (SyntaxError, ValueError):
        return []
    return [str(item) for item in value] if isinstance(value, list) else []
