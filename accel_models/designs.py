"""evaluate_designs: one network on very many systolic designs at once, without a Python object per design.

A design is a base accelerator with other array edges, dataflow, buffer sizes, DRAM bandwidth or clock; everything else
(widths, sparse support, prices that the base replaces) stays as in the base. Figures equal those of `simulate`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel_models.accelerator import OPERANDS, Accelerator, Memory, Operand
from accel_models.activity import (
    DATAFLOW_CODES,
    count_macs,
    product_of,
    register_bits,
    registers_of,
    store_weights,
    vector_activity,
)
from accel_models.cost import price_activity
from accel_models.energy import EnergyTable, area_by_part, bank_of, energy_table, input_share, leakage_by_part
from accel_models.errors import InvalidInputError
from accel_models.kernels.designs import score_designs
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.sparsity import WeightStructure
from accel_models.workload import Workload

DESIGN = np.dtype(
    [
        ("rows", np.int64),
        ("cols", np.int64),
        ("dataflow", np.int64),
        ("input_bytes", np.int64),
        ("weight_bytes", np.int64),
        ("output_bytes", np.int64),
        ("dram_bytes_per_cycle", np.float64),
        ("clock_mhz", np.float64),
    ]
)
"""One design; `dataflow` is a position in DATAFLOWS."""

SCORE = np.dtype(
    [
        ("latency_cycles", np.int64),
        ("latency_ms", np.float64),
        ("energy_pj", np.float64),
        ("area_mm2", np.float64),
        ("unmapped_layers", np.int64),
    ]
)
"""One result; latency and energy leave out layers that no schedule fits, which `unmapped_layers` counts."""

DATAFLOWS = tuple(DATAFLOW_CODES)
_BUFFERS: tuple[Operand, ...] = ("input", "weight", "output")
_LIMITS: dict[str, tuple[float, float]] = {
    "rows": (1, 2**16),
    "cols": (1, 2**16),
    "dataflow": (0, len(DATAFLOWS) - 1),
    "input_bytes": (1, 2**40),
    "weight_bytes": (1, 2**40),
    "output_bytes": (1, 2**40),
    "dram_bytes_per_cycle": (1e-3, 1e6),
    "clock_mhz": (1e-3, 1e6),
}


def designs_like(base: Accelerator, count: int) -> NDArray[Any]:
    """`count` rows of DESIGN, each the base accelerator itself."""
    capacity = {operand: base.buffer(operand).capacity_bytes for operand in OPERANDS}
    row = (
        base.pe_array.rows,
        base.pe_array.cols,
        DATAFLOWS.index(base.pe_array.dataflow),
        capacity["input"],
        capacity["weight"],
        capacity["output"],
        base.dram.bandwidth_bytes_per_cycle,
        base.clock_mhz,
    )
    return np.full(count, np.array(row, DESIGN))


def evaluate_designs(
    base: Accelerator,
    workload: Workload,
    designs: NDArray[Any],
    structures: WeightStructure | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """Score every design.

    Parameters
    ----------
    designs : DESIGN[D]
    threads
        As many as cores by default.

    Returns
    -------
    SCORE[D]

    Raises
    ------
    InvalidInputError
        The base is not systolic or keeps outputs on chip, or a field is out of range: names field, row and range.
    """
    check_base(base)
    _check(designs)
    products, fixed, repeats = _layer_table(base, workload, structures or {})
    machines, prices, area = _machine_table(base, designs)
    out = np.zeros((len(designs), 3))
    bits = 8.0 * designs["dram_bytes_per_cycle"]
    _in_threads(
        threads or os.cpu_count() or 1,
        len(designs),
        lambda start, stop: score_designs(products, fixed, repeats, machines, bits, prices, start, stop, out),
    )
    scores = np.zeros(len(designs), SCORE)
    scores["latency_cycles"], scores["energy_pj"], scores["unmapped_layers"] = out[:, 0], out[:, 1], out[:, 2]
    _add_vector_work(scores, base, workload, designs, prices)
    scores["latency_ms"] = scores["latency_cycles"] / (designs["clock_mhz"] * 1e3)
    scores["area_mm2"] = area
    return scores


def check_base(base: Accelerator) -> None:
    """Refuse an accelerator whose designs cannot be scored at once."""
    if not base.systolic:
        raise InvalidInputError(
            f"accelerator {base.name!r}: many designs at once need a systolic dataflow, not {base.pe_array.dataflow}; "
            "simulate them one by one"
        )
    for field in ("keep_outputs", "area"):
        if getattr(base, field):
            raise InvalidInputError(
                f"accelerator {base.name!r}: {field} is not scored for many designs at once; leave it out"
            )


def _check(designs: NDArray[Any]) -> None:
    if designs.dtype != DESIGN:
        raise InvalidInputError(f"designs have dtype {designs.dtype}; make them with designs_like")
    for field, (least, most) in _LIMITS.items():
        values = designs[field]
        wrong = np.flatnonzero(~((values >= least) & (values <= most)))
        if len(wrong):
            raise InvalidInputError(
                f"designs[{wrong[0]}].{field} = {values[wrong[0]]} is outside {least:g} to {most:g} ({len(wrong)} rows)"
            )


def _layer_table(
    base: Accelerator, workload: Workload, structures: WeightStructure
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Products, fixed energy and repeats of the distinct layers with weights."""
    table = energy_table(base)
    counts: dict[tuple[Any, ...], int] = {}
    for layer in workload.layers:
        if isinstance(layer, VectorOp):
            continue
        key = _layer_key(layer, base, table, structures)
        counts[key] = counts.get(key, 0) + 1
    products = np.array([key[:-1] for key in counts], np.int64).reshape(-1, 16)
    return products, np.array([key[-1] for key in counts], float), np.array(list(counts.values()), np.int64)


def _layer_key(
    layer: Conv2d | Gemm, base: Accelerator, table: EnergyTable, structures: WeightStructure
) -> tuple[Any, ...]:
    weights = store_weights(layer, structures.get(layer.name), base)
    product = product_of(layer, weights, base.pe_array.psum_bits)
    macs = count_macs(layer, weights, base)
    held = register_bits(registers_of(product, macs, base))
    mac = table.mac_pj(base.multiplier_bits(layer.bits.weight), input_share(layer, base))
    return (*product, table.array_pj(macs.done * mac, *held))


def _machine_table(
    base: Accelerator, designs: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Kernel rows of machines and prices, and the area of each design.

    Array parts are worked out once per distinct array, buffer parts once per distinct (array edge, capacity).
    """
    arrays, which = np.unique(designs[["rows", "cols", "dataflow"]], return_inverse=True)
    variants = [_with_array(base, *row.tolist()) for row in arrays]
    leakage = np.array([_chip_parts(leakage_by_part(v)) for v in variants])[which]
    area = np.array([_chip_parts(area_by_part(v)) for v in variants])[which]
    machines = np.zeros((len(designs), 9), np.int64)
    for i, field in enumerate(("rows", "cols", "dataflow")):
        machines[:, i] = designs[field]
    prices = np.zeros((len(designs), 9))
    per_bit: dict[str, NDArray[np.float64]] = {}
    for i, operand in enumerate(_BUFFERS):
        buffer = _buffer_table(variants, which, operand, designs[f"{operand}_bytes"])
        machines[:, 3 + i], machines[:, 6 + i] = 8 * designs[f"{operand}_bytes"], buffer[:, 0]
        per_bit[operand] = buffer[:, 1:3]
        leakage, area = leakage + buffer[:, 3], area + buffer[:, 4]
    table = energy_table(base).prices
    for entry in base.energy:
        _override(entry, base, per_bit)
    dram = base.dram.name
    if "leakage" in base.energy:
        leakage = np.full(len(designs), table["leakage"].value)
    columns = (
        leakage * 1e3 / designs["clock_mhz"],
        table[f"{dram}.read_bit"].value,
        per_bit["input"][:, 1],
        per_bit["weight"][:, 1],
        per_bit["weight"][:, 0],
        per_bit["input"][:, 0],
        per_bit["output"][:, 0],
        per_bit["output"][:, 1],
        table[f"{dram}.write_bit"].value,
    )
    for i, column in enumerate(columns):
        prices[:, i] = column
    return machines, prices, area


def _override(entry: str, base: Accelerator, per_bit: Mapping[str, NDArray[np.float64]]) -> None:
    """Prices of buffer accesses that the base replaces hold for every design."""
    for operand in OPERANDS:
        for i, access in enumerate(("read_bit", "write_bit")):
            if entry == f"{base.buffer(operand).name}.{access}":
                per_bit[operand][:, i] = base.energy[entry].value


def _with_array(base: Accelerator, rows: int, cols: int, dataflow: int) -> Accelerator:
    array = base.pe_array.model_copy(update={"rows": rows, "cols": cols, "dataflow": DATAFLOWS[dataflow]})
    return base.model_copy(update={"pe_array": array})


def _chip_parts(parts: Mapping[str, float]) -> float:
    """What does not hang on a buffer."""
    return parts["pe_array"] + parts["vector_unit"]


def _buffer_table(
    variants: Sequence[Accelerator], which: NDArray[np.int64], operand: Operand, capacity: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(port bits, read pJ/bit, write pJ/bit, leakage mW, area mm2) of one buffer, a row a design."""
    banks = np.array([v.banks(v.buffer(operand)) for v in variants], np.int64)[which]
    pairs, inverse = np.unique(np.stack([banks, capacity], axis=1), axis=0, return_inverse=True)
    memory = variants[0].buffer(operand)
    rows = np.array([_buffer_row(variants[0], memory, int(b), int(c)) for b, c in pairs])
    return rows[inverse.reshape(-1)]


def _buffer_row(base: Accelerator, memory: Memory, banks: int, capacity: int) -> tuple[float, ...]:
    sized = memory.model_copy(update={"banks": banks, "capacity_bytes": capacity})
    bank = bank_of(sized, base)
    width = memory.width_bits
    return banks * width, bank.read_pj / width, bank.write_pj / width, banks * bank.leakage_mw, banks * bank.area_mm2


def _add_vector_work(
    scores: NDArray[Any], base: Accelerator, workload: Workload, designs: NDArray[Any], prices: NDArray[np.float64]
) -> None:
    """Layers without weights: their traffic depends on the DRAM bandwidth alone."""
    layers = [layer for layer in workload.layers if isinstance(layer, VectorOp)]
    table = energy_table(base)
    for bandwidth in np.unique(designs["dram_bytes_per_cycle"]) if layers else ():
        dram = base.dram.model_copy(update={"bandwidth_bytes_per_cycle": float(bandwidth)})
        variant = base.model_copy(update={"memories": (dram, *base.memories[1:])})
        rows = designs["dram_bytes_per_cycle"] == bandwidth
        for layer in layers:
            activity = vector_activity(layer, variant)
            energy = price_activity(activity, variant, table)
            scores["latency_cycles"][rows] += activity.latency_cycles
            leakage = activity.latency_cycles * prices[rows, 0]
            scores["energy_pj"][rows] += sum(energy.values()) - energy["leakage"] + leakage


def _in_threads(threads: int, rows: int, work: Any) -> None:
    """Split the rows evenly; the kernel releases the interpreter."""
    cuts = np.linspace(0, rows, min(threads, max(1, rows)) + 1).astype(int)
    if len(cuts) == 2:
        work(0, rows)
        return
    with ThreadPoolExecutor(len(cuts) - 1) as pool:
        for job in [pool.submit(work, int(a), int(b)) for a, b in itertools.pairwise(cuts)]:
            job.result()
