"""Comparison with Sparseloop's Eyeriss on sparse AlexNet, batch 4 (MICRO 2022, Table 7): computes and cycles.

What runs (artifact, `table7_eyeriss_setup`): 12 x 14 PEs, row stationary, weights read from a scratch pad that is
gated where the input is zero; inputs and outputs cross DRAM as run lengths of 5 bit. From the artifact's files come the
layer shapes (rows padded so that they divide: P = Q = 56 for 55 in conv1, 28 for 27 in conv2), how each mapping spreads
(conv1: 7 output columns x 2 sets of filters x 11 filter rows; conv2: 14 columns x 2 channels x 5 rows; conv3 to conv5:
13 columns x 4 sets of filters x 3 rows), that conv1, whose input is an image, is not gated, and 2 words a cycle out of
the weight scratch pad.

The mechanism: zeros are uniform, so a product is computed with the chance that its input is not zero. A gated product
takes no turn of the multiplier, but its (gated) weight read still takes the port's: cycles are the larger of computes
and half of all products, over the PEs in use. That a gated product leaves the multiplier free for the next one is
Sparseloop's convention, kept here because its figures are the reference; the chip itself gates without going faster.
The other ports never bind: the largest, the global buffer's, asks for at most 0.84 of the weight port's cycles (conv4
and conv5), whatever the densities. Energy is not compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from accel_models.errors import InvalidInputError
from accel_models.layers import Conv2d
from accel_models.validation.data import reference_file
from accel_models.validation.published import check_range, column, read_rows
from accel_models.validation.result import Figures, ValidationResult, summarize

NAME = "sparseloop_eyeriss"
SOURCE = "Wu, Tsai, Parashar, Sze, Emer, MICRO 2022, Table 7 (figures: its artifact, table7_eyeriss_setup/ref_outputs)"

BATCH = 4
WEIGHT_READS_PER_CYCLE = 2
"""Words that the weight scratch pad of a PE reads a cycle."""
BAR = 0.02
QUANTITIES = ("algorithmic_computes", "actual_computes", "cycles")


@dataclass(frozen=True, kw_only=True)
class MappedLayer:
    """A layer and what its mapping in the artifact says of the array."""

    layer: Conv2d
    pes: int
    """In use at a time."""
    gated: bool


def _mapped(name: str, k: int, c: int, out: int, taps: int, pes: int) -> MappedLayer:
    stride = 4 if name == "conv1" else 1
    shape = Conv2d(name=name, n=BATCH, k=k, c=c, p=out, q=out, r=taps, s=taps, stride=(stride, stride))
    return MappedLayer(layer=shape, pes=pes, gated=name != "conv1")


LAYERS = {
    mapped.layer.name: mapped
    for mapped in (
        _mapped("conv1", 96, 3, 56, 11, 7 * 2 * 11),
        _mapped("conv2", 256, 48, 28, 5, 14 * 2 * 5),
        _mapped("conv3", 384, 256, 13, 3, 13 * 4 * 3),
        _mapped("conv4", 384, 192, 13, 3, 13 * 4 * 3),
        _mapped("conv5", 256, 192, 13, 3, 13 * 4 * 3),
    )
}
"""conv2, conv4 and conv5 are one of two groups, as in the artifact."""


def validate(path: Path | None = None, cases: int | None = 20) -> ValidationResult:
    """Compare dense products, computed products and cycles of every layer.

    Parameters
    ----------
    path : Path, optional
        A CSV file with the columns layer, density_I, algorithmic_computes, actual_computes, cycles.
    cases : int or None
        Cases to keep, the worst first; None: all, three a layer.

    Raises
    ------
    InvalidInputError
        No such file, an unreadable field, an unknown layer, or a density outside (0, 1]; names file and layer.
    """
    file = reference_file("published/sparseloop_table7_eyeriss_alexnet_refoutputs.csv", SOURCE, path)
    rows = read_rows(file, ("density_I", *QUANTITIES), texts=("layer",))
    model: dict[str, list[int]] = {name: [] for name in QUANTITIES}
    for row in rows:
        mapped = _find(str(row["layer"]), file)
        density = float(row["density_I"])
        check_range(density, 0, 1, f"{file}: layer {mapped.layer.name!r}: density_I")
        model["algorithmic_computes"].append(mapped.layer.macs)
        model["actual_computes"].append(computes(mapped, density))
        model["cycles"].append(cycles(mapped, density))
    names = [str(row["layer"]) for row in rows]
    figures = [
        Figures(quantity=name, cases=names, reference=column(rows, name), model=model[name]) for name in QUANTITIES
    ]
    passed = all(figure.compare().max_abs_error <= BAR for figure in figures)
    return summarize(NAME, SOURCE, figures, passed=passed, cases=cases)


def computes(mapped: MappedLayer, input_density: float) -> int:
    """Products that the multipliers do: those whose input is not zero, rounded up."""
    return math.ceil(mapped.layer.macs * (input_density if mapped.gated else 1.0))


def cycles(mapped: MappedLayer, input_density: float) -> int:
    """The slower of multipliers and weight ports; a gated read takes its turn."""
    reads = mapped.layer.macs / WEIGHT_READS_PER_CYCLE
    return math.ceil(max(computes(mapped, input_density), reads) / mapped.pes)


def _find(name: str, path: Path) -> MappedLayer:
    if name not in LAYERS:
        raise InvalidInputError(f"{path}: layer {name!r}; the set has {', '.join(LAYERS)}")
    return LAYERS[name]
