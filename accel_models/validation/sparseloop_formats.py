"""Comparison with Sparseloop's first figure (MICRO 2022): a bitmask that gates against a coordinate list that skips.

The machine (artifact, `fig1_format_comparison_setup`): one 8-bit multiplier, a register of one partial sum, a buffer
for tiles of A and B (2 words in and 2 out a cycle) and a backing store (8 words out a cycle). Z[m, n] = sum over k of
A[m, k] B[n, k], 128 x 128 x 128: n outermost, then m, then k: a row of B is loaded once, a row of A for every (n, m).
Both operands are structured: every row holds density x 128 non-zeros. The paper's density labels are rounded; five
workload files hold another number, and those are what ran (`RAN`).

The mechanism. Tiles cross and lie compressed: their non-zeros and the metadata of the format, 1 bit an element or
7 + 7 bits a non-zero (row and column in the matrix, as Sparseloop has it). A pair is effectual with the product of the
densities. *Gating* reads what is not effectual without energy but in its turn; *skipping* takes no turn. Cycles are the
largest over the multiplier and every port of words / (words a cycle), metadata in words of 8 bit.

Conventions of the reference, kept: finding the pairs takes no cycles, so a skipped coordinate costs energy (its
metadata is read) but no turn; a gated product takes no turn of the multiplier, but its partial sum does at the
register. Its bookkeeping of B's bitmask in a rank of size 1, which nearly drops it, is not kept: here B's mask is
stored, loaded and read like A's (up to 1 % of the energy). Energies per access are the artifact's 45 nm table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from accel_models.formats import Bitmask, index_bits
from accel_models.validation.data import reference_file
from accel_models.validation.published import check_range, column, read_rows
from accel_models.validation.result import Figures, ValidationResult, summarize

NAME = "sparseloop_formats"
SOURCE = "Wu, Tsai, Parashar, Sze, Emer, MICRO 2022, Fig. 1 (figures: its artifact, fig1_format_comparison_setup)"

EDGE = 128
"""M, N and K."""
RAN = {0.01: 0.01171875, 0.1: 0.1015625, 0.2: 0.19921875, 0.4: 0.3984375, 0.8: 0.80078125}
"""Density label -> density in the workload file, where they differ."""
WORD_BITS = 8
METADATA_WORD_BITS = 28
"""Width of a metadata access of buffer and backing store."""
BACKING_BLOCK = 8
"""Words of an access of the backing store."""
BACKING_READS, BUFFER_READS, BUFFER_WRITES, REGISTER_WRITES = 8, 2, 2, 1
"""Words a cycle."""
CYCLE_BAR = 0.02
COLUMNS = ("bitmask_gating_cycles", "coordlist_skipping_cycles", "bitmask_uJ", "coordlist_uJ")


@dataclass(frozen=True, kw_only=True)
class Prices:
    """pJ of an access; of the artifact's ERT.yaml, the register's from its reference output (0.49 pJ to two digits)."""

    mac: float = 0.5608
    register: float = 0.4874372
    """Of the same 8-bit register in Timeloop's Gemmini set (ucb-bar/dosa), printed in full there."""
    buffer_read: float = 0.42568
    buffer_write: float = 0.58331
    buffer_gated: float = 1e-5
    buffer_metadata_read: float = 0.7383
    buffer_metadata_write: float = 1.42366
    buffer_metadata_gated: float = 2e-5
    backing_read: float = 32.2859
    backing_write: float = 26.065
    backing_metadata_read: float = 14.0361


PRICES = Prices()


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Accesses of one operand, in words of 8 bit or metadata bits."""

    fills: float
    """Non-zeros that come into the buffer."""
    fill_metadata: float
    effectual: float
    """Reads of a non-zero whose partner is none, too."""
    idle: float
    """Reads of a non-zero whose partner is zero: gated, or skipped."""
    metadata: float
    """Metadata bits read from the buffer to find the pairs."""
    metadata_gated: float


def validate(path: Path | None = None, cases: int | None = 20) -> ValidationResult:
    """Compare cycles and energy of both designs at every density, and where their energies cross.

    Passed: cycles within 2 %, and the same design cheaper at every density.

    Parameters
    ----------
    path : Path, optional
        A CSV file with the columns density_A=B, bitmask_gating_cycles, coordlist_skipping_cycles, bitmask_uJ,
        coordlist_uJ.
    cases : int or None
        Cases to keep, the worst first; None: all.

    Raises
    ------
    InvalidInputError
        No such file, an unreadable field, or a density outside (0, 1]; names file and line.
    """
    file = reference_file("published/sparseloop_fig1_format_comparison.csv", SOURCE, path)
    rows = read_rows(file, ("density_A=B", *COLUMNS))
    labels = column(rows, "density_A=B")
    for label in labels:
        check_range(label, 0, 1, f"{file}: density_A=B")
    densities = [RAN.get(label, label) for label in labels]
    model: dict[str, list[float]] = {
        COLUMNS[0]: [cycles(density, skip=False) for density in densities],
        COLUMNS[1]: [cycles(density, skip=True) for density in densities],
        COLUMNS[2]: [energy_pj(density, skip=False) * 1e-6 for density in densities],
        COLUMNS[3]: [energy_pj(density, skip=True) * 1e-6 for density in densities],
    }
    names = [f"density {label:g}" for label in labels]
    figures = [Figures(quantity=name, cases=names, reference=column(rows, name), model=model[name]) for name in COLUMNS]
    theirs = cheaper(column(rows, COLUMNS[2]), column(rows, COLUMNS[3]))
    ours = cheaper(model[COLUMNS[2]], model[COLUMNS[3]])
    crossings = _crossings(labels, rows, model)
    if crossings is not None:
        figures.append(crossings)
    passed = theirs == ours and all(figure.compare().max_abs_error <= CYCLE_BAR for figure in figures[:2])
    return summarize(NAME, SOURCE, figures, passed=passed, cases=cases)


def traffic(density: float, loads: int, *, skip: bool) -> Traffic:
    """Of an operand whose rows are loaded `loads` times, both operands having the same density."""
    products = EDGE**3
    kept = loads * EDGE * density
    if skip:
        bits = 2 * index_bits(EDGE)
        return Traffic(
            fills=kept,
            fill_metadata=kept * bits,
            effectual=products * density**2,
            idle=products * density * (1 - density),
            metadata=products * density * bits,
            metadata_gated=0.0,
        )
    mask = Bitmask().counted_bits(1, EDGE, EDGE * density, WORD_BITS).metadata
    return Traffic(
        fills=kept,
        fill_metadata=loads * mask,
        effectual=products * density**2,
        idle=products * density * (1 - density),
        metadata=products * density,  # where the partner is a non-zero; elsewhere gated
        metadata_gated=products * (1 - density),
    )


def operands(density: float, *, skip: bool) -> tuple[Traffic, Traffic]:
    """Of A, a row of which is loaded for every (n, m), and of B, once for every n."""
    return traffic(density, EDGE**2, skip=skip), traffic(density, EDGE, skip=skip)


def cycles(density: float, *, skip: bool) -> int:
    """The slowest of multiplier and ports."""
    products, outputs = EDGE**3, EDGE**2
    both = operands(density, skip=skip)
    effectual = products * density**2
    fills = sum(one.fills + one.fill_metadata / WORD_BITS for one in both)
    if skip:
        metadata_share = 1 + 2 * index_bits(EDGE) / WORD_BITS
        buffer_reads, updates = 2 * effectual * metadata_share, effectual
    else:
        buffer_reads = sum(one.effectual + one.idle + (one.metadata + one.metadata_gated) / WORD_BITS for one in both)
        updates = products
    ports = (
        effectual,
        (updates + outputs) / REGISTER_WRITES,
        fills / BUFFER_WRITES,
        buffer_reads / BUFFER_READS,
        fills / BACKING_READS,
    )
    return math.ceil(max(ports))


def energy_pj(density: float, *, skip: bool, prices: Prices = PRICES) -> float:
    """Of all accesses; skipped and gated partial sums cost nothing at the register, as in the reference."""
    products, outputs = EDGE**3, EDGE**2
    effectual = products * density**2
    register = effectual + (products - outputs) * density**2 + outputs  # updates, reads back, and the first fills
    total = effectual * prices.mac + register * prices.register + outputs / BACKING_BLOCK * prices.backing_write
    for one in operands(density, skip=skip):
        idle = 0.0 if skip else one.idle
        metadata = (
            one.fill_metadata * (prices.buffer_metadata_write + prices.backing_metadata_read)
            + one.metadata * prices.buffer_metadata_read
            + one.metadata_gated * prices.buffer_metadata_gated
        )
        total += one.fills * (prices.buffer_write + prices.backing_read / BACKING_BLOCK)
        total += one.effectual * prices.buffer_read + idle * prices.buffer_gated + metadata / METADATA_WORD_BITS
    return total


def cheaper(first: list[float], second: list[float]) -> list[bool]:
    """Whether the first design takes less energy, at every density."""
    return [a < b for a, b in zip(first, second, strict=True)]


def crossover(densities: list[float], first: list[float], second: list[float]) -> float | None:
    """Density where the two energies meet first, on straight lines between rows; None where they never do."""
    rows = sorted(zip(densities, first, second, strict=True))
    for (low, a, b), (high, c, d) in pairwise(rows):
        if (a - b) * (c - d) < 0:
            return low + (high - low) * (a - b) / ((a - b) - (c - d))
    return None


def _crossings(
    labels: list[float], rows: list[dict[str, float | str]], model: dict[str, list[float]]
) -> Figures | None:
    theirs = crossover(labels, column(rows, COLUMNS[2]), column(rows, COLUMNS[3]))
    ours = crossover(labels, model[COLUMNS[2]], model[COLUMNS[3]])
    if theirs is None or ours is None:
        return None
    return Figures(quantity="energy_crossover_density", cases=["both designs"], reference=[theirs], model=[ours])
