"""The constants of `accel_models/library/latency/gemmini_16x16.yaml`: python -m benchmarks.calibrate_gemmini [--write].

Two steps. What bounds small tiles is read off the training rows that ran on a 16x16 array (a row ran on the smallest
power of two that holds its spatial loops): host cycles of a tile, the rate of compute commands. The nine costs of the
memory system are then fitted on every second public row (lines 3, 5, ...: 49 of 99) and, with less weight, on those
training rows of convolutions that take less than 3 million cycles and 2,000 tiles (four of a layer, in file order). The
other public rows are not looked at and their error is printed. `--folds N` prints, instead, the error of layers that
were left out of the fit.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.optimize import least_squares

from accel_models.accelerator import LIBRARY
from accel_models.kernels.tile_pipeline import Costs, run_pipeline
from accel_models.mapping import LoopShape
from accel_models.tile_pipeline import TILE_DIMS, TileMachine, TilePlan, load_tile_machine, machine_data, measure_tiles
from accel_models.validation.data import reference_file
from accel_models.validation.gemmini_rtl import MACHINE, SOURCE, RtlRow, order_figures, read_rtl, tile_plan
from accel_models.validation.result import rank_correlation

Floats = NDArray[np.float64]

TRAINED = ("host_convolution", "host_matrix", "issue")
FITTED = tuple(name for name in Costs._fields if name not in TRAINED)
GUESS = Costs(
    start=1500.0,
    host_convolution=0.0,
    host_matrix=0.0,
    issue=0.0,
    line=3.5,
    load_l2_miss=3.0,
    load_llc_miss=15.0,
    store_request=3.0,
    store_repeat=15.0,
    store_l2_miss=10.0,
    store_llc_miss=50.0,
    port_share=0.3,
)
"""Where the fit starts: orders of magnitude of a cached memory system."""

SATURATION = 2.0
"""Residual: arctan(SATURATION x log error), so that single rows do not pull the constants."""

TRAINING_WEIGHT = 0.3
"""Of a training row: these arrays, and what lay in their caches, are known less well."""


class Measured:
    """Rows with their tile counts; the counts do not depend on the constants."""

    def __init__(self, rows: Sequence[RtlRow], machine: TileMachine) -> None:
        self.rows = list(rows)
        self.cycles = np.array([row.cycles for row in rows])
        self._hardware = machine.hardware_values
        self._plans = [tile_plan(row) for row in rows]
        self._counts = [measure_tiles(plan, machine) for plan in self._plans]

    def model(self, costs: Costs, which: Sequence[int]) -> Floats:
        runs = ((self._counts[i], self._plans[i].matrix, self._hardware, costs) for i in which)
        return np.array([run_pipeline(*run)[0] for run in runs])


def train(rows: Sequence[RtlRow]) -> dict[str, float]:
    """Costs that training rows show directly: no tile is faster than its host, no chunk than its commands."""
    plans = [(row, tile_plan(row)) for row in rows if _edge(row) == 16]
    per_tile = [(row.matrix, row.cycles / plan.tiles) for row, plan in plans if plan.tiles >= 1000]
    rates = sorted(row.cycles / plan.tiles / _chunks(plan) for row, plan in plans if _short(plan))
    return {
        "host_convolution": float(np.percentile([cycles for matrix, cycles in per_tile if not matrix], 10)),
        "host_matrix": float(np.percentile([cycles for matrix, cycles in per_tile if matrix], 10)),
        "issue": float(np.median(rates[:5])),
    }


def fit(measured: Measured, which: Sequence[int], training: Measured, trained: dict[str, float]) -> Costs:
    """Least squares of saturated log errors over the costs in `FITTED`, rounded to three digits."""
    guess = GUESS._replace(**trained)
    scale = np.array([getattr(guess, name) for name in FITTED])
    sets = ((measured, list(which), 1.0), (training, list(range(len(training.rows))), TRAINING_WEIGHT))

    def residuals(values: Floats) -> Floats:
        costs = guess._replace(**dict(zip(FITTED, np.abs(values) * scale, strict=True)))
        errors = [weight * _error(rows, costs, chosen) for rows, chosen, weight in sets]
        return np.concatenate(errors)

    found = np.abs(least_squares(residuals, np.ones(len(FITTED)), diff_step=0.02, max_nfev=40).x) * scale
    values = trained | dict(zip(FITTED, found.tolist(), strict=True))
    return guess._replace(**{name: float(f"{value:.3g}") for name, value in values.items()})


def _error(measured: Measured, costs: Costs, which: Sequence[int]) -> Floats:
    errors: Floats = np.arctan(SATURATION * np.log(measured.model(costs, which) / measured.cycles[list(which)]))
    return errors


def small_training_rows(rows: Sequence[RtlRow]) -> list[RtlRow]:
    """Convolutions on a 16x16 array that are quick to walk, at most four of a layer."""
    taken: dict[LoopShape, list[RtlRow]] = defaultdict(list)
    for row in rows:
        quick = row.cycles <= 3e6 and tile_plan(row).tiles <= 2000
        if _edge(row) == 16 and not row.matrix and quick and len(taken[row.shape]) < 4:
            taken[row.shape].append(row)
    return [row for group in taken.values() for row in group]


def report(measured: Measured, costs: Costs, which: Sequence[int], title: str) -> None:
    model = measured.model(costs, which)
    _print(title, [measured.rows[i] for i in which], measured.cycles[list(which)], model)


def cross_validate(measured: Measured, training: Measured, trained: dict[str, float], folds: int) -> None:
    """Every layer is predicted by constants that were fitted without it."""
    layers = list(dict.fromkeys(row.shape for row in measured.rows))
    fold = [layers.index(row.shape) % folds for row in measured.rows]
    model = np.zeros(len(fold))
    for k in range(folds):
        held = [i for i, at in enumerate(fold) if at == k]
        costs = fit(measured, [i for i, at in enumerate(fold) if at != k], training, trained)
        model[held] = measured.model(costs, held)
    _print(f"layers left out, {folds} folds", measured.rows, measured.cycles, model)


def write(machine: TileMachine, costs: Costs) -> Path:
    """The machine with these costs, in the library."""
    entries = {name: replace(entry, value=getattr(costs, name)) for name, entry in machine.costs.items()}
    path = LIBRARY / "latency" / f"{machine.name}.yaml"
    data = machine_data(replace(machine, costs=entries))
    path.write_text(yaml.safe_dump(data, sort_keys=False, width=110), encoding="utf-8")
    return path


def _print(title: str, rows: Sequence[RtlRow], reference: Floats, model: Floats) -> None:
    errors = np.abs(model / reference - 1)
    order = order_figures(rows, model)
    pairs = f"{order.compare().exact_share:.3f} of {len(order.cases)}" if order else "none"
    print(
        f"{title}: {len(rows)} rows, mean |error| {errors.mean():.4f}, median {np.median(errors):.4f}, "
        f"largest {errors.max():.3f}, rank correlation {rank_correlation(reference, model):.4f}, pairs right {pairs}"
    )


def _edge(row: RtlRow) -> int:
    widest = max((loop.factor for loops in row.mapping.loops for loop in loops if loop.spatial), default=1)
    return max(2, 1 << (widest - 1).bit_length())


def _short(plan: TilePlan) -> bool:
    tile = dict(zip(TILE_DIMS, plan.tile, strict=True))
    return not plan.matrix and tile["Q"] <= 8 <= tile["P"]


def _chunks(plan: TilePlan) -> int:
    tile = dict(zip(TILE_DIMS, plan.tile, strict=True))
    return tile["P"] * tile["R"] * tile["S"] * -(-tile["K"] // 16) * -(-tile["C"] // 16)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the constants into the library")
    parser.add_argument("--folds", type=int, default=0, help="leave layers out, this many folds")
    options = parser.parse_args(arguments)
    machine = load_tile_machine(MACHINE)
    training_rows = read_rtl(reference_file("gemmini_rtl/training.csv", SOURCE))
    trained, training = train(training_rows), Measured(small_training_rows(training_rows), machine)
    measured = Measured(read_rtl(reference_file("gemmini_rtl/public.csv", SOURCE)), machine)
    if options.folds:
        cross_validate(measured, training, trained, options.folds)
        return
    used, unused = range(1, len(measured.rows), 2), range(0, len(measured.rows), 2)
    costs = fit(measured, used, training, trained)
    for name, value in costs._asdict().items():
        print(f"{name:20} {value:10g}  {'read off training rows' if name in TRAINED else 'fitted'}")
    report(training, costs, range(len(training.rows)), "training rows of the fit")
    report(measured, costs, used, "fitted")
    report(measured, costs, unused, "not used")
    report(measured, costs, range(len(measured.rows)), "all public rows")
    if options.write:
        print(write(machine, costs))


if __name__ == "__main__":
    main()
