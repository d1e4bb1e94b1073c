"""ONNX files that cannot be used are refused in one line by file, node and operator; weights are not read."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel_models.errors import InvalidInputError
from accel_models.importers.onnx import read_onnx
from accel_models.layers import Gemm
from tests.accel_models.onnx_files import FLOAT, Dims, helper, ints, node, only, onnx, save, zeros


def refusal(path: Path) -> str:
    with pytest.raises(InvalidInputError) as caught:
        read_onnx(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "words"),
    [
        ("Einsum", "x x", {"equation": "ij,kj->ik"}, "write it as Transpose, Reshape and MatMul"),
        ("ConvTranspose", "i w", {}, "write it as Resize and Conv"),
        ("Conv", "i i", {}, "computed by the network"),
        ("Conv", "v w3", {}, "3 axes"),
        ("LSTM", "x3 w3d r3d", {"hidden_size": 4}, "has no cost model"),
        ("TopK", "x one", {}, "has no cost model"),
        ("Nonsense", "x", {}, "opset 20 of ONNX has no such operator"),
        ("MatMul", "x w", {}, "shapes contradict each other"),
        ("Conv", "i w", {"pads": [-1, -1, 0, 0]}, "must not contain negative values"),
    ],
)
def test_an_operator_without_a_cost_model_is_refused_with_its_node(
    op: str, inputs: str, attributes: dict[str, Any], words: str, tmp_path: Path
):
    shapes: dict[str, Dims] = {"x": (3, 4), "i": (1, 4, 4, 4), "v": (1, 4, 4, 4, 4), "x3": (2, 1, 4)}
    stored = [
        zeros("w", 4, 4, 1, 1), zeros("w3", 4, 4, 1, 1, 1), ints("one", 1), zeros("w3d", 1, 16, 4),
        zeros("r3d", 1, 16, 4),
    ]  # fmt: skip
    message = refusal(save(tmp_path, [node(op, inputs, "y z" if op == "TopK" else "y", **attributes)], shapes, stored))
    assert message.startswith(f"node 'n_y' ({op}): ")
    assert words in message


def test_a_branch_is_refused_even_where_its_condition_is_stored(tmp_path: Path):
    """It reads x from around it: to take its inputs for all that it depends on would lose the layers inside."""
    ends = [onnx.ValueInfoProto(name="b")]
    branch = helper.make_graph([node("MatMul", "x fc.weight", "b")], "branch", [], ends)
    condition = helper.make_tensor("yes", onnx.TensorProto.BOOL, (), [True])
    choice = node("If", "yes", "y", then_branch=branch, else_branch=branch)
    message = refusal(save(tmp_path, [choice], {"x": (3, 4)}, [condition, zeros("fc.weight", 4, 6)]))
    assert message == "node 'n_y' (If): operator If has no cost model; export the branch that is taken"


def test_operators_of_other_makers_are_refused_by_domain(tmp_path: Path):
    call = helper.make_node("FusedConv", ["x"], ["y"], name="fused", domain="com.microsoft")
    message = refusal(save(tmp_path, [call], {"x": (1, 4)}))
    assert message.startswith("node 'fused' (com.microsoft.FusedConv): ")


def test_open_sizes_are_refused_by_input_and_dimension(tmp_path: Path):
    nodes, stored = [node("MatMul", "x fc.weight", "y")], [zeros("fc.weight", 4, 6)]
    message = refusal(save(tmp_path, nodes, {"x": (1, "tokens", 4)}, stored))
    assert message.startswith("input 'x': dimension 1 (tokens) is open")
    path = save(tmp_path, nodes, {"x": (1, 4)}, stored)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    assert refusal(path).startswith("input 'x': has no shape")


def test_a_shape_that_depends_on_values_is_refused_where_it_is_needed(tmp_path: Path):
    nodes = [node("NonZero", "x", "places"), node("Cast", "places", "f", to=FLOAT), node("MatMul", "f fc.weight", "y")]
    message = refusal(save(tmp_path, nodes[1:], {"places": (2, 4)}, [zeros("fc.weight", 5, 6)]))
    assert "contradict" in message
    nodes[0] = node("Reshape", "x target", "places")
    message = refusal(save(tmp_path, nodes, {"x": (2, 4), "target": (2,)}, [zeros("fc.weight", 4, 6)], target=7))
    assert message.startswith("node 'n_y' (MatMul): the shape of tensor 'f' is not known")


def external(folder: Path, tensor: Any, data: bytes | None) -> None:
    """Move a stored tensor to the file side.bin, or only say so."""
    tensor.ClearField("int64_data")
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.external_data.add(key="location", value="side.bin")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    if data is not None:
        (folder / "side.bin").write_bytes(data)


def test_weights_in_a_file_beside_are_not_needed_but_shapes_are(tmp_path: Path):
    nodes = [node("Reshape", "x target", "r"), node("MatMul", "r fc.weight", "y")]
    weight, target = zeros("fc.weight", 4, 6), ints("target", 3, 4)
    external(tmp_path, weight, None)
    path = save(tmp_path, nodes, {"x": (12,)}, [weight, target])
    assert only(read_onnx(path)) == Gemm(name="fc", m=3, n=6, k=4)
    external(tmp_path, target, None)
    path = save(tmp_path, nodes, {"x": (12,)}, [weight, target])
    message = refusal(path)
    assert message.startswith("tensor 'target' lies in 'side.bin', which is missing")
    external(tmp_path, target, np.array([3, 4], dtype=np.int64).tobytes())
    assert only(read_onnx(path)) == Gemm(name="fc", m=3, n=6, k=4)


def test_files_that_are_absent_broken_or_empty_are_refused(tmp_path: Path):
    assert refusal(tmp_path / "absent.onnx").startswith("cannot be read (No such file")
    path = save(tmp_path, [node("Relu", "x", "y")], {"x": (3, 4)})
    assert refusal(path).startswith("no operator of the graph costs anything")
    path.write_bytes(path.read_bytes()[:-5])
    assert refusal(path).startswith("is no ONNX file, or its end is missing")
    path.write_bytes(b"")
    assert refusal(path).startswith("holds no ONNX graph")
    path.write_text("Layer, M, N, K,\n")
    assert refusal(path).startswith("is no ONNX file")


def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path):
    """Bytes changed at random: shapes, names, types, versions that cannot be."""
    nodes = [
        node("Conv", "x a.weight", "c", pads=[1, 1, 1, 1]),
        node("Reshape", "c target", "r"),
        node("MatMul", "r b.weight", "m"),
        node("Softmax", "m", "y"),
    ]
    stored = [zeros("a.weight", 4, 2, 3, 3), ints("target", 1, -1, 4), zeros("b.weight", 4, 3)]
    path = save(tmp_path, nodes, {"x": (1, 2, 4, 4)}, stored)
    whole, random = path.read_bytes(), np.random.default_rng(7)
    messages: list[str] = []
    for _ in range(300):
        data = bytearray(whole)
        for place in random.integers(len(data), size=3):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            read_onnx(path)
        except InvalidInputError as error:
            messages.append(str(error))
    assert 50 < len(messages) < 300
    assert all(str(path) in message and "\n" not in message for message in messages)


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path, [node("Relu", "x", "y")], {"x": (3, 4)})
    given = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnx":
            raise ImportError(name)
        return given(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'cosim[onnx]'" in refusal(path)
