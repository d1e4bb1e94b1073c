"""SCALE-Sim topology and configuration files: what they mean, and what is refused by file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel_models.accelerator import load_accelerator
from accel_models.errors import InvalidInputError
from accel_models.evaluate import simulate
from accel_models.importers.scalesim import load_scalesim_accelerator, read_config, read_topology
from accel_models.layers import Bits, Conv2d, Gemm
from accel_models.sparsity import KofN
from accel_models.workload import Workload, load_workload

CONV_HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
SPARSE_HEADER = CONV_HEADER.rstrip(",\n") + ", Sparsity,\n"
GEMM_HEADER = "Layer, M, N, K,\n"


def topology(folder: Path, text: str) -> Path:
    path = folder / "net.csv"
    path.write_text(text)
    return path


def test_a_convolution_row_is_read_height_first(tmp_path: Path):
    read = read_topology(topology(tmp_path, CONV_HEADER + "Conv1, 9, 7, 3, 2, 5, 6, 2,\n"))
    assert read.workload.name == "net"
    assert read.workload.layers == (
        Conv2d(name="Conv1", k=6, c=5, p=4, q=4, r=3, s=2, stride=(2, 2), input_size=(9, 7)),
    )
    assert read.structures == {}


@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 1, 2), (5, 1, 3), (7, 3, 2), (8, 3, 2), (224, 7, 2)])
def test_outputs_are_rounded_up_as_scalesim_does(size: int, kernel: int, stride: int, tmp_path: Path):
    row = f"c, {size}, {size}, {kernel}, {kernel}, 4, 4, {stride},\n"
    read = read_topology(topology(tmp_path, CONV_HEADER + row))
    layer = read.workload.layers[0]
    assert isinstance(layer, Conv2d)
    assert layer.p == layer.q == -(-(size - kernel + stride) // stride)
    assert simulate(load_accelerator("edge_os_16x16"), read.workload).macs == layer.macs


def test_a_gemm_file_is_told_by_its_header(tmp_path: Path):
    read = read_topology(topology(tmp_path, GEMM_HEADER + "qkv, 3, 4, 5,\nout, 3, 5, 4,\n"))
    assert read.workload.layers == (Gemm(name="qkv", m=3, n=4, k=5), Gemm(name="out", m=3, n=5, k=4))
    assert read.workload.edges == (("qkv", "out"),)


def test_sparsity_becomes_a_structure_of_the_layers_that_have_one(tmp_path: Path):
    rows = "a, 5, 5, 3, 3, 2, 6, 1, 2:4,\nb, 5, 5, 3, 3, 2, 6, 1,\n"
    read = read_topology(topology(tmp_path, SPARSE_HEADER + rows))
    assert read.structures == {"a": KofN(granularity="weight", k=2, n=4)}
    gemm = read_topology(topology(tmp_path, "Layer, M, N, K, Sparsity,\ng, 3, 4, 8, 1:4,\n"))
    assert gemm.structures == {"g": KofN(granularity="weight", k=1, n=4)}


def test_layers_of_one_name_are_numbered(tmp_path: Path):
    rows = "".join(f"{name}, 3, 4, 5,\n" for name in ("a", "a#2", "a", "a"))
    names = [layer.name for layer in read_topology(topology(tmp_path, GEMM_HEADER + rows)).workload.layers]
    assert len(set(names)) == 4
    assert names[:2] == ["a", "a#2"]


def test_empty_lines_and_missing_last_commas_are_nothing(tmp_path: Path):
    read = read_topology(topology(tmp_path, GEMM_HEADER + "\na, 3, 4, 5\n\n"))
    assert [layer.name for layer in read.workload.layers] == ["a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["header", "layer"]),
        (CONV_HEADER, ["header", "layer"]),
        ("Conv1, 9, 7, 3, 2, 5, 6, 2,\nConv2, 9, 7, 3, 2, 5, 6, 2,\n", [":1", "header"]),
        (CONV_HEADER + "Conv1, 9, 7, 3, 2, 5,\n", [":2", "'filters'", "column 7"]),
        (CONV_HEADER + "Conv1, 9, 7, 3, 2, 5, 6,\n", [":2", "'stride'", "column 8"]),
        (CONV_HEADER + "\nConv1, 9, , 3, 2, 5, 6, 1\n", [":3", "'ifmap width'", "column 3"]),
        (CONV_HEADER + "Conv1, 9, 7.5, 3, 2, 5, 6, 2,\n", [":2", "ifmap width", "'7.5'", "column 3"]),
        (CONV_HEADER + "Conv1, 9, 7, 3, 2, 0, 6, 2,\n", [":2", "channels", "'0'"]),
        (CONV_HEADER + "Conv1, 9, 7, 3, 2, 5, -6, 2,\n", [":2", "filters", "'-6'"]),
        (CONV_HEADER + "Conv1, 2, 7, 3, 2, 5, 6, 2,\n", [":2", "filter 3 x 2", "2 x 7"]),
        (CONV_HEADER + ", 9, 7, 3, 2, 5, 6, 2,\n", [":2", "name"]),
        (SPARSE_HEADER + "Conv1, 9, 7, 3, 2, 5, 6, 2, half,\n", [":2", "'half'", "2:4"]),
        (SPARSE_HEADER + "Conv1, 9, 7, 3, 2, 5, 6, 2, 4:2,\n", [":2", "'4:2'"]),
        (SPARSE_HEADER + "Conv1, 9, 7, 3, 2, 5, 6, 2, 1:2:4,\n", [":2", "'1:2:4'"]),
        (GEMM_HEADER + "a, 3, 4,\n", [":2", "'K'", "column 4"]),
        (GEMM_HEADER + "a, 3, 4, x,\n", [":2", "K", "'x'", "column 4"]),
        (GEMM_HEADER + "a, 3, nan, 5,\n", [":2", "N", "'nan'", "column 3"]),
        (GEMM_HEADER + f"a, {2**30}, {2**30}, {2**30},\n", [":2", "'a'", "macs"]),
    ],
)
def test_a_bad_topology_is_refused_by_file_line_and_field(text: str, words: list[str], tmp_path: Path):
    path = topology(tmp_path, text)
    with pytest.raises(InvalidInputError) as caught:
        read_topology(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert all(word in message for word in words), message


CONFIG = """[general]
run_name = try 100%
[architecture_presets]
ArrayHeight:    8
ArrayWidth:     16
IfmapSramSzkB:   64
FilterSramSzkB:  32
OfmapSramSzkB:   16
Dataflow : ws
Bandwidth : 50
[sparsity]
SparsitySupport : true
OptimizedMapping : false
[run_presets]
InterfaceBandwidth: CALC
"""


def config(folder: Path, text: str) -> Path:
    path = folder / "run.cfg"
    path.write_text(text)
    return path


def test_a_config_gives_array_buffers_and_sparsity(tmp_path: Path):
    read = read_config(config(tmp_path, CONFIG))
    assert (read.run_name, read.rows, read.cols, read.dataflow) == ("try 100%", 8, 16, "weight_stationary")
    assert read.buffer_bytes == {"input": 65536, "weight": 32768, "output": 16384}
    assert read.sparse


@pytest.mark.parametrize(
    ("letters", "dataflow"), [("os", "output_stationary"), ("IS", "input_stationary"), ("ws", "weight_stationary")]
)
def test_a_dataflow_is_two_letters(letters: str, dataflow: str, tmp_path: Path):
    assert read_config(config(tmp_path, CONFIG.replace(": ws", f": {letters}"))).dataflow == dataflow


def test_sparsity_is_off_where_the_section_is_absent(tmp_path: Path):
    assert not read_config(config(tmp_path, CONFIG.split("[sparsity]")[0])).sparse


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ArrayHeight:    8", "", ["architecture_presets.ArrayHeight", "missing"]),
        ("ArrayHeight:    8", "ArrayHeight: 0", ["architecture_presets.ArrayHeight", "'0'"]),
        ("ArrayWidth:     16", "ArrayWidth: -4", ["architecture_presets.ArrayWidth", "'-4'"]),
        ("OfmapSramSzkB:   16", "OfmapSramSzkB: big", ["architecture_presets.OfmapSramSzkB", "'big'"]),
        ("Dataflow : ws", "Dataflow : rs", ["architecture_presets.Dataflow", "'rs'", "os, ws, is"]),
        ("Dataflow : ws", "", ["architecture_presets.Dataflow", "missing"]),
        ("[architecture_presets]", "[presets]", ["architecture_presets.Dataflow", "missing"]),
        ("SparsitySupport : true", "SparsitySupport : maybe", ["sparsity.SparsitySupport", "maybe"]),
        ("OptimizedMapping : false", "OptimizedMapping : true", ["sparsity.OptimizedMapping", "false"]),
        ("[general]", "", ["section"]),
    ],
)
def test_a_bad_config_is_refused_by_file_section_and_key(old: str, new: str, words: list[str], tmp_path: Path):
    path = config(tmp_path, CONFIG.replace(old, new))
    with pytest.raises(InvalidInputError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert all(word in message for word in words), message


USER = CONFIG.replace("CALC", "USER")


def test_a_config_becomes_an_accelerator_of_its_array_and_buffers(tmp_path: Path):
    accelerator = load_scalesim_accelerator(config(tmp_path, CONFIG), clock_mhz=700.0)
    array = accelerator.pe_array
    assert (array.rows, array.cols, array.dataflow) == (8, 16, "weight_stationary")
    assert [memory.capacity_bytes for memory in accelerator.memories] == [None, 65536, 32768, 16384]
    assert [memory.holds for memory in accelerator.memories[1:]] == [("input",), ("weight",), ("output",)]
    assert (accelerator.name, accelerator.clock_mhz) == ("try 100%", 700.0)


def test_the_bandwidth_is_that_of_three_interfaces_in_user_mode_and_never_binds_in_calc_mode(tmp_path: Path):
    workload = Workload(name="x", layers=(Gemm(name="g", m=64, n=64, k=64),))
    user = load_scalesim_accelerator(config(tmp_path, USER.replace("Bandwidth : 50", "Bandwidth : 2, 9, 9")))
    assert user.dram.bandwidth_bytes_per_cycle == 6.0
    free = simulate(load_scalesim_accelerator(config(tmp_path, CONFIG)), workload)
    assert simulate(user, workload).latency_cycles > max(free.latency_cycles, 3 * 64 * 64 / 6)
    stalls = dict(free.layers[0].activity.stall_cycles)
    assert stalls.pop("dram_fill") + stalls.pop("dram_drain") == 2  # a cycle each: it is not infinite
    assert not any(stalls.values())
    assert free.latency_cycles - 2 == (64 // 8) * (64 // 16) * (64 + 2 * 8 + 16 - 2)


def test_filling_a_buffer_takes_no_port_from_the_array(tmp_path: Path):
    """One row of inputs reads each weight once and fills it once: a shared port would take two cycles for one."""
    accelerator = load_scalesim_accelerator(config(tmp_path, CONFIG.replace(": ws", ": os")))
    cost = simulate(accelerator, Workload(name="x", layers=(Gemm(name="fc", m=1, n=160, k=512),)))
    assert cost.layers[0].activity.stall_cycles["buffer_bandwidth"] == 0


def test_sparsity_is_skipped_only_with_support_and_a_structure(tmp_path: Path):
    structures = {"a": KofN(granularity="weight", k=2, n=4), "b": KofN(granularity="weight", k=1, n=8)}
    on, off = config(tmp_path, CONFIG), tmp_path / "off.cfg"
    off.write_text(CONFIG.replace("SparsitySupport : true", "SparsitySupport : false"))
    assert load_scalesim_accelerator(on, structures).weight_sparsity.gather == 8
    assert load_scalesim_accelerator(on).weight_sparsity.action == "none"
    assert load_scalesim_accelerator(off, structures).weight_sparsity.action == "none"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Bandwidth : 50", "Bandwidth : 0", ["architecture_presets.Bandwidth", "'0'", "words per cycle"]),
        ("Bandwidth : 50", "Bandwidth : nan", ["architecture_presets.Bandwidth", "'nan'"]),
        ("Bandwidth : 50", "", ["architecture_presets.Bandwidth", "missing"]),
        ("USER", "MAYBE", ["run_presets.InterfaceBandwidth", "'MAYBE'", "CALC"]),
        ("ArrayHeight:    8", "ArrayHeight: 100000", ["pe_array.rows", "100000"]),
    ],
)
def test_a_config_that_makes_no_accelerator_is_refused_by_field(old: str, new: str, words: list[str], tmp_path: Path):
    path = config(tmp_path, USER.replace(old, new))
    with pytest.raises(InvalidInputError) as caught:
        load_scalesim_accelerator(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert all(word in message for word in words), message


def test_a_batched_product_of_activations_passes_through_a_workload_file(tmp_path: Path):
    """Attention: one product per image and head, both factors computed by the network."""
    scores = Gemm(
        name="scores", m=6, n=6, k=4, groups=12, b_source="activation", bits=Bits(weight=4, input=8, output=16)
    )
    workload = Workload(
        name="attention", layers=(Gemm(name="qkv", m=6, n=48, k=16), scores), edges=(("qkv", "scores"),)
    )
    path = tmp_path / "attention.json"
    path.write_text(workload.to_json())
    assert load_workload(path) == workload
    path.write_text(workload.to_json().replace('"activation"', '"weights"'))
    with pytest.raises(InvalidInputError, match=r"attention\.json: layers\.1: .*b_source = 'weights'"):
        load_workload(path)


@pytest.mark.parametrize("read", [read_config, read_topology])
def test_files_that_are_absent_or_no_text_are_named(read, tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"absent\.x: cannot be read"):
        read(tmp_path / "absent.x")
    (tmp_path / "bytes.x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match=r"bytes\.x: "):
        read(tmp_path / "bytes.x")
