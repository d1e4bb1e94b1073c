"""Accelerator files: strict, with the path, the value and the nearest key in every refusal."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from accel_models.accelerator import (
    LIBRARY,
    Accelerator,
    describe,
    library_names,
    load_accelerator,
    parse_accelerator,
)
from accel_models.config_files import read_yaml, set_by_path
from accel_models.errors import InvalidInputError, UnknownNameError

NAN, INF = float("nan"), float("inf")


def data(**changes: Any) -> dict[str, Any]:
    """A complete file; `changes` maps key paths (`__` for the dot) to values."""
    content = read_yaml(LIBRARY / "accelerators" / "edge_skip_16x16.yaml")
    content["energy"] = {"add": {"value": 0.2, "source": "a measurement"}}
    for key, value in changes.items():
        set_by_path(content, key.replace("__", "."), value, "test")
    return content


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """The file of a library accelerator with changes."""
    content = read_yaml(LIBRARY / "accelerators" / f"{name}.yaml")
    for key, value in changes.items():
        set_by_path(content, key.replace("__", "."), value, "test")
    return content


def refused(content: Any) -> str:
    with pytest.raises(InvalidInputError) as caught:
        parse_accelerator(content, "chip.yaml")
    message = str(caught.value)
    assert message.startswith("chip.yaml: ")
    assert "\n" not in message
    return message.removeprefix("chip.yaml: ")


@pytest.mark.parametrize("name", library_names())
def test_to_yaml_gives_an_equal_accelerator_back(name: str, tmp_path: Path):
    machine = load_accelerator(name)
    path = tmp_path / "copy.yaml"
    path.write_text(machine.to_yaml())
    assert load_accelerator(path) == machine


def test_to_yaml_keeps_what_differs_from_the_defaults(tmp_path: Path):
    machine = parse_accelerator(
        data(vector_lanes=4, sram_device="itrs-hp", memories__input_buffer__banks=3, clock_mhz=812.5), "chip.yaml"
    )
    path = tmp_path / "copy.yaml"
    path.write_text(machine.to_yaml())
    assert load_accelerator(path) == machine


@pytest.mark.parametrize("name", library_names())
def test_every_library_accelerator_says_where_its_numbers_come_from(name: str):
    machine = load_accelerator(name)
    assert machine.name == name
    assert machine.source
    assert machine.description
    assert str(machine.pe_array.rows) in describe(machine)


@pytest.mark.parametrize(
    ("key", "path", "nearest"),
    [
        ("clok_mhz", "clok_mhz", "clock_mhz"),
        ("pe_array__row", "pe_array.row", "rows"),
        ("memories__dram__capacity_byte", "memories.0.capacity_byte", "capacity_bytes"),
        ("weight_sparsity__actions", "weight_sparsity.actions", "action"),
        ("energy__add__sources", "energy.add.sources", "source"),
    ],
)
def test_an_unknown_key_names_its_path_and_the_nearest_key(key: str, path: str, nearest: str):
    assert refused(data(**{key: 1})) == f"{path}: unknown key; did you mean {nearest!r}?"


def test_a_key_of_another_place_is_not_offered_where_it_is_unknown():
    message = refused(data(rows=16))
    assert message.startswith("rows: unknown key; known keys: name, description")
    assert "did you mean" not in message


NUMBERS = [
    "clock_mhz",
    "pe_array__rows",
    "pe_array__cols",
    "pe_array__psum_bits",
    "memories__dram__bandwidth_bytes_per_cycle",
    "memories__input_buffer__capacity_bytes",
    "memories__input_buffer__width_bits",
    "memories__input_buffer__banks",
    "vector_lanes",
    "weight_sparsity__gather",
]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [NAN, INF, -INF, -1, 0, True, "many", [8]])
def test_a_number_that_is_none_or_out_of_range_is_refused_by_path_and_value(key: str, value: object):
    message = refused(data(**{key: value}))
    path = key.replace("__", ".").replace("dram", "0").replace("input_buffer", "1")
    assert message.startswith(f"{path}: ")
    assert repr(value) in message


@pytest.mark.parametrize("value", [NAN, INF, -0.1, True])
def test_an_energy_that_is_negative_or_no_number_is_refused(value: object):
    assert refused(data(energy__add__value=value)).startswith("energy.add.value: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pe_array__rows", 2**40),
        ("memories__input_buffer__capacity_bytes", 2**60),
        ("memories__input_buffer__width_bits", 2**40),
        ("memories__dram__bandwidth_bytes_per_cycle", 1e-300),
        ("memories__dram__bandwidth_bytes_per_cycle", 1e300),
    ],
)
def test_a_number_that_would_overflow_the_counts_is_refused(key: str, value: float):
    assert "should be " in refused(data(**{key: value}))


@pytest.mark.parametrize(
    ("widths", "words"),
    [([], "[]"), ([8, 4], "[8, 4]"), ([8, 8], "[8, 8]"), ([0, 8], "weight_bits.0"), ([65], "weight_bits.0")],
)
def test_multiplier_widths_must_ascend(widths: list[int], words: str):
    message = refused(data(pe_array__weight_bits=widths))
    assert message.startswith("pe_array")
    assert words in message


@pytest.mark.parametrize("key", ["name", "clock_mhz", "pe_array", "memories"])
def test_a_missing_field_is_named(key: str):
    content = data()
    del content[key]
    assert refused(content) == f"{key}: Field required"


def without(content: dict[str, Any], *names: str) -> dict[str, Any]:
    content["memories"] = [memory for memory in content["memories"] if memory["name"] not in names]
    return content


def second(content: dict[str, Any], memory_name: str, **changes: Any) -> dict[str, Any]:
    """The file with a copy of one memory."""
    memory = next(memory for memory in content["memories"] if memory["name"] == memory_name)
    content["memories"].append({**copy.deepcopy(memory), **changes})
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (without(data(), "dram"), ["memories", "dram", "weight, input and output"]),
        (without(data(), "dram", "input_buffer", "weight_buffer", "output_buffer"), ["memories", "dram"]),
        (without(data(), "weight_buffer"), ["memories", "one sram for weight", "none"]),
        (second(data(), "input_buffer"), ["memories", "names", "must differ"]),
        (second(data(), "input_buffer", name="other"), ["one sram for input", "input_buffer", "other"]),
        (data(memories__input_buffer__holds=["input", "weight"]), ["one sram for", "alone"]),
        (data(memories__dram__holds=["weight", "input"]), ["memories", "dram"]),
        (data(memories__input_buffer__name="register"), ["memories", "register"]),
        (data(memories__input_buffer__name="in.put"), ["memories.1.name", "in.put"]),
        (
            second(without(data(), "input_buffer"), "dram", name="far", holds=["input"]),
            ["memories", "all but the first", "sram"],
        ),
        (data(memories__dram__capacity_bytes=8), ["memories.0", "capacity_bytes", "'dram'", "remove"]),
        (data(memories__weight_buffer__dram_type="DDR3"), ["memories.2", "dram_type", "'weight_buffer'"]),
        (data(memories__weight_buffer__capacity_bytes=None), ["memories.2", "capacity_bytes is missing"]),
        (data(memories__dram__dram_type=None), ["memories.0", "dram_type is missing"]),
        (data(memories__dram__bandwidth_bytes_per_cycle=None), ["bandwidth_bytes_per_cycle is missing"]),
        (data(weight_sparsity__format="dense"), ["weight_sparsity", "skip needs format: k_of_n"]),
        (data(weight_sparsity__gather=None), ["weight_sparsity", "gather"]),
        (data(weight_sparsity__action="gate"), ["weight_sparsity", "gather"]),
        (data(pe_array__dataflow="row"), ["pe_array.dataflow", "row_stationary"]),
        (data(pe_array__dataflow="row_stationary"), ["row-stationary", "registers"]),
        (data(pe_array__dataflow="flexible"), ["axes make 1 multipliers", "256", "equal"]),
        (data(pe_array__network={"weight": 8, "input": 8, "output": 8}), ["pe_array", "network", "row_stationary"]),
        (data(memories__dram__latency_cycles=10), ["memories.dram.latency_cycles", "flexible"]),
        (data(memories__input_buffer__axes=[{"size": 2, "dims": ["K"]}]), ["memories.input_buffer.axes", "flexible"]),
        (data(memories__input_buffer__kind="registers"), ["input_buffer", "its own registers", "sram"]),
        (data(memories__input_buffer__holds=[]), ["memories.1", "holds"]),
        (changed("eyeriss_v1", memories__filter_glb__holds=["weight", "input"]), ["row-stationary", "sram"]),
        (
            changed("eyeriss_v1", memories__glb__holds=["input"], memories__filter_glb__holds=["weight", "output"]),
            ["input and output in one sram"],
        ),
        (
            changed("eyeriss_v1", weight_sparsity={"action": "skip", "format": "k_of_n", "gather": 4}),
            ["weight_sparsity", "row_stationary", "gate"],
        ),
        (changed("nvdla_like", weight_sparsity={"format": "k_of_n"}), ["weight_sparsity", "flexible", "dense"]),
        (changed("nvdla_like", pe_array__rows=32), ["2048 multipliers", "1024"]),
        (changed("nvdla_like", memories__accumulator__axes=[{"size": 64, "dims": ["X"]}]), ["axes.0.dims.0", "'X'"]),
        (data(node_nm=28), ["node_nm", "45", "28"]),
        (data(sram_device="itrs-xx"), ["sram_device", "itrs-lstp", "itrs-xx"]),
        ([1, 2], ["(top)"]),
    ],
)
def test_what_cannot_be_an_accelerator_is_refused_by_field_and_remedy(content: Any, words: list[str]):
    message = refused(content)
    assert all(word in message for word in words), message


def test_overrides_reach_fields_and_named_and_numbered_items():
    machine = load_accelerator(
        "edge_os_16x16",
        {
            "pe_array.rows": 32,
            "memories.weight_buffer.capacity_bytes": 4096,
            "memories.0.bandwidth_bytes_per_cycle": 2.5,
            "pe_array.weight_bits.1": 16,
            "energy.add": {"value": 0.3, "source": "mine"},
        },
    )
    assert machine.pe_array.rows == 32
    assert machine.buffer("weight").capacity_bytes == 4096
    assert machine.buffer("input").capacity_bytes == 16384
    assert machine.dram.bandwidth_bytes_per_cycle == 2.5
    assert machine.pe_array.weight_bits == (4, 16)
    assert machine.energy["add"].value == 0.3
    assert load_accelerator("edge_os_16x16").pe_array.rows == 16


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("memories.glb.banks", ["memories.glb.banks", "'glb'", "weight_buffer"]),
        ("memories.7.banks", ["'7'", "weight_buffer"]),
        ("clock_mhz.x", ["clock_mhz.x", "'x'"]),
        ("clock_mhz.x.y", ["clock_mhz.x.y", "'x'"]),
        ("pe_aray.rows", ["pe_aray", "pe_array"]),
        ("", ["unknown key"]),
    ],
)
def test_an_override_that_names_nothing_is_refused(key: str, words: list[str]):
    with pytest.raises(InvalidInputError) as caught:
        load_accelerator("edge_os_16x16", {key: 4})
    assert all(word in str(caught.value) for word in ["edge_os_16x16", *words]), str(caught.value)


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UnknownNameError, match="'edge_os_16' is not in the library; nearest: 'edge_os_16x16'"):
        load_accelerator("edge_os_16")


@pytest.mark.parametrize("content", [b"name: [", b"- 1\n- 2\n", b"", b"\xff\xfe\x00\x01", b"pe_array: &a [*b]"])
def test_a_file_that_is_no_accelerator_is_named(content: bytes, tmp_path: Path):
    path = tmp_path / "chip.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"chip\.yaml: "):
        load_accelerator(path)


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"absent\.yaml: cannot be read"):
        load_accelerator(tmp_path / "absent.yaml")


def test_a_weight_runs_at_the_narrowest_multiplier_that_holds_it():
    machine = load_accelerator("edge_os_16x16", {"pe_array.weight_bits": [2, 4, 8]})
    assert [machine.multiplier_bits(bits) for bits in range(1, 9)] == [2, 2, 4, 4, 8, 8, 8, 8]
    with pytest.raises(InvalidInputError, match=r"pe_array.weight_bits = \[2, 4, 8\] holds no weight of 9 bits"):
        machine.multiplier_bits(9)


@pytest.mark.parametrize(
    ("dataflow", "edges"),
    [
        ("output_stationary", {"input": 4 * 8, "weight": 16 * 8, "output": 16 * 32}),
        ("weight_stationary", {"input": 4 * 8, "weight": 16 * 8, "output": 2 * 16 * 32}),
        ("input_stationary", {"input": 16 * 8, "weight": 4 * 8, "output": 2 * 16 * 32}),
    ],
)
def test_default_banks_feed_one_edge_of_the_array_in_every_cycle(dataflow: str, edges: dict[Any, int]):
    machine = load_accelerator("edge_os_16x16", {"pe_array.dataflow": dataflow, "pe_array.rows": 4})
    for operand, bits in edges.items():
        memory = machine.buffer(operand)
        assert machine.edge_bits(operand) == bits
        assert machine.port_bits(memory) >= bits > machine.port_bits(memory) - memory.width_bits


def test_a_gathering_array_takes_a_tile_of_inputs_and_an_index_with_every_weight():
    plain, skip = load_accelerator("edge_os_16x16"), load_accelerator("edge_skip_16x16")
    assert skip.edge_bits("input") == 8 * plain.edge_bits("input")
    assert skip.edge_bits("weight") == 16 * (8 + 3)
    assert skip.edge_bits("output") == plain.edge_bits("output")


def test_an_accelerator_cannot_be_changed():
    machine = load_accelerator("edge_os_16x16")
    with pytest.raises(ValueError, match="frozen"):
        machine.clock_mhz = 1.0
    assert isinstance(Accelerator.model_validate(yaml.safe_load(machine.to_yaml())), Accelerator)
