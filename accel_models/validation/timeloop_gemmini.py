"""Comparison with Timeloop + Accelergy on Gemmini-like arrays (data set of ucb-bar/dosa, 40 nm).

Cycles come from the loop-nest analysis under the convention ``timeloop``, energy from the same counts and the data
set's prices. Nothing here is fitted to rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel_models.errors import InvalidInputError
from accel_models.importers.timeloop import DosaRow, read_dosa
from accel_models.kernels.loopnest import FILLS, SENDS, UPDATES
from accel_models.loopnest import count_batch
from accel_models.mapping import check_mapping
from accel_models.validation.data import reference_file
from accel_models.validation.result import Figures, ValidationResult, summarize

NAME = "timeloop_gemmini"
SOURCE = "Timeloop + Accelergy, 40 nm: ucb-bar/dosa, data/timeloop_dataset (BSD-2)"

DRAM, SCRATCHPAD, ACCUMULATOR, REGISTER = range(4)
WEIGHT, INPUT, OUTPUT = range(3)

DRAM_BANDWIDTH = 8
"""8-bit words a cycle, reads and writes together; the data set has no column for it."""
MAC_PJ = 0.5608
ACCESS_PJ = 0.4874372
"""Of one byte, read or write, of a memory of no capacity..."""
ACCESS_PJ_PER_BYTE = 2.453668e-5
"""... and what each byte of its capacity adds."""
DRAM_BLOCK_BYTES = 64
DRAM_BLOCK_PJ = 6400.0
"""Of one started block. Prices: the data set's own energy column, which they reproduce to its printed digits."""

EXACT_BAR = 0.999
ENERGY_BAR = 1e-4


def validate(path: Path | None = None, cases: int | None = 20) -> ValidationResult:
    """Compare cycles and energy of every row.

    Parameters
    ----------
    path : Path, optional
        A CSV file in the columns of the data set; by default the public rows beside the project.
    cases : int or None
        Cases to keep, the worst first; None: all, two a row.

    Raises
    ------
    InvalidInputError
        No such file, or a row that cannot be read; names file, line and field.
    """
    path = reference_file("timeloop_gemmini/public.csv.gz", SOURCE, path)
    rows = read_dosa(path)
    if not rows:
        raise InvalidInputError(f"{path}: no rows")
    _check(rows, path)
    counts = count_batch([row.shape for row in rows], [row.mapping for row in rows], "timeloop")
    names = [str(i) for i in range(len(rows))]
    cycles = Figures(
        quantity="cycles",
        cases=names,
        reference=np.array([row.cycles for row in rows]),
        model=model_cycles(rows, counts),
        exact=True,
    )
    energy = Figures(
        quantity="energy_uj",
        cases=names,
        reference=np.array([row.energy_uj for row in rows]),
        model=model_energy_uj(rows, counts),
    )
    passed = cycles.compare().exact_share >= EXACT_BAR and energy.compare().mean_abs_error <= ENERGY_BAR
    return summarize(NAME, SOURCE, [cycles, energy], passed=passed, cases=cases)


def model_cycles(rows: list[DosaRow], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cycles as Timeloop computes them, in its floating-point order (a ceil makes the last bit count).

    Every level slows the computation down by bandwidth / demand, demand being summed over operands in words a cycle,
    reads first.
    """
    steps, columns = _steps(rows), _columns(rows)
    cycles = steps.copy()
    bandwidths = (
        (DRAM, np.full(len(rows), DRAM_BANDWIDTH), np.ones(len(rows), np.int64)),
        (SCRATCHPAD, np.array([row.scratchpad_bandwidth for row in rows]), np.ones(len(rows), np.int64)),
        (ACCUMULATOR, np.array([row.accumulator_bandwidth for row in rows]), columns),
    )
    for level, bandwidth, instances in bandwidths:
        reads, writes = np.zeros(len(rows)), np.zeros(len(rows))
        for operand in (WEIGHT, INPUT, OUTPUT):
            c = counts[:, level, operand]
            reads += c[:, SENDS] / instances / steps
            writes += (c[:, UPDATES] + c[:, FILLS]) / instances / steps
        slowdown = np.minimum(1.0, bandwidth / np.maximum(writes + reads, 1e-300))
        cycles = np.maximum(cycles, np.ceil(steps / slowdown).astype(np.int64))
    return cycles


def model_energy_uj(rows: list[DosaRow], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Counts x prices; DRAM and scratchpad are paid per started block of one operand and direction."""
    row_bytes = np.array([row.scratchpad_row_bytes for row in rows])
    scratchpad_bytes = np.array([row.scratchpad_bytes for row in rows])
    accumulator_bytes = np.array([row.accumulator_bytes for row in rows])
    word_bytes = np.array([row.accumulator_word_bytes for row in rows])
    macs = np.array([row.shape.macs for row in rows])

    registers = counts[:, REGISTER, WEIGHT, SENDS] + counts[:, REGISTER, WEIGHT, FILLS]
    sums = counts[:, ACCUMULATOR, OUTPUT, [SENDS, FILLS, UPDATES]].sum(axis=1)
    scratchpad = _blocks(counts[:, SCRATCHPAD], row_bytes) * row_bytes
    dram = _blocks(counts[:, DRAM], np.full(len(rows), DRAM_BLOCK_BYTES))
    picojoules = (
        macs * MAC_PJ
        + registers * _access_pj(np.ones(len(rows)))
        + sums * word_bytes * _access_pj(accumulator_bytes)
        + scratchpad * _access_pj(scratchpad_bytes)
        + dram * DRAM_BLOCK_PJ
    )
    return picojoules * 1e-6


def _access_pj(capacity_bytes: ArrayLike) -> NDArray[np.float64]:
    return ACCESS_PJ + ACCESS_PJ_PER_BYTE * np.asarray(capacity_bytes, np.float64)


def _blocks(counts: NDArray[np.int64], block: NDArray[np.int64]) -> NDArray[np.int64]:
    """Started blocks of [rows, operands, fields] over all operands and directions."""
    words = counts[:, :, [SENDS, FILLS, UPDATES]].reshape(len(counts), -1)
    return (-(-words // block[:, None])).sum(axis=1)


def _steps(rows: list[DosaRow]) -> NDArray[np.int64]:
    return np.array([row.shape.macs // row.mapping.instances(4) for row in rows])


def _columns(rows: list[DosaRow]) -> NDArray[np.int64]:
    return np.array([row.mapping.instances(ACCUMULATOR) for row in rows])


def _check(rows: list[DosaRow], path: Path) -> None:
    seen = set()
    for number, row in enumerate(rows, start=2):
        key = (id(row.shape), id(row.mapping))
        if key not in seen:
            try:
                check_mapping(row.shape, row.mapping)
            except InvalidInputError as error:
                raise InvalidInputError(f"{path}, row {number}: {error}") from error
            seen.add(key)
