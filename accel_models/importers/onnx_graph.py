"""An ONNX file as plain nodes with shapes and small values. The weights are never read: their shapes are enough.

Shapes come from onnx' own inference, node by node, so that shapes which the graph computes (Shape, Gather, Concat ...)
are known where they are needed: a node with known inputs is evaluated by onnx' reference implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accel_models.errors import InvalidInputError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

Shape = tuple[int, ...]
_MAX_VALUE = 4096
"""Elements of the largest tensor whose values are kept: shapes, axes and scalars are far smaller, weights larger."""
_WIDTHS = {
    "FLOAT4E2M1": 4, "FLOAT8E4M3FN": 8, "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8, "FLOAT8E5M2FNUZ": 8,
    "INT2": 2, "UINT2": 2, "INT4": 4, "UINT4": 4, "INT8": 8, "UINT8": 8, "INT16": 16, "UINT16": 16,
}  # fmt: skip
"""Bits of the element types that quantised tensors have."""


@dataclass(frozen=True)
class Node:
    """One operator; absent optional inputs are empty names."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    metadata: Mapping[str, str]

    def input(self, position: int) -> str:
        """Name of an input, empty if absent."""
        return self.inputs[position] if position < len(self.inputs) else ""


@dataclass(frozen=True)
class OnnxGraph:
    """Nodes in order of execution, and what is known of each tensor by name.

    Attributes
    ----------
    shapes
        Tensors whose every dimension is known.
    widths
        Bits of tensors of a narrow type, as quantised ones are.
    constants
        Tensors that no input of the network changes -> name of the stored tensor that they come from.
    values
        The contents of small constants.
    """

    path: Path
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def refuse(self, node: Node, message: str) -> InvalidInputError:
        """The error of a node: file, node and operator stand before the message."""
        return InvalidInputError(f"{self.path}: node {node.name!r} ({node.op}): {message}")

    def shape(self, name: str, node: Node) -> Shape:
        """Shape of a tensor that `node` reads or writes.

        Raises
        ------
        InvalidInputError
            It is not known.
        """
        if name not in self.shapes:
            raise self.refuse(
                node, f"the shape of tensor {name!r} is not known; export the network with fixed input sizes"
            )
        return self.shapes[name]

    def elements(self, name: str, node: Node) -> int:
        return prod(self.shape(name, node))


def read_graph(path: Path, batch: int) -> OnnxGraph:
    """Read the structure of an ONNX file.

    Parameters
    ----------
    batch : at least 1
        Stands for a first dimension of an input that the file leaves open.

    Raises
    ------
    InvalidInputError
        The package onnx is missing; the file cannot be read, is no ONNX, or has an input of open size; an operator is
        unknown to onnx or its shapes contradict each other.
    """
    return _Reader(path, batch).read()


def _import_onnx(path: Path) -> Any:
    try:
        import onnx
        import onnx.inliner
    except ImportError as error:
        raise InvalidInputError(
            f"{path}: reading ONNX files needs the package onnx; run pip install 'cosim[onnx]'"
        ) from error
    return onnx


def _load(onnx: Any, path: Path) -> ModelProto:
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except Exception as error:  # protobuf's DecodeError, which has no types
        raise InvalidInputError(f"{path}: is no ONNX file, or its end is missing; export it again") from error
    if not model.graph.node or not model.opset_import:
        raise InvalidInputError(f"{path}: holds no ONNX graph; export it again")
    return onnx.inliner.inline_local_functions(model) if model.functions else model


class _Reader:
    """Walks the nodes once; keeps the types that onnx' shape inference asks for."""

    def __init__(self, path: Path, batch: int) -> None:
        self.onnx = _import_onnx(path)
        self.batch = batch
        self.graph = OnnxGraph(path)
        self.model = _load(self.onnx, path)
        self.opsets = {opset.domain: opset.version for opset in self.model.opset_import}
        self.types: dict[str, TypeProto] = {}

    def read(self) -> OnnxGraph:
        stored = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for tensor in stored.values():
            self._add_constant(tensor)
        for item in self.model.graph.input:
            if item.name not in stored:
                self._set_type(item.name, self._input_type(item))
        for number, proto in enumerate(self.model.graph.node):
            self._add_node(proto, number)
        return self.graph

    def _add_constant(self, tensor: TensorProto) -> None:
        self._set_type(tensor.name, self.onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims))
        self.graph.constants[tensor.name] = tensor.name
        if prod(tensor.dims) > _MAX_VALUE:
            return
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            if tensor.data_type != self.onnx.TensorProto.INT64:
                return  # a weight; shapes and axes are of this type
            self._load_external(tensor)
        try:
            self.graph.values[tensor.name] = self.onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise InvalidInputError(
                f"{self.graph.path}: tensor {tensor.name!r} does not hold what its shape {list(tensor.dims)} says: "
                f"{_one_line(error)}; export the network again"
            ) from error

    def _load_external(self, tensor: TensorProto) -> None:
        from onnx.external_data_helper import load_external_data_for_tensor

        path = self.graph.path
        try:
            load_external_data_for_tensor(tensor, str(path.parent))
        except (OSError, ValueError, self.onnx.checker.ValidationError) as error:
            place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            raise InvalidInputError(
                f"{path}: tensor {tensor.name!r} lies in {place!r}, which is missing or cut off; put that file beside"
            ) from error
        tensor.data_location = self.onnx.TensorProto.DEFAULT

    def _input_type(self, item: ValueInfoProto) -> TypeProto:
        """The type of an input, its open first dimension set to the batch."""
        kind, where = item.type.tensor_type, f"{self.graph.path}: input {item.name!r}"
        if not item.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise InvalidInputError(f"{where}: has no shape; export the network with fixed input sizes")
        for axis, dim in enumerate(kind.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            if axis:
                raise InvalidInputError(
                    f"{where}: dimension {axis} ({dim.dim_param or 'unnamed'}) is open; export it with a fixed size"
                )
            dim.dim_value = self.batch
        return item.type

    def _set_type(self, name: str, kind: TypeProto) -> None:
        tensor = kind.tensor_type
        self.types[name] = kind
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            self.graph.shapes[name] = tuple(dim.dim_value for dim in tensor.shape.dim)
        width = _WIDTHS.get(self.onnx.TensorProto.DataType.Name(tensor.elem_type))
        if width is not None:
            self.graph.widths[name] = width

    def _add_node(self, proto: NodeProto, number: int) -> None:
        node = Node(
            name=_clean(proto.name) or f"{proto.op_type}_{number}",
            op=f"{proto.domain}.{proto.op_type}" if proto.domain not in ("", "ai.onnx") else proto.op_type,
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
            attributes={item.name: self.onnx.helper.get_attribute_value(item) for item in proto.attribute},
            metadata={item.key: _clean(item.value) for item in proto.metadata_props},
        )
        self.graph.nodes.append(node)
        if any(item.HasField("g") or item.graphs for item in proto.attribute):
            return  # If, Loop, Scan: what lies inside reads more than the inputs
        self._infer(node, proto)
        given = [name for name in node.inputs if name]
        if all(name in self.graph.constants for name in given):
            origin = self.graph.constants[given[0]] if given else node.outputs[0]
            self.graph.constants.update(dict.fromkeys(node.outputs, origin))
        self._evaluate(node, proto)

    def _infer(self, node: Node, proto: NodeProto) -> None:
        """Types of the outputs; nothing where an input's is not known."""
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        opset = self.opsets.get(domain)
        try:
            schema = self.onnx.defs.get_schema(proto.op_type, opset or 1, domain)
        except (self.onnx.defs.SchemaError, TypeError) as error:  # TypeError: a version out of range
            raise self.graph.refuse(node, f"opset {opset} of ONNX has no such operator") from error
        given = [name for name in node.inputs if name]
        if any(name not in self.types for name in given):
            return
        data = {
            name: self.onnx.numpy_helper.from_array(self.graph.values[name], name)
            for name in given
            if name in self.graph.values
        }
        opsets = [self.onnx.helper.make_opsetid(*item) for item in self.opsets.items()]
        try:
            found = self.onnx.shape_inference.infer_node_outputs(
                schema, proto, {name: self.types[name] for name in given}, data, opset_imports=opsets
            )
        except (self.onnx.shape_inference.InferenceError, self.onnx.checker.ValidationError, ValueError) as error:
            raise self.graph.refuse(node, f"its shapes contradict each other: {_one_line(error)}") from error
        for name, kind in found.items():
            if name and kind.HasField("tensor_type"):
                self._set_type(name, kind)

    def _evaluate(self, node: Node, proto: NodeProto) -> None:
        """The value of a small output that is known now: of Shape, and of anything that only reads known values."""
        shapes, values = self.graph.shapes, self.graph.values
        if node.op in ("Shape", "Size") and node.inputs[0] in shapes:
            shape = shapes[node.inputs[0]]
            start, end = node.attributes.get("start", 0), node.attributes.get("end")
            value = np.array(shape[start:end] if node.op == "Shape" else prod(shape), dtype=np.int64)
        else:
            known = all(name in values for name in node.inputs if name)
            small = all(prod(shapes.get(name, (_MAX_VALUE + 1,))) <= _MAX_VALUE for name in node.outputs)
            if not (known and small) or len(node.outputs) != 1 or proto.op_type.startswith("Random"):
                return
            value = self._run(node, proto)
        values[node.outputs[0]] = value
        self.graph.constants.setdefault(node.outputs[0], node.outputs[0])
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        self._set_type(node.outputs[0], self.onnx.helper.make_tensor_type_proto(kind, value.shape))

    def _run(self, node: Node, proto: NodeProto) -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        helper, given = self.onnx.helper, sorted({name for name in node.inputs if name})
        inputs = [self.onnx.ValueInfoProto(name=name, type=self.types[name]) for name in given]
        outputs = [self.onnx.ValueInfoProto(name=name, type=self.types[name]) for name in node.outputs]
        opsets = [helper.make_opsetid(*item) for item in self.opsets.items()]
        model = helper.make_model(helper.make_graph([proto], "one", inputs, outputs), opset_imports=opsets)
        try:
            (value,) = ReferenceEvaluator(model).run(None, {name: self.graph.values[name] for name in given})
        except Exception as error:  # the reference implementation raises many kinds
            raise self.graph.refuse(node, f"its constant inputs cannot be evaluated: {_one_line(error)}") from error
        return np.asarray(value)


def _clean(text: str | bytes) -> str:
    """protobuf gives bytes where a text is no UTF-8."""
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
