"""Hardware-only sweeps: complete, deterministic, resumable, and refused where they make no sense."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from accel_models.accelerator import load_accelerator
from accel_models.evaluate import simulate
from accel_models.layers import Conv2d
from accel_models.workload import Workload
from cosim.errors import ConfigError
from cosim.sweep import OBJECTIVES, SweepSpec, load_sweep, run_sweep

WORKLOAD = Workload(name="w", layers=(Conv2d(name="a", k=24, c=16, p=14, q=14, r=3, s=3, padding=(1, 1)),))
VARY: dict[str, list[Any]] = {
    "pe_array.rows": [4, 16],
    "pe_array.dataflow": ["output_stationary", "weight_stationary"],
    "memories.weight_buffer.capacity_bytes": [2048, 8192, 65536],
}


def sweep(out: Path, resume: bool = False, **changes: Any) -> list[dict[str, Any]]:
    spec = SweepSpec(**{"name": "s", "workload": "w", "base": "edge_os_16x16", "vary": VARY, "chunk": 5, **changes})
    return run_sweep(spec, WORKLOAD, out, resume=resume, on_done=lambda done, total: None)


def rows_of(out: Path) -> list[dict[str, str]]:
    return [row for part in sorted(out.glob("part-*.csv")) for row in csv.DictReader(part.read_text().splitlines())]


def test_a_grid_holds_every_combination_once_with_its_simulated_cost(tmp_path: Path):
    front = sweep(tmp_path)
    rows = rows_of(tmp_path)
    assert len(rows) == len({(r["rows"], r["dataflow"], r["weight_bytes"]) for r in rows}) == 12
    for row in rows:
        settings = {
            "pe_array.rows": int(row["rows"]),
            "pe_array.dataflow": row["dataflow"],
            "memories.weight_buffer.capacity_bytes": int(row["weight_bytes"]),
        }
        cost = simulate(load_accelerator("edge_os_16x16", settings), WORKLOAD)
        assert int(row["latency_cycles"]) == cost.latency_cycles
        assert float(row["energy_pj"]) == pytest.approx(cost.energy_pj, rel=1e-12)
    values = [tuple(float(row[name]) for name in OBJECTIVES) for row in rows]
    best = {v for v in values if not any(all(a <= b for a, b in zip(o, v, strict=True)) and o != v for o in values)}
    assert {tuple(point[name] for name in OBJECTIVES) for point in front} == best


def test_random_samples_are_the_seeds(tmp_path: Path):
    first = sweep(tmp_path / "a", samples=13)
    assert len(rows_of(tmp_path / "a")) == 13
    assert sweep(tmp_path / "b", samples=13) == first
    sweep(tmp_path / "c", samples=13, seed=1)
    assert rows_of(tmp_path / "c") != rows_of(tmp_path / "a")


def test_a_sweep_that_was_cut_off_resumes_to_the_same_files(tmp_path: Path):
    class CutError(Exception):
        pass

    def cut(done: int, total: int) -> None:
        if done >= 5:
            raise CutError

    whole = sweep(tmp_path / "whole")
    spec = SweepSpec(name="s", workload="w", base="edge_os_16x16", vary=VARY, chunk=5)
    with pytest.raises(CutError):
        run_sweep(spec, WORKLOAD, tmp_path / "cut", resume=False, on_done=cut)
    assert sweep(tmp_path / "cut", resume=True) == whole
    files = [{p.name: p.read_text() for p in (tmp_path / n).iterdir()} for n in ("whole", "cut")]
    assert files[0] == files[1]


def test_a_sweep_that_exists_is_neither_overwritten_nor_mixed(tmp_path: Path):
    sweep(tmp_path)
    with pytest.raises(ConfigError, match="--resume"):
        sweep(tmp_path)
    with pytest.raises(ConfigError, match="another sweep"):
        sweep(tmp_path, resume=True, chunk=6)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"pe_array.widht": [1]}, "known keys"),
        ({"pe_array.rows": [4.5]}, "whole number"),
        ({"pe_array.dataflow": ["sideways"]}, "sideways"),
        ({"clock_mhz": [float("nan")]}, "nan"),
    ],
)
def test_what_cannot_be_swept_is_refused_by_key(tmp_path: Path, vary: dict[str, list[Any]], message: str):
    with pytest.raises(ConfigError, match=message):
        sweep(tmp_path / "out", vary=vary)
    assert not (tmp_path / "out").exists()


def test_an_unknown_field_of_the_file_is_named(tmp_path: Path):
    path = tmp_path / "sweep.yaml"
    path.write_text("name: s\nworkload: w\nbase: edge_os_16x16\nvari: {}\nvary: {}\n")
    with pytest.raises(ConfigError, match=r"vari: unknown key; did you mean 'vary'"):
        load_sweep(path)


def test_parquet_holds_the_same_rows(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    sweep(tmp_path, format="parquet")
    tables = [parquet.read_table(part) for part in sorted(tmp_path.glob("part-*.parquet"))]
    assert sum(table.num_rows for table in tables) == 12
