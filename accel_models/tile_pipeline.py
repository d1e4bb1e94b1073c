"""Latency of a mapping on a tiled systolic accelerator with a DMA engine, caches and a host that issues the tiles.

Where `cost.py` assumes ideal overlap, this model walks the tiles in their order: what each one moves (rows, requests,
lines, cache misses), how long the array works on it, and when the two tiles in flight let the next one start. What the
hardware is and what its events cost stands in `library/latency/<name>.yaml`, every entry with its source.

Left out: groups and dilation, pooling, the row buffers of the DRAM, other programs on the host.
"""

from __future__ import annotations

import difflib
import itertools
import math
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel_models.accelerator import LIBRARY
from accel_models.config_files import read_yaml
from accel_models.errors import InvalidInputError, UnknownNameError
from accel_models.kernels import tile_pipeline as kernel
from accel_models.mapping import LoopShape, Mapping

TILE_DIMS = ("N", "P", "Q", "K", "R", "S", "C")
"""The dimensions that are cut into tiles, in the order of every size below."""

MAX_TILES = 2**22
"""The counts of one tile take 120 bytes."""

_LATENCY = LIBRARY / "latency"
STORE_COLUMNS = [
    kernel.STORE_REQUESTS,
    kernel.STORE_REPEATS,
    kernel.STORE_L2_MISSES,
    kernel.STORE_LLC_MISSES,
]
LOAD_COLUMNS = [
    kernel.LOAD_REQUESTS,
    kernel.LOAD_BEATS,
    kernel.LOAD_LINES,
    kernel.LOAD_L2_MISSES,
    kernel.LOAD_LLC_MISSES,
    kernel.ZERO_ROWS,
]
"""Counts without which a tile moves nothing out or in."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One calibrated or sourced number.

    Parameters
    ----------
    value : float, >= 0
    unit, meaning, source : str
    """

    value: float
    unit: str
    meaning: str
    source: str

    def __post_init__(self) -> None:
        if not isinstance(self.value, int | float) or not 0 <= self.value < math.inf:
            raise InvalidInputError(f"value = {self.value!r} must be a number of at least 0")


@dataclass(frozen=True, kw_only=True)
class TileMachine:
    """Hardware facts (integers) and event costs (cycles) of one machine, by name.

    The names of `hardware` are the fields of `kernels.tile_pipeline.Hardware`, those of `costs` the fields of `Costs`.
    """

    name: str
    hardware: dict[str, Constant]
    costs: dict[str, Constant]

    def __post_init__(self) -> None:
        _check_names(f"{self.name}: hardware", self.hardware, kernel.Hardware._fields)
        _check_names(f"{self.name}: costs", self.costs, kernel.Costs._fields)
        for field, fact in self.hardware.items():
            if not isinstance(fact.value, int) or fact.value < 1:
                raise InvalidInputError(
                    f"{self.name}: hardware.{field} = {fact.value!r} must be an integer, at least 1"
                )
        for wide, narrow in (("dma_bytes", "beat_bytes"), ("line_bytes", "beat_bytes")):
            ratio = self.hardware[wide].value / self.hardware[narrow].value
            if not ratio.is_integer() or int(ratio).bit_count() != 1:
                raise InvalidInputError(f"{self.name}: hardware.{wide} must be a power of two times {narrow}")

    @property
    def hardware_values(self) -> kernel.Hardware:
        return kernel.Hardware(*(int(self.hardware[name].value) for name in kernel.Hardware._fields))

    @property
    def cost_values(self) -> kernel.Costs:
        return kernel.Costs(*(float(self.costs[name].value) for name in kernel.Costs._fields))


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """A layer, cut into tiles that run one after the other.

    Parameters
    ----------
    extents, tile : int [7], >= 1
        Of the layer and of a full tile, in the order of `TILE_DIMS`; the last tile of a loop may be smaller.
    order : str
        The dimensions from the outermost loop to the innermost.
    input_size : (int, int), >= 1
        Height and width of the input without padding.
    stride, padding : (int, int)
    matrix : bool
        Runs as a matrix product: one row of outputs (P = R = S = 1), no clearing of the accumulators.
    """

    extents: tuple[int, ...]
    tile: tuple[int, ...]
    order: tuple[str, ...]
    input_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    matrix: bool = False

    def __post_init__(self) -> None:
        for name in ("extents", "tile"):
            values = getattr(self, name)
            if len(values) != len(TILE_DIMS) or any(value < 1 for value in values):
                raise InvalidInputError(f"{name} = {values} must be seven integers of at least 1: {TILE_DIMS}")
        if sorted(self.order) != sorted(TILE_DIMS):
            raise InvalidInputError(f"order = {self.order} must name each of {', '.join(TILE_DIMS)} once")
        for name, least in (("input_size", 1), ("stride", 1), ("padding", 0)):
            if len(getattr(self, name)) != 2 or any(value < least for value in getattr(self, name)):
                raise InvalidInputError(f"{name} = {getattr(self, name)} must be two integers of at least {least}")
        if self.matrix and (self.extents[1], self.extents[4], self.extents[5], self.stride) != (1, 1, 1, (1, 1)):
            raise InvalidInputError(f"matrix product with extents {self.extents}: P, R, S and the strides must be 1")
        if self.tiles > MAX_TILES:
            raise InvalidInputError(f"{self.tiles} tiles of {self.tile} exceed {MAX_TILES}; take larger tiles")

    @property
    def tiles(self) -> int:
        return math.prod(-(-extent // step) for extent, step in zip(self.extents, self.tile, strict=True))


@dataclass(frozen=True, kw_only=True)
class TileLatency:
    """Cycles of a plan, and how long each resource was busy; busy times overlap.

    `stall_cycles` is what the array waited: for loads, stores, the host or the start.
    """

    cycles: float
    compute_cycles: float
    load_cycles: float
    store_cycles: float
    host_cycles: float
    tiles: int

    @property
    def stall_cycles(self) -> float:
        return self.cycles - self.compute_cycles


def plan_tiles(shape: LoopShape, mapping: Mapping, padding: tuple[int, int] = (0, 0)) -> TilePlan:
    """Tiles of a mapping: one for each iteration of the loops of its outermost level.

    Parameters
    ----------
    shape : LoopShape
        Without groups and dilation. P = R = S = 1 with strides of 1 runs as a matrix product.
    mapping : Mapping
    padding : (int, int), >= 0
        Rows above and below, columns left and right.

    Raises
    ------
    InvalidInputError
        Groups or dilation; more than `MAX_TILES` tiles.
    """
    if shape.G != 1 or shape.dilation != (1, 1):
        raise InvalidInputError(f"G = {shape.G}, dilation = {shape.dilation}: the tile pipeline knows neither")
    extents, tile = shape.extents, mapping.tile_extents(1)
    size = [
        max(1, (shape.extents[out] - 1) * stride + shape.extents[tap] - 2 * pad)
        for out, tap, stride, pad in zip("PQ", "RS", shape.stride, padding, strict=True)
    ]
    return TilePlan(
        extents=tuple(extents[dim] for dim in TILE_DIMS),
        tile=tuple(tile[dim] for dim in TILE_DIMS),
        order=tile_order(mapping),
        input_size=(size[0], size[1]),
        stride=shape.stride,
        padding=padding,
        matrix=shape.P == shape.R == shape.S == 1 and shape.stride == (1, 1),
    )


def tile_order(mapping: Mapping) -> tuple[str, ...]:
    """Loops of the outermost level, outermost first; dimensions without one stand outside of them."""
    loops = [loop.dim for loop in mapping.loops[0] if not loop.spatial and loop.dim in TILE_DIMS]
    inner = tuple(dict.fromkeys(loops))
    return tuple(dim for dim in TILE_DIMS if dim not in inner) + inner


def measure_tiles(plan: TilePlan, machine: TileMachine) -> NDArray[np.int64]:
    """Counts of every tile, [tiles, kernels.tile_pipeline.COUNTS]; they depend on the hardware, not on the costs."""
    layer = kernel.Layer(*plan.input_size, *plan.stride, *plan.padding, plan.matrix)
    order = [TILE_DIMS.index(dim) for dim in plan.order]
    limits, steps, loops = (np.array(values, np.int64) for values in (plan.extents, plan.tile, order))
    return kernel.measure_tiles(limits, steps, loops, layer, machine.hardware_values)


def tile_latency(
    plan: TilePlan, machine: TileMachine, counts: NDArray[np.int64] | None = None, costs: kernel.Costs | None = None
) -> TileLatency:
    """Cycles of a plan on a machine; `counts` (of `measure_tiles`) and `costs` may be given to try other costs."""
    counts = measure_tiles(plan, machine) if counts is None else counts
    out = kernel.run_pipeline(counts, plan.matrix, machine.hardware_values, costs or machine.cost_values)
    return TileLatency(
        cycles=float(out[kernel.CYCLES]),
        compute_cycles=float(out[kernel.COMPUTE]),
        load_cycles=float(out[kernel.LOAD]),
        store_cycles=float(out[kernel.STORE]),
        host_cycles=float(out[kernel.HOST]),
        tiles=len(counts),
    )


def stall_causes(plan: TilePlan, machine: TileMachine, steps: int) -> dict[str, int]:
    """Cycles of a plan beyond `steps` of computing, by cause; what each costs is what its absence would save.

    Taken away one after the other: the host's work, the stores, the loads. What is left beside `steps` is the array's
    own: short streams, preloads, issue.
    """
    counts, costs = measure_tiles(plan, machine), machine.cost_values
    times = [tile_latency(plan, machine, counts).cycles]
    costs = costs._replace(start=0.0, host_convolution=0.0, host_matrix=0.0)
    times.append(tile_latency(plan, machine, counts, costs).cycles)
    for columns in (STORE_COLUMNS, LOAD_COLUMNS):
        counts = counts.copy()
        counts[:, columns] = 0
        times.append(tile_latency(plan, machine, counts, costs).cycles)
    whole = [max(steps, math.ceil(time)) for time in times]
    parts = zip(("host", "store", "load"), itertools.pairwise(whole), strict=True)
    return {name: before - after for name, (before, after) in parts} | {"preload": whole[-1] - steps}


@cache
def load_tile_machine(name_or_path: str | Path) -> TileMachine:
    """A machine of `library/latency`, or a YAML file of the same form.

    Raises
    ------
    UnknownNameError
        Neither a file nor a name of the library; names the nearest one.
    InvalidInputError
        A key that is missing or unknown, a value out of range; names file and field.
    """
    path = Path(name_or_path)
    if path.suffix != ".yaml":
        known = sorted(file.stem for file in _LATENCY.glob("*.yaml"))
        if str(name_or_path) not in known:
            near = difflib.get_close_matches(str(name_or_path), known, n=1, cutoff=0.0)
            raise UnknownNameError(f"latency model {str(name_or_path)!r} is not in the library; nearest: {near}")
        path = _LATENCY / f"{name_or_path}.yaml"
    data = read_yaml(path)
    try:
        return TileMachine(
            name=str(data.get("name", path.stem)),
            hardware=_constants("hardware", data.get("hardware")),
            costs=_constants("costs", data.get("costs")),
        )
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def machine_data(machine: TileMachine) -> dict[str, Any]:
    """What `load_tile_machine` reads: plain values for a YAML file."""
    parts = {"hardware": machine.hardware, "costs": machine.costs}
    return {"name": machine.name} | {
        part: {name: asdict(constant) for name, constant in constants.items()} for part, constants in parts.items()
    }


def _constants(part: str, data: object) -> dict[str, Constant]:
    if not isinstance(data, dict):
        raise InvalidInputError(f"{part}: must hold one entry for each constant")
    wanted = {field.name for field in fields(Constant)}
    for name, entry in data.items():
        if not isinstance(entry, dict) or set(entry) != wanted:
            raise InvalidInputError(f"{part}.{name}: needs exactly {', '.join(sorted(wanted))}")
    return {str(name): Constant(**entry) for name, entry in data.items()}


def _check_names(what: str, given: dict[str, Constant], wanted: tuple[str, ...]) -> None:
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or unknown:
        raise InvalidInputError(f"{what}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
