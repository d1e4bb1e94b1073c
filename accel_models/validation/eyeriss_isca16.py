"""Comparison with Eyeriss, ISCA 2016, Fig. 10: energy of AlexNet's layers by component, in units of a MAC.

The mapping of every layer is found by the row-stationary optimiser, in the space that the paper describes: sets folded
only as far as the array is too small, factors that divide, partial sums on chip until they are complete. Prices and
counting are those of the paper: a move is paid where it is read. Nothing is fitted to rows.
"""

from __future__ import annotations

import csv
from pathlib import Path

from accel_models.errors import InvalidInputError
from accel_models.layers import Conv2d
from accel_models.row_stationary import (
    RowStationaryArray,
    RowStationaryPrices,
    RowStationaryResult,
    optimal_mapping,
)
from accel_models.validation.data import reference_file
from accel_models.validation.result import Figures, ValidationResult, summarize

NAME = "eyeriss_isca16"
SOURCE = "Chen, Emer, Sze, ISCA 2016, Fig. 10 (figures: stanford-mast/nn_dataflow, test_eyeriss_isca16)"

BATCH = 16
ARRAY = RowStationaryArray(name="Eyeriss ISCA'16", rows=16, cols=16, rf_bytes=512, glb_bytes=128 * 1024)
"""256 PEs with 512 B, 128 kB GLB, 16 bit: the configuration of the figure."""
PRICES = RowStationaryPrices(mac=1, rf=1, noc=2, glb=6, dram=200, fills=False)
"""Table IV of the paper, relative to a MAC."""
UNIT = 1e9
TOLERANCE = 0.1
"""Of an entry, in `UNIT`."""
COLUMNS = {"alu_1e9": "mac", "dram_1e9": "dram", "rf_1e9": "rf"}


def alexnet(batch: int) -> dict[str, Conv2d]:
    """AlexNet's layers as Eyeriss runs them: conv2, 4 and 5 in two groups; fully connected ones as convolutions."""
    return {
        name: Conv2d(name=name, n=batch, k=k, c=c, p=p, q=p, r=r, s=r, stride=(stride, stride), groups=groups)
        for name, k, c, p, r, stride, groups in (
            ("conv1", 96, 3, 55, 11, 4, 1),
            ("conv2", 256, 96, 27, 5, 1, 2),
            ("conv3", 384, 256, 13, 3, 1, 1),
            ("conv4", 384, 384, 13, 3, 1, 2),
            ("conv5", 256, 384, 13, 3, 1, 2),
            ("fc1", 4096, 256, 1, 6, 1, 1),
            ("fc2", 4096, 4096, 1, 1, 1, 1),
            ("fc3", 1000, 4096, 1, 1, 1, 1),
        )
    }


def validate(path: Path | None = None, cases: int | None = 20) -> ValidationResult:
    """Compare ALU, DRAM and register-file energy of every layer; all must lie within `TOLERANCE`.

    Parameters
    ----------
    path : Path, optional
        A CSV file with the columns layer, alu_1e9, dram_1e9, rf_1e9; by default the one beside the project.
    cases : int or None
        Cases to keep, the worst first; None: all, three a layer.

    Raises
    ------
    InvalidInputError
        No such file, a missing or unreadable field, or a layer that AlexNet does not have; names file and line.
    """
    rows = read_table(reference_file("published/eyeriss_isca16_fig10_alexnet_energy.csv", SOURCE, path), COLUMNS)
    layers = alexnet(BATCH)
    results = {name: map_layer(layers[name]) for name in rows}
    figures = [
        Figures(
            quantity=column,
            cases=list(rows),
            reference=[row[column] for row in rows.values()],
            model=[results[name].energy[component] / UNIT for name in rows],
        )
        for column, component in COLUMNS.items()
    ]
    passed = all(
        abs(results[name].energy[component] / UNIT - row[column]) <= TOLERANCE
        for name, row in rows.items()
        for column, component in COLUMNS.items()
    )
    return summarize(NAME, SOURCE, figures, passed=passed, cases=cases)


def map_layer(layer: Conv2d) -> RowStationaryResult:
    """The mapping of least energy in the paper's space."""
    return optimal_mapping(layer, ARRAY, PRICES)


def read_table(path: Path, columns: dict[str, str]) -> dict[str, dict[str, float]]:
    """Rows of a CSV file by layer of AlexNet, the named columns as numbers."""
    known = alexnet(1)
    rows: dict[str, dict[str, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            name = row.get("layer")
            if name not in known:
                raise InvalidInputError(f"{path}, line {line}: layer {name!r}; AlexNet has {', '.join(known)}")
            rows[name] = {column: _number(row, column, path, line) for column in columns}
    if not rows:
        raise InvalidInputError(f"{path}: no rows")
    return rows


def _number(row: dict[str, str], column: str, path: Path, line: int) -> float:
    try:
        return float(row[column])
    except (KeyError, TypeError, ValueError):
        raise InvalidInputError(f"{path}, line {line}: {column} = {row.get(column)!r} is not a number") from None
