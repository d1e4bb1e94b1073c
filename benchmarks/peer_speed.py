"""SCALE-Sim and ZigZag against ours: the same layers, the same machine, the same run.

A peer that cannot be installed or does not run leaves its rows out, with the reason on stderr.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from accel_models.accelerator import Accelerator, load_accelerator
from accel_models.evaluate import simulate
from accel_models.importers.scalesim import read_topology
from accel_models.workload import Workload
from benchmarks import mapper_speed
from benchmarks.cold import TOPOLOGY
from benchmarks.peers import SCALESIM, ZIGZAG, PeerUnavailableError, Usage, peer_python, run_measured
from benchmarks.registry import Row, benchmark

SCRIPTS = Path(__file__).parent
ARRAY = 32
"""Rows and columns of the output-stationary array, with 64 KiB for each operand."""
BASE = "edge_os_16x16"
SETTINGS = {
    "pe_array.rows": ARRAY,
    "pe_array.cols": ARRAY,
    **{f"memories.{operand}_buffer.capacity_bytes": 64 * 1024 for operand in ("input", "weight", "output")},
}
CONFIG = f"""[general]
run_name = alexnet

[architecture_presets]
ArrayHeight: {ARRAY}
ArrayWidth: {ARRAY}
IfmapSramSzkB: 64
FilterSramSzkB: 64
OfmapSramSzkB: 64
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Bandwidth: 10
Dataflow: os
MemoryBanks: 1
ReadRequestBuffer: 32
WriteRequestBuffer: 32

[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 1
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 1
FilterSRAMBankPort: 2

[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40

[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""
LAYOUT_COLUMNS = 20
"""Of its layout file, which it wants and, without a custom layout, does not use."""
ZIGZAG_ACCELERATOR, ZIGZAG_MAPPING = "eyeriss_like", "default"
"""Files that ship with ZigZag: 14 x 12 PEs with registers of their own, buffers, DRAM; K x C over the array."""
IN_PROCESS_RUNS, PROCESS_RUNS = 200, 5


def _rows_or_reason(measure: Callable[[], list[Row]]) -> list[Row]:
    try:
        return measure()
    except PeerUnavailableError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return []


@benchmark("scalesim_alexnet_ratio", "scalesim_alexnet_process_ratio", "scalesim_alexnet_memory_ratio")
def scalesim_alexnet() -> list[Row]:
    """The five convolutions of AlexNet on a 32 x 32 output-stationary array; the cycles of both must be equal."""
    return _rows_or_reason(_scalesim_rows)


def _scalesim_rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        topology = folder / "alexnet.csv"
        topology.write_text(TOPOLOGY)
        machine, workload = load_accelerator(BASE, SETTINGS), read_topology(topology).workload
        peer, reported = _run_scalesim(folder, workload)
        ours = [layer.activity.compute_cycles - 1 for layer in simulate(machine, workload).layers]  # it counts from 0
        if ours != reported:
            raise RuntimeError(f"compute cycles differ: ours less one {ours}, {SCALESIM.title} {reported}")
        seconds, process = _simulate_seconds(machine, workload), _process_usage(folder, topology)
    runs = f"simulate() in process, median of {IN_PROCESS_RUNS}; cycles equal in all {len(ours)} layers"
    theirs = f"SCALE-Sim's wall time {peer.wall_s:.4g} s, no traces written"
    command = f"the whole `cosim simulate`, median of {PROCESS_RUNS}; our wall time {process.wall_s:.4g} s"
    return [
        _ratio("alexnet", seconds, peer.seconds, "s", f"{runs}; {theirs}"),
        _ratio("alexnet_process", process.seconds, peer.seconds, "s", command),
        _ratio("alexnet_memory", process.peak_mib, peer.peak_mib, "MiB", "largest resident set"),
    ]


def _ratio(name: str, ours: float, theirs: float, unit: str, note: str) -> Row:
    return Row(
        name=f"scalesim_{name}_ratio",
        value=ours,
        unit=unit,
        peer=SCALESIM.title,
        peer_value=theirs,
        ratio=theirs / ours,
        note=note,
    )


def _run_scalesim(folder: Path, workload: Workload) -> tuple[Usage, list[int]]:
    """What SCALE-Sim took, and its cycles of each layer without stalls."""
    names = [layer.name for layer in workload.layers]
    (folder / "array.cfg").write_text(CONFIG)
    rows = ["Layer name,"] + [f"{name}," + "1," * LAYOUT_COLUMNS for name in names]
    (folder / "layout.csv").write_text("\n".join(rows) + "\n")
    script = str(SCRIPTS / "run_scalesim.py")
    command = [peer_python(SCALESIM), script, "array.cfg", "alexnet.csv", "layout.csv", "reports"]
    usage = run_measured(command, folder)
    with (folder / "reports" / "alexnet" / "COMPUTE_REPORT.csv").open() as file:
        report = list(csv.DictReader(file, skipinitialspace=True))
    return usage, [int(float(row["Total Cycles"])) - int(float(row["Stall Cycles"])) for row in report]


def _simulate_seconds(machine: Accelerator, workload: Workload) -> float:
    seconds = []
    for _ in range(IN_PROCESS_RUNS):
        start = time.perf_counter()
        simulate(machine, workload)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _process_usage(folder: Path, topology: Path) -> Usage:
    """Of the whole command, after one run that fills the kernel cache; the median by seconds."""
    settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "cosim", "simulate", "-a", BASE, "-w", str(topology), *settings]
    runs = [run_measured(command, folder) for _ in range(PROCESS_RUNS + 1)][1:]
    return sorted(runs, key=lambda usage: usage.seconds)[PROCESS_RUNS // 2]


@benchmark("zigzag_resnet18_ratio", "zigzag_resnet18_layer_ratio")
def zigzag_resnet18() -> list[Row]:
    """ResNet-18 mapped for latency: ZigZag with its defaults on an accelerator it ships, ours as in mapper_speed."""
    return _rows_or_reason(_zigzag_rows)


def _zigzag_rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = str(SCRIPTS / "run_zigzag.py")
        run_measured([peer_python(ZIGZAG), script, ZIGZAG_ACCELERATOR, ZIGZAG_MAPPING, "."], folder)
        result = json.loads((folder / "out.json").read_text())
    peer, layers = min(result["wall_s"], result["cpu_s"]), len(result["layers"])
    ours, shapes = mapper_speed.seconds("latency", mapper_speed.EYERISS_SIZED), len(mapper_speed.RESNET18)
    note = (
        "same: layer shapes, batch 1, least latency, 168 PEs with registers, buffer, DRAM. Not the same: sizes and "
        f"bandwidths; its {ZIGZAG_ACCELERATOR} has more buffers and a given spatial mapping, ours searches it; it "
        "tries orders of at most 6 loop factors, ours is proven optimal; it maps "
        f"{layers} layers, ours the {shapes} distinct, on {mapper_speed.THREADS} threads; "
        f"its wall time {result['wall_s']:.4g} s"
    )
    per_layer = f"the same runs, seconds for one layer: of its {layers}, of our {shapes}"
    return [
        _zigzag_row("zigzag_resnet18_ratio", ours, peer, note),
        _zigzag_row("zigzag_resnet18_layer_ratio", ours / shapes, peer / layers, per_layer),
    ]


def _zigzag_row(name: str, ours: float, theirs: float, note: str) -> Row:
    return Row(name=name, value=ours, unit="s", peer=ZIGZAG.title, peer_value=theirs, ratio=theirs / ours, note=note)
