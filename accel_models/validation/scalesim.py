"""SCALE-Sim 3.0.0 reports against the closed forms of the systolic array: every figure must be equal.

Its own conventions are applied here and nowhere else: totals are one cycle short, stalls are taken off, output
stationary runs count A + B extra output writes per fold, and inputs of n:m sparse layers are counted at the kept
reduction length (times m / n in weight stationary: "absence of any broadcast" in its source). Percentages are compared
to 10 decimals, as it adds them up in float. Bandwidth stalls and DRAM figures are not compared: its USER mode counts
some stalls twice.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from accel_models.activity import DATAFLOW_CODES
from accel_models.errors import InvalidInputError
from accel_models.importers.scalesim import ScaleSimConfig, read_config, read_topology
from accel_models.kernels import schedules, systolic
from accel_models.layers import Conv2d, Gemm
from accel_models.sparsity import KofN
from accel_models.validation.data import reference_file
from accel_models.validation.result import Figures, ValidationResult, summarize

NAME = "scalesim"
SOURCE = "runs of SCALE-Sim 3.0.0 (PyPI scalesim==3.0.0)"
_WORD_BITS = 32
_QUANTITIES = (
    "total cycles less stalls",
    "mapping efficiency %",
    "SRAM input reads",
    "SRAM weight reads",
    "SRAM output writes",
)


def validate(path: Path | str | None = None, *, cases: int | None = 20) -> ValidationResult:
    """Compare every layer of every run below a folder.

    Parameters
    ----------
    path
        Folder of run folders, each with config.cfg, topology.csv, COMPUTE_REPORT.csv and DETAILED_ACCESS_REPORT.csv; or
        one such folder.

    Raises
    ------
    InvalidInputError
        The folder holds no run, or a report lacks a column.
    """
    root = reference_file("scalesim", SOURCE, Path(path) if path is not None else None)
    runs = sorted(file.parent for file in root.rglob("COMPUTE_REPORT.csv"))
    if not runs:
        raise InvalidInputError(f"{root}: holds no folder with a COMPUTE_REPORT.csv; give a folder of SCALE-Sim runs")
    names: list[str] = []
    rows: list[tuple[tuple[float, ...], tuple[float, ...]]] = []
    storage: list[tuple[str, float, float]] = []
    for run in runs:
        for name, pair in _compare_run(run):
            names.append(name)
            rows.append(pair)
        storage += _compare_storage(run)
    reference, model = (np.array([pair[side] for pair in rows]) for side in (0, 1))
    figures = [
        Figures(quantity=quantity, cases=names, reference=reference[:, i], model=model[:, i], exact=True)
        for i, quantity in enumerate(_QUANTITIES)
    ]
    if storage:
        labels, expected, found = zip(*storage, strict=True)
        figures.append(
            Figures(quantity="sparse storage words", cases=labels, reference=expected, model=found, exact=True)
        )
    exact = all(bool(np.array_equal(np.asarray(f.reference), np.asarray(f.model))) for f in figures)
    return summarize(NAME, SOURCE, figures, passed=exact, cases=cases)


def _compare_run(run: Path) -> list[tuple[str, tuple[tuple[float, ...], tuple[float, ...]]]]:
    config, topology = read_config(run / "config.cfg"), read_topology(run / "topology.csv")
    reports = run / "COMPUTE_REPORT.csv", run / "DETAILED_ACCESS_REPORT.csv"
    compute, access = (_read_report(path) for path in reports)
    layers = topology.workload.layers
    if not len(layers) == len(compute) == len(access):
        raise InvalidInputError(f"{run}: {len(layers)} layers, {len(compute)} and {len(access)} report rows")
    pairs = []
    for layer, c, a in zip(layers, compute, access, strict=True):
        assert isinstance(layer, Conv2d | Gemm)
        structure = topology.structures.get(layer.name) if config.sparse else None
        reported = _reported(c, a, reports)
        pairs.append((f"{run.name}/{layer.name}", (reported, modelled(layer, structure, config))))
    return pairs


def _reported(compute: dict[str, str], access: dict[str, str], paths: tuple[Path, Path]) -> tuple[float, ...]:
    return (
        _number(compute, "Total Cycles", paths[0]) - _number(compute, "Stall Cycles", paths[0]),
        round(_number(compute, "Mapping Efficiency %", paths[0]), 10),
        round(_number(access, "SRAM IFMAP Reads", paths[1]), 6),
        _number(access, "SRAM Filter Reads", paths[1]),
        _number(access, "SRAM OFMAP Writes", paths[1]),
    )


def _number(row: dict[str, str], column: str, path: Path) -> float:
    if column not in row:
        raise InvalidInputError(f"{path}: column {column!r} is missing; there are {', '.join(row)}")
    try:
        return float(row[column])
    except ValueError as error:
        raise InvalidInputError(f"{path}: column {column!r}: {row[column]!r} is no number") from error


def modelled(layer: Conv2d | Gemm, structure: KofN | None, config: ScaleSimConfig) -> tuple[float, ...]:
    """The figures of one layer in SCALE-Sim's conventions: cycles, mapping efficiency in %, reads and writes."""
    gemm = layer.as_gemm()
    k = gemm.k if structure is None else structure.kept_per_row(layer)
    product, machine = _plain_product(gemm, k), _plain_machine(config)
    traffic = schedules.cheapest_schedule(product, machine, systolic.Prices(1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    row_folds, column_folds, t = systolic.fold_counts(product, machine)
    folds = row_folds * column_folds
    useful = gemm.m * gemm.n * k / t
    writes = traffic.output_writes
    if config.dataflow == "output_stationary":
        writes += folds * (config.rows + config.cols)
    reads = float(traffic.input_reads)
    if structure is not None and config.dataflow == "weight_stationary":
        reads = round(reads * structure.n / structure.k, 6)
    efficiency = round(useful / (folds * config.rows * config.cols) * 100, 10)
    return traffic.compute_cycles - 1, efficiency, reads, traffic.weight_reads, writes


def _plain_product(gemm: Gemm, k: int) -> systolic.Product:
    return systolic.Product(
        m=gemm.m,
        n=gemm.n,
        k=k,
        k_dense=k,
        groups=1,
        input_rows=gemm.m,
        row_elements=gemm.k,
        out_width=1,
        out_rows=gemm.m,
        stride=1,
        window=1,
        images=1,
        input_bits=_WORD_BITS,
        column_bits=k * _WORD_BITS,
        output_bits=_WORD_BITS,
        psum_bits=_WORD_BITS,
    )


def _plain_machine(config: ScaleSimConfig) -> systolic.Machine:
    """Buffers that hold everything: its SRAM sizes change stalls and DRAM traffic, not the figures compared."""
    plenty = 2**60
    return systolic.Machine(
        rows=config.rows,
        cols=config.cols,
        dataflow=DATAFLOW_CODES[config.dataflow],
        input_capacity=plenty,
        weight_capacity=plenty,
        output_capacity=plenty,
        input_port=plenty,
        weight_port=plenty,
        output_port=plenty,
        dram_bits_per_cycle=float(plenty),
    )


def _compare_storage(run: Path) -> list[tuple[str, float, float]]:
    """ELLPACK storage of n:m sparse filters in words: kept values and ceil(log2 m) bits for each."""
    path = run / "SPARSE_REPORT.csv"
    if not path.exists():
        return []
    topology, report, rows = read_topology(run / "topology.csv"), _read_report(path), []
    layers = topology.workload.layers
    if len(layers) != len(report):
        raise InvalidInputError(f"{run}: {len(layers)} layers, {len(report)} rows in {path.name}")
    for layer, row in zip(layers, report, strict=True):
        assert isinstance(layer, Conv2d | Gemm)
        structure = topology.structures.get(layer.name)
        if structure is None:
            raise InvalidInputError(f"{run}: layer {layer.name!r} of {path.name} has no sparsity in topology.csv")
        outputs, kept = layer.as_gemm().n, structure.kept_per_row(layer)
        words = outputs * (kept + structure.index_bits_per_row(layer) / _WORD_BITS)
        reported = _number(row, "New Storage (Filter+Metadata)", path)
        rows.append((f"{run.name}/{layer.name}", reported, words))
    return rows


def _read_report(path: Path) -> list[dict[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: holds bytes that are no text; check the path") from error
    return [{key.strip(): (value or "").strip() for key, value in row.items() if key} for row in csv.DictReader(lines)]
