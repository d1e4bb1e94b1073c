"""Comparison with SCNN: speed and energy against its dense twin on AlexNet, GoogLeNet and VGG, from densities.

SCNN: 8 x 8 PEs own planar tiles; for every channel a PE meets its inputs, 4 at a time, with the weights of a group of
output channels, 4 at a time; products scatter into 32 banks of accumulators; PEs wait for each other after a group.
Twin (DCNN): the same 1,024 multipliers, planar tiles too, dot products of 16 dense pairs a cycle, nothing gated.

Assumed, as the paper leaves it open or public copies do not show it: a group has as many output channels as fit the
1,024 accumulators of a PE with the tile and its halo; tiles too large for 8 of them are cut; a stride runs as
stride x stride phases of inputs and filter; products that land outside the image count; halos are exchanged behind
computation; weights arrive in time; bank conflicts of a PE over 32 channels stand for all. Weights are read from DRAM
once; activations stay on chip if they fit (compressed: 10 KiB for the inputs and for the outputs of a PE; the twin:
2 MiB for both), else DRAM is read and written. Energy: prices of this project at 45 nm for 16-bit values and 4-bit
indices (the paper: 16 nm), the same for both machines; control, clock, leakage and post-processing left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from accel_models.energy import sram, technology
from accel_models.errors import InvalidInputError
from accel_models.sparse_array import SparseCounts
from accel_models.sparse_expectation import expected_counts
from accel_models.sparse_layers import planar_tiling
from accel_models.sparse_machines import SCNN
from accel_models.validation.data import reference_file
from accel_models.validation.result import Figures, ValidationResult, summarize
from accel_models.validation.scnn_networks import NETWORKS, ScnnLayer
from accel_models.validation.table import read_numbers

NAME = "scnn"
SOURCE = "Parashar et al., SCNN, ISCA 2017, abstract and Fig. 8 (figures of single networks are not verified)"
BAR = 0.15
"""Of the averages over the three networks."""
AVERAGE = "average(AlexNet,GoogLeNet,VGG)"
SPEED, ENERGY = "speedup_vs_DCNN", "energy_gain_vs_DCNN"

EDGE = 8
"""PEs along each side of the array."""
DOT = 16
"""Pairs of a dot product of the twin."""
ACCUMULATORS = 1024
CONFLICT_CHANNELS = 32
DEVICE = "itrs-lstp"
VALUE_BITS, INDEX_BITS, SUM_BITS = 16, 4, 24
WEIGHT_FIFO_BYTES, INPUT_RAM_BYTES = 512, 10 * 1024
TWIN_RAM_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class Twin:
    """Cycles and energy of one layer on both machines."""

    sparse_cycles: float
    dense_cycles: float
    sparse_pj: float
    dense_pj: float


def validate(path: Path | None = None, cases: int | None = 20) -> ValidationResult:
    """Compare speed-up and energy gain; those of the average must lie within `BAR`.

    Parameters
    ----------
    path : Path, optional
        A CSV file with the columns workload, `SPEED` and `ENERGY` (empty: unknown); by default the one beside the
        project.
    cases : int or None
        Cases to keep, the worst first; None: all.

    Raises
    ------
    InvalidInputError
        No such file, an unreadable field, or a workload that is none of the paper's; names file and line.
    """
    file = reference_file("published/scnn_totals.csv", SOURCE, path)
    rows = read_numbers(file, "workload", (), (SPEED, ENERGY))
    gains = network_gains()
    for name, _ in rows:
        if name not in gains:
            raise InvalidInputError(f"{file}: workload {name!r}; known: {', '.join(gains)}")
    figures, passed = [], True
    for at, quantity in enumerate((SPEED, ENERGY)):
        known = [(name, row[quantity], gains[name][at]) for name, row in rows if quantity in row]
        if known:
            names, reference, model = zip(*known, strict=True)
            figures.append(Figures(quantity=quantity, cases=names, reference=reference, model=model))
            passed &= all(abs(m - r) <= BAR * r for name, r, m in known if name == AVERAGE)
    return summarize(NAME, SOURCE, figures, passed=passed, cases=cases)


def network_gains() -> dict[str, tuple[float, float]]:
    """(speed-up, energy gain) over the dense twin of every network and of their average."""
    gains = {}
    for name, layers in NETWORKS.items():
        after = [layer.input_density for layer in layers[1:]] + [layers[-1].input_density]
        runs = [layer_twin(layer, density) for layer, density in zip(layers, after, strict=True)]
        gains[name] = (
            sum(run.dense_cycles for run in runs) / sum(run.sparse_cycles for run in runs),
            sum(run.dense_pj for run in runs) / sum(run.sparse_pj for run in runs),
        )
    speed, energy = (sum(values) / len(gains) for values in zip(*gains.values(), strict=True))
    return {**gains, AVERAGE: (speed, energy)}


def layer_twin(layer: ScnnLayer, output_density: float) -> Twin:
    """One layer on SCNN and on the dense twin; outputs of this density, the next layer's."""
    outputs, channels = layer.outputs // layer.groups, layer.channels // layer.groups
    macs = layer.outputs * channels * layer.filter**2 * layer.output_size**2
    weights = layer.outputs * channels * layer.filter**2
    inputs, results = layer.channels * layer.size**2, layer.outputs * layer.output_size**2
    run, cuts, stalls = sparse_run(layer)
    positions = (-(-layer.output_size // EDGE)) ** 2
    word, ram = VALUE_BITS + INDEX_BITS, 8 * INPUT_RAM_BYTES * EDGE**2
    kept, made = inputs * layer.input_density * word, results * output_density * word
    moved = (kept if kept > ram else 0.0) + (made if made > ram else 0.0)
    both = VALUE_BITS * (inputs + results)
    return Twin(
        sparse_cycles=cuts * run.cycles * (1.0 + stalls),
        dense_cycles=positions * layer.groups * outputs * -(-channels * layer.filter**2 // DOT),
        sparse_pj=_sparse_pj(cuts, run) + _dram_pj() * (weights * layer.weight_density * word + moved),
        dense_pj=_dense_pj(macs) + _dram_pj() * (weights * VALUE_BITS + (both if both > 8 * TWIN_RAM_BYTES else 0)),
    )


def sparse_run(layer: ScnnLayer) -> tuple[SparseCounts, int, float]:
    """(counts of one cut, cuts of the planar tiles, bank conflicts as a share of the other cycles)."""
    tiling = planar_tiling(layer.convolution(), SCNN, ACCUMULATORS)
    array, shape = tiling.array, tiling.shape
    weights = layer.weight_density * layer.filter**2 / (shape.weight_unit * layer.stride**2)
    inputs = layer.input_density * tiling.fill
    run = expected_counts(replace(array, accumulator_banks=0), shape, weights, inputs, samples=2).counts
    one = replace(shape, pixels=1, groups=1, reduction=min(shape.reduction, CONFLICT_CHANNELS))
    part = expected_counts(replace(array, lane_pixels=1), one, weights, inputs, samples=2).counts
    return run, tiling.cuts, part.bank_conflict_cycles / (part.cycles - part.bank_conflict_cycles)


def _sparse_pj(cuts: int, run: SparseCounts) -> float:
    """Multiply, cross to a bank, read and write the sum there; read operands with their indices."""
    word = VALUE_BITS + INDEX_BITS
    vector = SCNN.vector_outputs * word
    fifo, ram = (sram(size, vector, 45, DEVICE).read_pj / vector for size in (WEIGHT_FIFO_BYTES, INPUT_RAM_BYTES))
    crossbar = SUM_BITS * math.log2(SCNN.accumulator_banks) * technology()["mux2_toggle"].value
    per_product = _mac_pj() + crossbar + _sum_pj()
    return cuts * (run.output_updates * per_product + word * (run.weight_reads * fifo + run.input_reads * ram))


def _dense_pj(macs: float) -> float:
    """A dot product reads 16 weights; its 16 inputs stay while weights stream; one sum is read and written."""
    vector = DOT * VALUE_BITS
    fifo = sram(WEIGHT_FIFO_BYTES, vector, 45, DEVICE).read_pj / vector
    return macs * (_mac_pj() + VALUE_BITS * fifo + _sum_pj() / DOT)


def _sum_pj() -> float:
    """Read and write a partial sum in a bank of accumulators."""
    bank = sram(ACCUMULATORS // SCNN.accumulator_banks * SUM_BITS // 8, SUM_BITS, 45, DEVICE)
    return bank.read_pj + bank.write_pj


def _mac_pj() -> float:
    tech = technology()
    return tech["multiply_8x8"].value * (VALUE_BITS / 8) ** 2 + tech["add_32"].value * SUM_BITS / 32


def _dram_pj() -> float:
    return technology()["dram_LPDDR4"].value
