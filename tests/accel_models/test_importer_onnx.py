"""ONNX operators as layers: shapes, names, edges and widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel_models.errors import InvalidInputError
from accel_models.importers.onnx import read_onnx
from accel_models.layers import Bits, Conv2d, Gemm, VectorOp
from tests.accel_models.onnx_files import FLOAT, INT8, UINT8, Dims, helper, ints, node, only, onnx, read, zeros


def test_a_convolution_is_read_height_first_with_all_its_attributes(tmp_path: Path):
    conv = node("Conv", "x a.b.weight", "y", strides=[2, 1], pads=[1, 0, 1, 0], dilations=[1, 2], group=2)
    workload = read(tmp_path, [conv], {"x": (3, 4, 12, 9)}, [zeros("a.b.weight", 8, 2, 3, 4)])
    assert workload.name == "net"
    assert only(workload) == Conv2d(
        name="a.b", n=3, k=8, c=4, p=6, q=3, r=3, s=4, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2,
        input_size=(12, 9),
    )  # fmt: skip


def test_a_one_dimensional_convolution_has_height_one(tmp_path: Path):
    conv = node("Conv", "x w.weight", "y", strides=[2], pads=[1, 1], group=4)
    layer = only(read(tmp_path, [conv], {"x": (1, 4, 10)}, [zeros("w.weight", 8, 1, 3)]))
    assert layer == Conv2d(
        name="w", k=8, c=4, p=1, q=5, r=1, s=3, stride=(1, 2), padding=(0, 1), groups=4, input_size=(1, 10)
    )


@pytest.mark.parametrize(
    ("attributes", "size", "padding", "outputs"),
    [
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 8, 1, 4),  # nothing before, one behind
        ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, 8, 1, 4),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 9, 1, 5),
        ({"auto_pad": "VALID"}, 8, 0, 6),
        ({"pads": [0, 0, 4, 4]}, 8, 4, 10),
        ({"pads": [4, 4, 0, 0]}, 8, 4, 10),
        ({"pads": [0, 0, 1, 1], "strides": [2, 2]}, 9, 0, 4),  # no output reaches the padding
    ],
)
def test_unequal_paddings_touch_as_many_inputs_as_they_do(
    attributes: dict[str, Any], size: int, padding: int, outputs: int, tmp_path: Path
):
    conv = node("Conv", "x w.weight", "y", **attributes)
    layer = only(read(tmp_path, [conv], {"x": (1, 1, size, size)}, [zeros("w.weight", 1, 1, 3, 3)]))
    assert isinstance(layer, Conv2d)
    assert (layer.p, layer.padding) == (outputs, (padding, padding))
    stride = attributes.get("strides", [1])[0]
    total = max(0, (outputs - 1) * stride + 3 - size)
    before = {"SAME_UPPER": total // 2, "SAME_LOWER": -(-total // 2)}.get(attributes.get("auto_pad", ""), 0)
    before = attributes.get("pads", [before])[0]
    seen = {o * stride + t - before for o in range(outputs) for t in range(3)}
    assert layer.footprint().rows == len(seen & set(range(size)))


@pytest.mark.parametrize(("a", "b", "flags"), [((5, 7), (7, 3), {}), ((7, 5), (3, 7), {"transA": 1, "transB": 1})])
def test_a_gemm_is_m_by_n_over_k_whatever_is_transposed(
    a: Dims, b: tuple[int, int], flags: dict[str, int], tmp_path: Path
):
    gemm = node("Gemm", "x fc.weight fc.bias", "y", **flags)
    layer = only(read(tmp_path, [gemm], {"x": a}, [zeros("fc.weight", *b), zeros("fc.bias", 3)]))
    assert layer == Gemm(name="fc", m=5, n=3, k=7)


def test_stored_weights_on_the_left_change_places(tmp_path: Path):
    layer = only(read(tmp_path, [node("MatMul", "w.weight x", "y")], {"x": (4, 7, 3)}, [zeros("w.weight", 5, 7)]))
    assert layer == Gemm(name="w", m=12, n=5, k=7)
    layer = only(read(tmp_path, [node("Gemm", "w.weight x", "y", transA=1)], {"x": (7, 3)}, [zeros("w.weight", 7, 5)]))
    assert layer == Gemm(name="w", m=3, n=5, k=7)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((2, 6, 7), (7, 3), (12, 3, 7, 1)),
        ((2, 4, 6, 7), (2, 4, 7, 3), (6, 3, 7, 8)),
        ((2, 4, 6, 7), (2, 1, 7, 3), (24, 3, 7, 2)),  # heads that share their keys
        ((1, 4, 6, 7), (2, 4, 7, 3), (6, 3, 7, 8)),
        ((7,), (7, 3), (1, 3, 7, 1)),
        ((5, 7), (7,), (5, 1, 7, 1)),
    ],
)
@pytest.mark.parametrize("source", ["parameter", "activation"])
def test_a_matrix_product_makes_every_multiplication_once(
    a: tuple[int, ...], b: tuple[int, ...], expected: tuple[int, ...], source: str, tmp_path: Path
):
    inputs, stored = {"x": a}, []
    if source == "parameter":
        stored.append(zeros("w", *b))
    else:
        inputs["w"] = b
    layer = only(read(tmp_path, [node("MatMul", "x w", "y")], inputs, stored))
    assert isinstance(layer, Gemm)
    assert ((layer.m, layer.n, layer.k, layer.groups), layer.b_source) == (expected, source)
    assert layer.macs == np.matmul(np.zeros(a), np.zeros(b)).size * a[-1]


def test_attention_is_two_products_of_activations_around_a_softmax(tmp_path: Path):
    nodes = [node("Attention", "q k v", "y", q_num_heads=6, kv_num_heads=2), node("Relu", "y", "z")]
    workload = read(tmp_path, nodes, {"q": (2, 5, 24), "k": (2, 7, 8), "v": (2, 7, 6)}, opset=23)
    base = "scaled_dot_product_attention"
    assert workload.layers == (
        Gemm(name=f"{base}.scores", m=15, n=7, k=4, groups=4, b_source="activation"),
        VectorOp(name=f"{base}.softmax", kind="softmax", input_elements=420, output_elements=420, operations=420),
        Gemm(name=f"{base}.context", m=15, n=3, k=7, groups=4, b_source="activation"),
    )
    assert workload.macs == 2 * 6 * 5 * 7 * (4 + 3)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "expected"),
    [
        ("MaxPool", "x", {"kernel_shape": [2, 2], "strides": [2, 2]}, ("max_pool2d", "pool", 512, 128, 512)),
        ("AveragePool", "x", {"kernel_shape": [2, 2], "strides": [2, 2]}, ("avg_pool2d", "pool", 512, 128, 512)),
        ("GlobalAveragePool", "x", {}, ("adaptive_avg_pool2d", "pool", 512, 8, 512)),
        ("ReduceMean", "x axes", {}, ("mean", "pool", 512, 8, 512)),
        ("Softmax", "x", {}, ("softmax", "softmax", 512, 512, 512)),
        ("LayerNormalization", "x scale", {}, ("layer_norm", "normalization", 512, 512, 512)),
        ("Add", "x z", {}, ("add", "elementwise", 1024, 512, 512)),
        ("Sub", "x z", {}, ("sub", "elementwise", 1024, 512, 512)),
        ("Mul", "x gate", {}, ("mul", "elementwise", 520, 512, 512)),
        ("Div", "x z", {}, ("truediv", "elementwise", 1024, 512, 512)),
        ("Pad", "x pads", {}, ("pad", "pad", 512, 800, 800)),
        ("Resize", "x - scales", {}, ("interpolate", "resize", 512, 2048, 2048)),
    ],
)
def test_work_without_weights_is_its_traffic(
    op: str, inputs: str, attributes: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path
):
    scales = helper.make_tensor("scales", FLOAT, (4,), [1, 1, 2, 2])
    stored = [ints("axes", 2, 3), ints("pads", 0, 0, 1, 1, 0, 0, 1, 1), zeros("scale", 8), scales]
    shapes = {"x": (1, 8, 8, 8), "z": (1, 8, 8, 8), "gate": (1, 8, 1, 1)}
    layer = only(read(tmp_path, [node(op, inputs, "y", **attributes)], shapes, stored))
    assert isinstance(layer, VectorOp)
    found = (layer.name, layer.kind, layer.input_elements, layer.output_elements, layer.operations)
    assert found == expected


FREE = [
    ("Relu", "c", {}), ("Clip", "c", {}), ("Sigmoid", "c", {}), ("Gelu", "c", {}), ("HardSwish", "c", {}),
    ("BatchNormalization", "c four four four four", {}), ("Identity", "c", {}), ("Dropout", "c", {}),
    ("Cast", "c", {"to": 10}), ("Reshape", "c flat", {}), ("Flatten", "c", {}),
    ("Transpose", "c", {"perm": [0, 2, 3, 1]}), ("Concat", "c x", {"axis": 1}),
    ("Slice", "c one two one", {}), ("Gather", "c one", {"axis": 1}), ("Unsqueeze", "c one", {}), ("Mul", "c half", {}),
    ("Add", "half c", {}), ("Pad", "c nothing", {}), ("Expand", "c shape", {}), ("Pow", "c half", {}),
    ("PRelu", "c slope", {}), ("Trilu", "c", {}), ("DepthToSpace", "c", {"blocksize": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "attributes"), FREE, ids=[op for op, _, _ in FREE])
def test_what_is_free_rides_on_its_producer(op: str, inputs: str, attributes: dict[str, Any], tmp_path: Path):
    stored = [
        zeros("first.weight", 4, 4, 1, 1), zeros("four", 4), zeros("slope", 4, 1, 1), zeros("half"),
        ints("flat", 1, -1), ints("one", 1), ints("two", 2), ints("shape", 2, 4, 6, 6),
        ints("nothing", *(0,) * 8), ints("axes", -1),
    ]  # fmt: skip
    nodes = [
        node("Conv", "x first.weight", "c"),
        node(op, inputs, "f", **attributes),
        node("ReduceMax", "f axes", "last"),
    ]
    workload = read(tmp_path, nodes, {"x": (1, 4, 6, 6)}, stored)
    assert [layer.name for layer in workload.layers] == ["first", "amax"]
    assert workload.edges == (("first", "amax"),)


def activation(name: str) -> list[Any]:
    """x -> y as older exporters write it."""
    chains = {
        "silu": [node("Sigmoid", "x", "s"), node("Mul", "x s", "y")],
        "gelu": [
            node("Div", "x a", "d"), node("Erf", "d", "e"), node("Add", "e b", "f"), node("Mul", "x f", "g"),
            node("Mul", "g a", "y"),
        ],
        "hardswish": [
            node("Add", "x a", "d"), node("Clip", "d", "e"), node("Div", "e b", "f"), node("Mul", "x f", "y"),
        ],
        "mish": [node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t", "y")],
    }  # fmt: skip
    return chains[name]


@pytest.mark.parametrize("name", ["silu", "gelu", "hardswish", "mish"])
def test_a_function_of_one_tensor_is_free_however_it_is_written(name: str, tmp_path: Path):
    nodes = [*activation(name), node("MatMul", "y fc.weight", "z")]
    workload = read(tmp_path, nodes, {"x": (3, 4)}, [zeros("a"), zeros("b"), zeros("fc.weight", 4, 2)])
    assert [layer.name for layer in workload.layers] == ["fc"]


def test_a_gate_that_another_layer_makes_is_work(tmp_path: Path):
    nodes = [node("MatMul", "x fc.weight", "g"), node("Sigmoid", "g", "s"), node("Mul", "x s", "y")]
    workload = read(tmp_path, nodes, {"x": (3, 4)}, [zeros("fc.weight", 4, 4)])
    assert [layer.name for layer in workload.layers] == ["fc", "mul"]
    assert workload.edges == (("fc", "mul"),)


def test_a_bias_and_a_stored_mask_are_free_a_position_embedding_is_not(tmp_path: Path):
    nodes = [
        node("Add", "x positions", "p"),
        node("MatMul", "p val_1", "m"),
        node("Add", "block.fc.bias m", "b"),
        node("Transpose", "b", "t", perm=[0, 2, 1]),
        node("MatMul", "b t", "s"),
        node("Add", "s mask", "masked"),
        node("Softmax", "masked", "y"),
    ]
    stored = [zeros("positions", 1, 5, 4), zeros("val_1", 4, 4), zeros("block.fc.bias", 4), zeros("mask", 5, 5)]
    workload = read(tmp_path, nodes, {"x": (2, 5, 4)}, stored)
    assert [layer.name for layer in workload.layers] == ["add", "block.fc", "matmul", "softmax"]
    assert workload.layers[0] == VectorOp(
        name="add", kind="elementwise", input_elements=60, output_elements=40, operations=40
    )
    assert workload.edges == (("add", "block.fc"), ("block.fc", "matmul"), ("matmul", "softmax"))


def scaled_attention(*scaled: str) -> list[Any]:
    """Queries, keys and values of x; `scaled` are the factors of the scores that are multiplied by a number."""
    nodes = [node("MatMul", f"x {name}.weight", name) for name in "qkv"]
    nodes += [node("Transpose", "k", "kt", perm=[0, 2, 1])]
    nodes += [node("Mul", f"{name} half", f"{name}.scaled") for name in scaled]
    left, right = (f"{name}.scaled" if name in scaled else name for name in ("q", "kt"))
    nodes += [node("MatMul", f"{left} {right}", "s"), node("Add", "s mask", "masked"), node("Softmax", "masked", "p")]
    return [*nodes, node("MatMul", "p v", "y")]


@pytest.mark.parametrize(
    ("scaled", "names"),
    [
        (("q", "kt"), [f"scaled_dot_product_attention.{part}" for part in ("scores", "softmax", "context")]),
        (("q",), ["matmul", "softmax", "matmul_1"]),
        ((), ["matmul", "softmax", "matmul_1"]),
    ],
)
def test_attention_that_torchscript_wrote_in_parts_is_one_call(
    scaled: tuple[str, ...], names: list[str], tmp_path: Path
):
    stored = [*(zeros(f"{name}.weight", 4, 4) for name in "qkv"), zeros("half"), zeros("mask", 5, 5)]
    workload = read(tmp_path, scaled_attention(*scaled), {"x": (2, 5, 4)}, stored)
    assert [layer.name for layer in workload.layers] == ["q", "k", "v", *names]
    scores, softmax, context = names
    assert set(workload.edges) == {
        ("q", scores), ("k", scores), (scores, softmax), (softmax, context), ("v", context),
    }  # fmt: skip


def test_rows_of_a_stored_table_by_computed_numbers_are_an_embedding(tmp_path: Path):
    tokens = onnx.TensorProto.INT64
    nodes = [
        node("Cast", "x", "tokens", to=tokens), node("Gather", "wte.weight tokens", "rows"),
        node("Gather", "rows first", "row", axis=1), node("Gather", "wte.weight first", "fixed"),
        node("MatMul", "row fc.weight", "y"),
    ]  # fmt: skip
    stored = [zeros("wte.weight", 50, 8), ints("first", 0), zeros("fc.weight", 8, 3)]
    workload = read(tmp_path, nodes, {"x": (2, 6)}, stored)
    assert workload.layers[0] == VectorOp(
        name="embedding", kind="embedding", input_elements=96, output_elements=96, operations=96
    )
    assert [layer.name for layer in workload.layers] == ["embedding", "fc"]
    assert workload.edges == (("embedding", "fc"),)


def test_shapes_that_the_graph_computes_are_known(tmp_path: Path):
    """x.view(x.size(0), -1, 4) as TorchScript writes it, with a batch that the file leaves open."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "rows"),
        node("Unsqueeze", "rows axis", "first"),
        node("Concat", "first rest", "target", axis=0),
        node("Reshape", "x target", "flat"),
        node("MatMul", "flat fc.weight", "y"),
    ]
    stored = [
        helper.make_tensor("zero", onnx.TensorProto.INT64, (), [0]), ints("axis", 0), ints("rest", -1, 4),
        zeros("fc.weight", 4, 6),
    ]  # fmt: skip
    assert only(read(tmp_path, nodes, {"x": ("batch", 8, 3)}, stored)) == Gemm(name="fc", m=6, n=6, k=4)
    assert only(read(tmp_path, nodes, {"x": (None, 8, 3)}, stored, batch=5)) == Gemm(name="fc", m=30, n=6, k=4)


def test_a_batch_leaves_a_fixed_first_dimension_as_it_is(tmp_path: Path):
    layer = only(
        read(tmp_path, [node("MatMul", "x fc.weight", "y")], {"x": (2, 4)}, [zeros("fc.weight", 4, 6)], batch=5)
    )
    assert layer == Gemm(name="fc", m=2, n=6, k=4)
    with pytest.raises(InvalidInputError, match="batch = 0"):
        read_onnx(tmp_path / "net.onnx", batch=0)


def test_edges_follow_tensors_through_joins_and_cuts(tmp_path: Path):
    nodes = [
        node("Conv", "x a.weight", "a"), node("Conv", "x b.weight", "b"), node("Concat", "a b", "ab", axis=1),
        node("Split", "ab", "left right", axis=1, num_outputs=2), node("Conv", "left c.weight", "c"),
        node("Add", "c right", "y"),
    ]  # fmt: skip
    workload = read(tmp_path, nodes, {"x": (1, 4, 5, 5)}, [zeros(f"{name}.weight", 4, 4, 1, 1) for name in "abc"])
    assert workload.edges == (("a", "c"), ("b", "c"), ("c", "add"), ("a", "add"), ("b", "add"))


def test_names_of_torchscript_come_from_the_modules(tmp_path: Path):
    conv = helper.make_node("Conv", ["x", "onnx::Conv_7"], ["y"], name="/layers/layers.0/block/block.1/conv/Conv")
    pool = helper.make_node("MaxPool", ["y"], ["z"], name="/layers/layers.0/pool/MaxPool", kernel_shape=[2, 2])
    workload = read(tmp_path, [conv, pool], {"x": (1, 4, 5, 5)}, [zeros("onnx::Conv_7", 4, 4, 1, 1)])
    assert [layer.name for layer in workload.layers] == ["layers.0.block.1.conv", "layers.0.pool"]


def test_a_module_that_is_called_twice_gives_two_layers(tmp_path: Path):
    nodes = [node("MatMul", "x fc.weight", "y"), node("MatMul", "y fc.weight", "z"), node("MatMul", "z other", "w")]
    workload = read(tmp_path, nodes, {"x": (3, 4)}, [zeros("fc.weight", 4, 4), zeros("other", 4, 4)])
    assert [layer.name for layer in workload.layers] == ["fc", "fc#1", "n_w"]


def test_quantised_operators_tell_the_widths(tmp_path: Path):
    scale, zero = zeros("s"), zeros("z", kind=UINT8)
    nodes = [
        node("QLinearConv", "x s z conv.weight_quantized s zw s z", "c"),
        node("ConvInteger", "c int.weight", "i"),
    ]
    stored = [
        scale, zero, zeros("zw", kind=INT8), zeros("conv.weight_quantized", 4, 4, 1, 1, kind=INT8),
        zeros("int.weight", 4, 4, 1, 1, kind=UINT8),
    ]  # fmt: skip
    first, second = read(tmp_path, nodes, {"x": (1, 4, 5, 5)}, stored, x=UINT8).layers
    assert (first.name, first.bits) == ("conv", Bits(weight=8, input=8, output=8))
    assert (second.name, second.bits) == ("int", Bits(weight=8, input=8, output=32))
    product = node("QLinearMatMul", "x s z fc.weight s zw s z", "c")
    stored[3:] = [zeros("fc.weight", 4, 6, kind=INT8)]
    assert only(read(tmp_path, [product], {"x": (3, 4)}, stored, x=UINT8)) == Gemm(name="fc", m=3, n=6, k=4)


def test_widths_pass_from_quantisation_to_the_layers_on_both_sides(tmp_path: Path):
    int4, int16 = onnx.TensorProto.INT4, onnx.TensorProto.INT16
    nodes = [
        node("QuantizeLinear", "x s z16", "xq"), node("DequantizeLinear", "xq s z16", "xd"),
        node("DequantizeLinear", "a.weight_quantized s z4", "w"), node("Relu", "xd", "xr"), node("Conv", "xr w", "c"),
        node("Relu", "c", "r"), node("QuantizeLinear", "r s z16", "cq"), node("DequantizeLinear", "cq s z16", "cd"),
        node("MaxPool", "cd", "y", kernel_shape=[2, 2]),
    ]  # fmt: skip
    stored = [
        zeros("s"), zeros("z16", kind=int16), zeros("z4", kind=int4),
        helper.make_tensor("a.weight_quantized", int4, (4, 4, 1, 1), [0] * 16),
    ]  # fmt: skip
    conv, pool = read(tmp_path, nodes, {"x": (1, 4, 5, 5)}, stored, opset=21).layers
    assert (conv.name, conv.bits) == ("a", Bits(weight=4, input=16, output=16))
    assert pool.bits == Bits(input=16, output=16)


def test_functions_of_the_file_are_opened(tmp_path: Path):
    inner = [node("MatMul", "a b", "m"), node("Relu", "m", "r")]
    function = helper.make_function("own", "Block", ["a", "b"], ["r"], inner, [helper.make_opsetid("", 20)])
    call = helper.make_node("Block", ["x", "fc.weight"], ["y"], domain="own", name="call")
    given = [helper.make_tensor_value_info("x", FLOAT, (3, 4))]
    graph = helper.make_graph([call], "g", given, [onnx.ValueInfoProto(name="y")], [zeros("fc.weight", 4, 6)])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, functions=[function], opset_imports=opsets), tmp_path / "net.onnx")
    assert only(read_onnx(tmp_path / "net.onnx")) == Gemm(name="fc", m=3, n=6, k=4)
