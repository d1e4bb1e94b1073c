"""Comparison with Sparseloop's sparse tensor core: four ResNet-50 layers, dense and 2:4 (MICRO 2022, Fig. 15).

The machine (artifact, `STC-RF2x-24-bandwidth`): 4 subpartitions x 16 x 16 multipliers, so 64 output channels by 16
products of the reduction a cycle; weights A stand in the PEs, inputs B stream past, 128 of them a tile; a shared
memory that reads 42 words of 8 bit a cycle. With 2:4 weights the 16 products come from 32 positions: the kept weights
are a blocked 2:4 format (2 index bits each), all 32 inputs are read and each PE picks its own. Cycles are the larger of
compute and shared-memory reads; every block keeps 2, so lanes are never out of balance and the halves are exact.

The file gives cycles by layer number only. The four shapes are those of the artifact; which of its two layers of equal
work is number 1 and which 4 is not told, and makes no difference to cycles. `--data` files may add columns M, K, N.
Not modelled, as in the reference: DRAM (its 32 words a cycle never bind there), fill and drain.
"""

from __future__ import annotations

from pathlib import Path

from accel_models.errors import InvalidInputError
from accel_models.formats import BlockedNM
from accel_models.layers import Gemm
from accel_models.validation.data import reference_file
from accel_models.validation.published import column, read_rows
from accel_models.validation.result import Figures, ValidationResult, summarize

NAME = "stc"
SOURCE = "Wu, Tsai, Parashar, Sze, Emer, MICRO 2022, Fig. 15 (figures: its artifact, fig15_stc_related_setup)"

CHANNELS, PRODUCTS, COLUMNS = 64, 16, 128
"""Output channels and products of the reduction a cycle; inputs that stream past one set of weights."""
SHARED_MEMORY_WORDS = 42
"""Words of 8 bit that the shared memory reads a cycle."""
WORD_BITS = 8
KEPT, BLOCK = 2, 4
LAYERS = {1: (512, 1024, 256), 2: (512, 128, 1024), 3: (128, 1152, 1024), 4: (512, 256, 1024)}
"""M output channels, K reduction, N output pixels."""
SHAPE = ("M", "K", "N")
QUANTITIES = ("TC_cycles", "STC_2to4_cycles")


def validate(path: Path | None = None, cases: int | None = 20) -> ValidationResult:
    """Compare the cycles of every layer, dense and 2:4; equality is expected.

    Parameters
    ----------
    path : Path, optional
        A CSV file with the columns layer, TC_cycles, STC_2to4_cycles (and M, K, N for other layers).
    cases : int or None
        Cases to keep, the worst first; None: all, two a layer.

    Raises
    ------
    InvalidInputError
        No such file, an unreadable field, or a layer whose shape is not known; names file and layer.
    """
    file = reference_file("published/stc_fig15_resnet50.csv", SOURCE, path)
    rows = read_rows(file, QUANTITIES, texts=("layer",), optional=SHAPE)
    layers = [_layer(row, file) for row in rows]
    model = {
        "TC_cycles": [tensor_core_cycles(layer) for layer in layers],
        "STC_2to4_cycles": [tensor_core_cycles(layer, BlockedNM(KEPT, BLOCK)) for layer in layers],
    }
    names = [layer.name for layer in layers]
    figures = [
        Figures(quantity=name, cases=names, reference=column(rows, name), model=model[name], exact=True)
        for name in QUANTITIES
    ]
    passed = all(figure.compare().exact_share == 1.0 for figure in figures)
    return summarize(NAME, SOURCE, figures, passed=passed, cases=cases)


def tensor_core_cycles(layer: Gemm, fmt: BlockedNM | None = None) -> int:
    """Cycles of a product whose B (weights) are dense, or stored n:m and skipped.

    Parameters
    ----------
    layer
        M output pixels, N output channels, K reduction.
    fmt
        Blocks of the weights along K; None: dense.
    """
    kept, block = (fmt.kept, fmt.block) if fmt else (1, 1)
    stored = layer.k // block * kept + min(layer.k % block, kept)
    steps = -(-layer.n // CHANNELS) * -(-stored // PRODUCTS)
    compute = steps * layer.m
    inputs = layer.m * PRODUCTS * block // kept  # words that one step's weights choose from
    weights = CHANNELS * PRODUCTS * -(-layer.m // COLUMNS)
    metadata = fmt.worst_bits(1, PRODUCTS * block // kept, WORD_BITS).metadata if fmt else 0
    metadata_words = CHANNELS * metadata * -(-layer.m // COLUMNS) / WORD_BITS
    reads = steps * (inputs + weights + metadata_words)
    return max(compute, int(-(-reads // SHARED_MEMORY_WORDS)))


def _layer(row: dict[str, float | str], path: Path) -> Gemm:
    name = str(row["layer"])
    if all(axis in row for axis in SHAPE):
        m, k, n = (int(float(row[axis])) for axis in SHAPE)
    elif name.isdigit() and int(name) in LAYERS:
        m, k, n = LAYERS[int(name)]
    else:
        raise InvalidInputError(f"{path}: layer {name!r} has no known shape; add columns M, K, N or use {list(LAYERS)}")
    return Gemm(name=name, m=n, n=m, k=k)  # their weights are the left matrix
