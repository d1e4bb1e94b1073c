"""SCALE-Sim files: a topology CSV and a .cfg become a Workload and an array.

Format: SCALE-Sim v2/v3 (scalesim-project/scale-sim-v2, -v3). A convolution row holds name, ifmap height and width,
filter height and width, channels, filters, stride (both axes) and optionally N:M sparsity; a GEMM row name, M, N, K.
The number of outputs is ceil((H - R + stride) / stride): its own rounding, kept here.
"""

from __future__ import annotations

import configparser
import csv
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel_models.accelerator import Accelerator, Dataflow, parse_accelerator
from accel_models.errors import InvalidInputError
from accel_models.layers import Conv2d, Gemm
from accel_models.sparsity import KofN
from accel_models.workload import Workload

_DATAFLOWS: dict[str, Dataflow] = {
    "os": "output_stationary",
    "ws": "weight_stationary",
    "is": "input_stationary",
}
_CONV_FIELDS = ("ifmap height", "ifmap width", "filter height", "filter width", "channels", "filters", "stride")
_GEMM_FIELDS = ("M", "N", "K")
_PRESETS = "architecture_presets"
_INTERFACES = 3
"""SCALE-Sim gives ifmap, filter and ofmap a DRAM interface each, of the first figure of `Bandwidth`.
Source: scalesim 3.0.0, single_layer_sim.py, the backing bandwidths of the double-buffered scratchpads."""
_UNLIMITED = 1e6
"""Bytes per cycle, the most that an accelerator may have: mode CALC asks how much a run without stalls would need."""


@dataclass(frozen=True)
class Topology:
    """A topology file: layers in order, and the N:M structure of those that have one."""

    workload: Workload
    structures: dict[str, KofN]


@dataclass(frozen=True)
class ScaleSimConfig:
    """What a .cfg says about the array and its memories."""

    run_name: str
    rows: int
    cols: int
    dataflow: Dataflow
    buffer_bytes: dict[str, int]
    sparse: bool
    dram_words_per_cycle: int | None = None
    """Of each of the three interfaces, in mode USER; None: mode CALC, as much as a run without stalls needs."""


def read_topology(path: Path | str) -> Topology:
    """Read a convolution or GEMM topology (told apart by the header).

    Raises
    ------
    InvalidInputError
        A row lacks a field or holds no positive integer; the message names file, line and field.
    """
    path = Path(path)
    lines = _read_text(path).splitlines()
    rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(lines), 1) if any(row)]
    if len(rows) < 2:
        raise InvalidInputError(f"{path}: needs a header line and at least one layer")
    header = [cell.lower() for cell in rows[0][1]]
    if len(header) > 1 and header[1].isdecimal():
        raise InvalidInputError(f"{path}:{rows[0][0]}: the first line is a header and holds no layer; add one")
    is_gemm = header[1:4] == ["m", "n", "k"]
    layers: list[Conv2d | Gemm] = []
    structures: dict[str, KofN] = {}
    for number, cells in rows[1:]:
        where = f"{path}:{number}"
        values = _integers(cells, _GEMM_FIELDS if is_gemm else _CONV_FIELDS, where)
        name = _unique(cells[0], layers)
        try:
            layers.append(_gemm(name, values) if is_gemm else _convolution(name, values))
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}: {error}") from error
        ratio = cells[4 if is_gemm else 8] if len(cells) > (4 if is_gemm else 8) else ""
        if ratio:
            structures[name] = _structure(ratio, where)
    edges = tuple((a.name, b.name) for a, b in itertools.pairwise(layers))
    return Topology(Workload(name=path.stem, layers=tuple(layers), edges=edges), structures)


def read_config(path: Path | str) -> ScaleSimConfig:
    """Read a .cfg.

    Raises
    ------
    InvalidInputError
        A section or key is missing or cannot be used; the message names it.
    """
    path = Path(path)
    parser = configparser.ConfigParser()
    try:
        parser.read_string(_read_text(path))
    except configparser.Error as error:
        raise InvalidInputError(f"{path}: {' '.join(str(error).split())}") from error
    if _switch(parser, "OptimizedMapping", path):
        raise InvalidInputError(
            f"{path}: sparsity.OptimizedMapping: row-wise sparsity is not modelled; set it to false"
        )
    dataflow = _preset(parser, "Dataflow", path).lower()
    if dataflow not in _DATAFLOWS:
        raise InvalidInputError(f"{path}: {_PRESETS}.Dataflow: {dataflow!r} is none of os, ws, is")
    sizes = {"input": "IfmapSramSzkB", "weight": "FilterSramSzkB", "output": "OfmapSramSzkB"}
    return ScaleSimConfig(
        run_name=parser.get("general", "run_name", fallback=path.stem, raw=True),
        rows=_positive(parser, "ArrayHeight", path),
        cols=_positive(parser, "ArrayWidth", path),
        dataflow=_DATAFLOWS[dataflow],
        buffer_bytes={operand: 1024 * _positive(parser, key, path) for operand, key in sizes.items()},
        sparse=_switch(parser, "SparsitySupport", path),
        dram_words_per_cycle=_bandwidth(parser, path),
    )


def load_scalesim_accelerator(
    path: Path | str, structures: Mapping[str, KofN] | None = None, clock_mhz: float = 1000.0
) -> Accelerator:
    """The accelerator that a .cfg describes.

    A word is a byte, as in SCALE-Sim. Its three DRAM interfaces become one that is shared and as wide as all of them;
    buffers are filled behind the half in use, without taking its ports.
    What a .cfg does not say is assumed: LPDDR4, the clock, and partial sums of 32 bits that stay on chip, so that a
    small output buffer costs array cycles (SCALE-Sim lets them leave).

    Parameters
    ----------
    structures
        N:M structures of the topology: with SparsitySupport the array skips by the largest M.
    clock_mhz : positive
        A .cfg counts cycles only.

    Raises
    ------
    InvalidInputError
        As `read_config`, or a value is out of an accelerator's range; the message names file and field.
    """
    config = read_config(path)
    words = config.dram_words_per_cycle
    bandwidth = _UNLIMITED if words is None else float(_INTERFACES * words)
    dram = {
        "name": "dram",
        "kind": "dram",
        "holds": tuple(config.buffer_bytes),
        "dram_type": "LPDDR4",
        "bandwidth_bytes_per_cycle": bandwidth,
    }
    buffers = [
        {"name": f"{operand}_buffer", "kind": "sram", "holds": (operand,), "capacity_bytes": capacity}
        for operand, capacity in config.buffer_bytes.items()
    ]
    data: dict[str, Any] = {
        "name": config.run_name,
        "source": f"SCALE-Sim configuration {Path(path).name}",
        "clock_mhz": clock_mhz,
        "pe_array": {"rows": config.rows, "cols": config.cols, "dataflow": config.dataflow},
        "memories": (dram, *buffers),
    }
    if config.sparse and structures:
        gather = max(2, *(structure.n for structure in structures.values()))
        data["weight_sparsity"] = {"action": "skip", "format": "k_of_n", "gather": gather}
    return _with_fill_ports(parse_accelerator(data, where=str(path)))


def _with_fill_ports(accelerator: Accelerator) -> Accelerator:
    """As many banks again: SCALE-Sim fills one half of a buffer while the other half feeds the array."""
    dram, *buffers = accelerator.memories
    doubled = [memory.model_copy(update={"banks": 2 * accelerator.banks(memory)}) for memory in buffers]
    return accelerator.model_copy(update={"memories": (dram, *doubled)})


def _bandwidth(parser: configparser.ConfigParser, path: Path) -> int | None:
    """Words per cycle of one interface, or None in mode CALC."""
    mode = parser.get("run_presets", "InterfaceBandwidth", fallback="CALC", raw=True).strip()
    if mode == "CALC":
        return None
    if mode != "USER":
        raise InvalidInputError(f"{path}: run_presets.InterfaceBandwidth: {mode!r} is none of USER, CALC")
    first = _preset(parser, "Bandwidth", path).split(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        raise InvalidInputError(
            f"{path}: {_PRESETS}.Bandwidth: {first!r} must be a positive integer, in words per cycle"
        )
    return int(first)


def _preset(parser: configparser.ConfigParser, key: str, path: Path) -> str:
    if not parser.has_option(_PRESETS, key):
        raise InvalidInputError(f"{path}: {_PRESETS}.{key} is missing")
    return parser.get(_PRESETS, key, raw=True).strip()


def _positive(parser: configparser.ConfigParser, key: str, path: Path) -> int:
    text = _preset(parser, key, path)
    if not text.isdecimal() or int(text) < 1:
        raise InvalidInputError(f"{path}: {_PRESETS}.{key}: {text!r} must be a positive integer")
    return int(text)


def _switch(parser: configparser.ConfigParser, key: str, path: Path) -> bool:
    try:
        return parser.getboolean("sparsity", key, fallback=False)
    except ValueError as error:
        raise InvalidInputError(f"{path}: sparsity.{key}: must be true or false ({error})") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: holds bytes that are no text; check the path") from error


def _integers(cells: list[str], fields: tuple[str, ...], where: str) -> list[int]:
    values = []
    for position, field in enumerate(fields, 1):
        if len(cells) <= position or not cells[position]:
            raise InvalidInputError(f"{where}: field {field!r} (column {position + 1}) is missing")
        try:
            value = int(cells[position])
        except ValueError:
            value = 0
        if value < 1:
            raise InvalidInputError(
                f"{where}: {field} = {cells[position]!r} (column {position + 1}) must be a positive integer"
            )
        values.append(value)
    return values


def _unique(name: str, layers: list[Conv2d | Gemm]) -> str:
    taken, unique = {layer.name for layer in layers}, name
    for number in itertools.count(len(layers)):
        if unique not in taken:
            break
        unique = f"{name}#{number}"
    return unique


def _gemm(name: str, values: list[int]) -> Gemm:
    m, n, k = values
    return Gemm(name=name, m=m, n=n, k=k)


def _convolution(name: str, values: list[int]) -> Conv2d:
    height, width, r, s, c, k, stride = values
    if r > height or s > width:
        raise InvalidInputError(f"filter {r} x {s} is larger than the ifmap {height} x {width}")
    p, q = (-(-(size - kernel + stride) // stride) for size, kernel in ((height, r), (width, s)))
    return Conv2d(name=name, k=k, c=c, p=p, q=q, r=r, s=s, stride=(stride, stride), input_size=(height, width))


def _structure(ratio: str, where: str) -> KofN:
    try:
        k, n = (int(part) for part in ratio.split(":"))
        return KofN(granularity="weight", k=k, n=n)
    except ValueError as error:
        raise InvalidInputError(f"{where}: sparsity {ratio!r} must read N:M with 1 <= N <= M, as in 2:4") from error
