"""Workloads that ship as files: equal to what the networks say, small, and read without building a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accel_models.errors import InvalidInputError
from accel_models.layers import Bits, Conv2d, Gemm, VectorOp
from accel_models.workload import Workload, load_workload
from cosim.networks import network_names
from cosim.networks.workloads import FOLDER, extracted, network_workload, workload_names

REMEDY = "run `python -m cosim.networks.workloads`"
SLOW_MACS = 5 * 10**9
"""Networks with more work are extracted in the slow tests."""


def parameter(name: str) -> object:
    workload = network_workload(name)
    slow = workload is not None and workload.macs > SLOW_MACS
    return pytest.param(name, marks=pytest.mark.slow if slow else ())


def test_every_network_ships_its_workload_and_no_file_is_left_over():
    assert sorted(workload_names()) == sorted(network_names()), REMEDY


@pytest.mark.parametrize("name", [parameter(name) for name in network_names()])
def test_the_file_equals_the_network_extracted_anew(name: str):
    assert network_workload(name) == extracted.extract_network(name), REMEDY


@pytest.mark.parametrize("name", workload_names())
def test_the_file_is_as_to_json_writes_it(name: str):
    workload = network_workload(name)
    assert workload is not None
    assert workload.name == name
    assert (FOLDER / f"{name}.json").read_text() == workload.to_json(), REMEDY


def test_all_files_together_stay_below_a_megabyte():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 1_000_000


@pytest.mark.parametrize("name", ["nope", "", "../workloads/digits_resnet", "module:function", "digits_resnet.json"])
def test_a_name_without_a_file_is_none(name: str):
    assert network_workload(name) is None


def test_writing_replaces_files_and_removes_those_of_networks_that_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(extracted, "network_names", lambda: ("digits_resnet",))
    for old in ("gone", "digits_resnet"):
        (tmp_path / f"{old}.json").write_text("{}")
    assert extracted.write_workloads(tmp_path) == [tmp_path / "digits_resnet.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["digits_resnet.json"]
    assert load_workload(tmp_path / "digits_resnet.json") == network_workload("digits_resnet")


def test_nothing_is_written_when_a_network_cannot_be_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(name: str) -> Workload:
        raise InvalidInputError(name)

    monkeypatch.setattr(extracted, "extract_network", refuse)
    (tmp_path / "old.json").write_text("{}")
    with pytest.raises(InvalidInputError):
        extracted.write_workloads(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


def test_a_layer_is_one_line_without_the_fields_at_their_default():
    layers = (
        Conv2d(name="a", k=2, c=3, p=4, q=5, r=1, s=1, padding=(0, 1), bits=Bits(weight=4)),
        Gemm(name="b", m=1, n=2, k=3),
        VectorOp(name="c", kind="pool", input_elements=8, output_elements=2, operations=8),
    )
    text = Workload(name="net", layers=layers, edges=(("a", "b"), ("b", "c"))).to_json()
    lines = text.splitlines()
    assert json.loads(text)["name"] == "net"
    assert json.loads(lines[1].rstrip(",")) == {
        "type": "conv2d", "name": "a", "k": 2, "c": 3, "p": 4, "q": 5, "r": 1, "s": 1, "padding": [0, 1],
        "bits": {"weight": 4},
    }  # fmt: skip
    assert json.loads(lines[2].rstrip(",")) == {"type": "gemm", "name": "b", "m": 1, "n": 2, "k": 3}
    assert len(lines) == 1 + 3 + 1 + 2 + 1


def test_a_workload_without_edges_comes_back(tmp_path: Path):
    workload = Workload(name='a "quoted" \n name', layers=(Gemm(name="ü", m=1, n=2, k=3),))
    (tmp_path / "net.json").write_text(workload.to_json())
    assert load_workload(tmp_path / "net.json") == workload


def test_a_cycle_of_edges_is_shown():
    layers = tuple(Gemm(name=name, m=1, n=1, k=1) for name in "abc")
    with pytest.raises(InvalidInputError, match=r"cycle: (a -> b -> a|b -> a -> b)"):
        Workload(name="net", layers=layers, edges=(("a", "b"), ("b", "a"), ("b", "c")))
