"""Workload: the graph of layers and its JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accel_models.errors import InvalidInputError
from accel_models.layers import Bits, Conv2d, Gemm, VectorOp
from accel_models.workload import Workload, load_workload

WORKLOAD = Workload(
    name="net",
    layers=(
        Conv2d(
            name="conv", n=2, k=8, c=4, p=5, q=7, r=3, s=1, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2,
            input_size=(10, 7), bits=Bits(weight=4, input=8, output=16),
        ),
        Conv2d(name="free", k=8, c=8, p=5, q=7, r=1, s=1),
        VectorOp(name="add", kind="elementwise", input_elements=560, output_elements=280, operations=280),
        Gemm(name="fc", m=2, n=10, k=280, groups=1),
    ),
    edges=(("conv", "free"), ("conv", "add"), ("free", "add"), ("add", "fc")),
)  # fmt: skip


def data() -> dict[str, Any]:
    return json.loads(WORKLOAD.to_json())


def write(folder: Path, content: Any) -> Path:
    path = folder / "net.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_workload_file_gives_the_equal_workload_back(tmp_path: Path):
    assert load_workload(write(tmp_path, WORKLOAD.to_json())) == WORKLOAD


def test_macs_leave_out_work_without_weights():
    assert WORKLOAD.macs == sum(WORKLOAD.layers[i].macs for i in (0, 1, 3))


def test_the_graph_holds_every_layer_and_tensor():
    graph = WORKLOAD.graph
    assert list(graph.nodes) == ["conv", "free", "add", "fc"]
    assert set(graph.edges) == set(WORKLOAD.edges)
    assert graph.nodes["fc"]["layer"] is WORKLOAD.layers[3]


def refused(folder: Path, content: Any) -> str:
    path = write(folder, content)
    with pytest.raises(InvalidInputError) as caught:
        load_workload(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.count(str(path)) == 1
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, ["version", "1"]),
        ({"version": None}, ["version", "1"]),
        ({"name": 5}, ["name"]),
        ({"layers": None}, ["layers"]),
        ({"layers": {}}, ["layers"]),
        ({"layers": []}, ["net", "no layers"]),
        ({"layers": ["conv"]}, ["layers.0", "conv"]),
        ({"layerz": []}, ["layerz", "layers"]),
        ({"edges": None}, ["edges"]),
        ({"edges": [["conv", "fc"], ["conv"]]}, ["edges.1", "conv"]),
        ({"edges": [["conv", 3]]}, ["edges.0"]),
        ({"edges": [["conv", "nope"]]}, ["edge", "nope"]),
        ({"edges": [["conv", "fc"], ["fc", "conv"]]}, ["cycle"]),
    ],
)
def test_a_bad_top_level_field_is_named(change: dict[str, Any], words: list[str], tmp_path: Path):
    message = refused(tmp_path, {**data(), **change})
    assert all(word in message for word in words), message


@pytest.mark.parametrize("key", ["version", "name", "layers"])
def test_a_missing_top_level_field_is_named(key: str, tmp_path: Path):
    content = data()
    del content[key]
    assert refused(tmp_path, content).startswith(key)


@pytest.mark.parametrize(
    ("layer", "change", "words"),
    [
        (0, {"type": "conv3d"}, ["layers.0.type", "conv3d", "conv2d"]),
        (0, {"type": ["conv2d"]}, ["layers.0.type"]),
        (0, {"k": 0}, ["layers.0", "'conv'", "k = 0"]),
        (0, {"k": "8"}, ["layers.0", "'conv'", "k = '8'"]),
        (0, {"k": 8.0}, ["layers.0", "k = 8.0"]),
        (0, {"k": True}, ["layers.0", "k = True"]),
        (0, {"k": None}, ["layers.0", "k = None"]),
        (0, {"stride": 2}, ["layers.0", "stride = 2", "pair"]),
        (0, {"stride": [1, 1, 1]}, ["layers.0", "stride", "pair"]),
        (0, {"stride": [1, "1"]}, ["layers.0", "stride"]),
        (0, {"groups": 3}, ["layers.0", "groups = 3"]),
        (0, {"strde": [1, 1]}, ["layers.0", "strde", "'stride'"]),
        (0, {"bits": 8}, ["layers.0.bits", "8"]),
        (0, {"bits": {"weigth": 8}}, ["layers.0.bits", "weigth", "'weight'"]),
        (0, {"bits": {"weight": 0}}, ["layers.0", "bits.weight = 0"]),
        (1, {"name": "conv"}, ["conv", "twice"]),
        (2, {"operations": "7"}, ["layers.2", "operations = '7'"]),
        (2, {"kind": 3}, ["layers.2", "kind = 3"]),
        (3, {"m": 2**60}, ["layers.3", "macs"]),
        (3, {"name": ""}, ["layers.3", "name"]),
    ],
)
def test_a_bad_field_of_a_layer_is_named_by_position_and_field(
    layer: int, change: dict[str, Any], words: list[str], tmp_path: Path
):
    content = data()
    content["layers"][layer].update(change)
    message = refused(tmp_path, content)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(("layer", "key"), [(0, "p"), (2, "operations"), (3, "name")])
def test_a_missing_field_of_a_layer_is_named(layer: int, key: str, tmp_path: Path):
    content = data()
    del content["layers"][layer][key]
    message = refused(tmp_path, content)
    assert f"layers.{layer}" in message
    assert f"'{key}'" in message


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null"])
def test_a_file_that_is_no_workload_is_refused(text: str, tmp_path: Path):
    refused(tmp_path, text)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "net.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match=r"net\.json"):
        load_workload(path)


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"absent\.json: cannot be read"):
        load_workload(tmp_path / "absent.json")
