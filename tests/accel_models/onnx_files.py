"""ONNX files for tests: a few nodes, with inputs and stored tensors of given shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

from accel_models.importers.onnx import read_onnx  # noqa: E402
from accel_models.layers import Layer  # noqa: E402
from accel_models.workload import Workload  # noqa: E402

helper, FLOAT, INT8, UINT8 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8
Dims = tuple[int | str | None, ...]


def zeros(name: str, *dims: int, kind: int = FLOAT) -> Any:
    return helper.make_tensor(name, kind, dims, np.zeros(dims).flatten())


def ints(name: str, *values: int) -> Any:
    return helper.make_tensor(name, onnx.TensorProto.INT64, (len(values),), values)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """A node called n_<first output>; names of tensors are separated by spaces, - is absent."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=f"n_{outputs.split()[0]}", **attributes)


def save(
    folder: Path,
    nodes: list[Any],
    inputs: dict[str, Dims],
    stored: list[Any] | None = None,
    opset: int = 20,
    **kinds: int,
) -> Path:
    """A file whose outputs are those of the last node; `kinds` are element types of inputs."""
    given = [helper.make_tensor_value_info(name, kinds.get(name, FLOAT), dims) for name, dims in inputs.items()]
    ends = [onnx.ValueInfoProto(name=name) for name in nodes[-1].output]
    graph = helper.make_graph(nodes, "graph", given, ends, stored or [])
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


def read(*args: Any, batch: int = 1, **kwargs: Any) -> Workload:
    return read_onnx(save(*args, **kwargs), batch=batch)


def only(workload: Workload) -> Layer:
    (layer,) = workload.layers
    return layer
