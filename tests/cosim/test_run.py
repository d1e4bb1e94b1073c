"""What a run leaves behind, that every point can be rebuilt from it, and that nothing but the study decides it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accel_models.accelerator import load_accelerator
from cosim.codesign.study import load_study
from cosim.files import read_tensors
from cosim.pruning.plan import load_plan
from search import non_dominated
from tests.cosim.conftest import contents, front, run_cli, trials

PATIENCE_S = 240
"""A loaded machine may take long to start a process; nothing here waits without looking."""


def search_process(study: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cosim", "search", str(study), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """SIGKILL as soon as the condition holds; the process must not have ended before."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not reached():
            assert process.poll() is None, f"ended by itself: {process.communicate()[1].decode()}"
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def finished_trials(out: Path) -> int:
    """Told trials in the journal: operation 6 of Optuna's format sets the state of a trial."""
    journal = out / "search.journal"
    return journal.read_bytes().count(b'{"op_code":6,') if journal.exists() else 0


def repeats_done(out: Path) -> int:
    return len(list((out / "cache" / "repeats").glob("*.json")))


# What is there


def test_the_files_of_a_run_are_there_and_name_each_other(tiny_run: Path) -> None:
    names = {path.name for path in tiny_run.iterdir()}
    assert names >= {"study.yaml", "front.csv", "front.json", "trials.json", "report.html", "front.png"}
    points = front(tiny_run)["points"]
    assert points
    for point in points:
        for kind, suffix in (("plans", "json"), ("accelerators", "yaml"), ("weights", "safetensors")):
            assert (tiny_run / kind / f"{point['id']}.{suffix}").is_file()
        assert (tiny_run / point["plan"]).is_file()
    for kind in ("plans", "accelerators", "weights"):
        assert len(list((tiny_run / kind).iterdir())) == len(points)


def test_the_table_says_what_the_json_says(tiny_run: Path) -> None:
    rows = list(csv.DictReader((tiny_run / "front.csv").read_text().splitlines()))
    points = front(tiny_run)["points"]
    assert [row["id"] for row in rows] == [point["id"] for point in points]
    for row, point in zip(rows, points, strict=True):
        for name in ("validation_accuracy", "test_accuracy_mean", "test_accuracy_sd", "energy_pj", "latency_ms"):
            assert float(row[name]) == point[name]
        assert int(row["repeats"]) == len(point["test_accuracy"]) == 2
        assert {name: row[name] for name in point["design"]} == {k: str(v) for k, v in point["design"].items()}


def test_points_are_the_trials_that_nothing_dominates(tiny_run: Path) -> None:
    feasible = [t for t in trials(tiny_run) if t["state"] == "complete"]
    values = [t["evaluation"]["objectives"] for t in feasible]
    kept = non_dominated(values, ("maximize", "minimize", "minimize"))
    expected = {t["number"]: t["evaluation"]["objectives"] for t, keep in zip(feasible, kept, strict=True) if keep}
    points = front(tiny_run)["points"]
    found = {p["trial"]: [p["validation_accuracy"], p["energy_pj"], p["latency_ms"]] for p in points}
    assert found.items() <= expected.items()
    assert {tuple(v) for v in found.values()} == {tuple(v) for v in expected.values()}
    assert [p["validation_accuracy"] for p in points] == sorted((v[0] for v in found.values()), reverse=True)


def test_every_trial_is_recorded(tiny_run: Path) -> None:
    records = trials(tiny_run)
    assert [record["number"] for record in records] == list(range(12))
    counts = front(tiny_run)["counts"]
    assert {state: sum(r["state"] == state for r in records) for state in counts} == counts


def test_points_keep_the_limit_and_plans_say_which_filters_stay(tiny_run: Path) -> None:
    data = front(tiny_run)
    for point in data["points"]:
        assert point["area_mm2"] <= data["constraints"][0]["limit"]
        plan = load_plan(tiny_run / point["plan"])
        assert plan.network == data["network"]
        assert all(layer.filters is None or layer.filters.keep is not None for layer in plan.layers.values())
        assert load_accelerator(tiny_run / point["accelerator"]).name.startswith("edge_os_16x16-")


def test_layers_of_a_point_add_up_to_its_totals(tiny_run: Path) -> None:
    for point in front(tiny_run)["points"]:
        assert sum(layer["latency_cycles"] for layer in point["layers"]) == point["latency_cycles"]
        energy = sum(sum(layer["energy_pj"].values()) for layer in point["layers"])
        assert energy == pytest.approx(point["energy_pj"], rel=1e-12)


# Points rebuilt from their files


def test_simulating_the_files_of_a_point_gives_its_cycles_and_energy(tiny_run: Path, tmp_path: Path) -> None:
    for point in front(tiny_run)["points"]:
        out = tmp_path / f"{point['id']}.json"
        files = ["-a", tiny_run / point["accelerator"], "--plan", tiny_run / point["plan"]]
        assert run_cli("simulate", "-w", "digits_resnet", *files, "--json", out).code == 0
        found = json.loads(out.read_text())
        for name in ("latency_cycles", "latency_ms", "energy_pj", "dram_bytes", "macs", "area_mm2", "utilization"):
            assert found["total"][name] == point[name], name
        assert [layer["latency_cycles"] for layer in found["layers"]] == [
            layer["latency_cycles"] for layer in point["layers"]
        ]


def test_the_weights_of_a_point_give_its_accuracy(tiny_run: Path, tmp_path: Path) -> None:
    for point in front(tiny_run)["points"]:
        out = tmp_path / f"{point['id']}.json"
        files = ["--plan", tiny_run / point["plan"], "--weights", tiny_run / point["weights"]]
        assert run_cli("prune", "-n", "digits_resnet", "-d", "digits", *files, "--json", out).code == 0
        found = json.loads(out.read_text())
        assert found["validation_accuracy"] == point["validation_accuracy"]
        assert found["test_accuracy"] == point["test_accuracy"][0]


def test_the_weights_of_a_point_have_its_plan_in_them(tiny_run: Path) -> None:
    for point in front(tiny_run)["points"]:
        plan, weights = load_plan(tiny_run / point["plan"]), read_tensors(tiny_run / point["weights"])
        for name, layer in plan.layers.items():
            weight = weights[f"{name}.weight"]
            assert weight.unique().numel() <= 2**layer.weight_bits - 1
            if layer.filters is not None:
                assert len(weight) == layer.filters.k
            if layer.mask is not None and layer.mask.granularity == "kernel":
                kept = weight.reshape(*weight.shape[:2], -1).any(2).sum(1)
                assert kept.max() <= layer.mask.k


# The same again


def same_results(out: Path, expected: Path) -> None:
    assert (out / "front.csv").read_bytes() == (expected / "front.csv").read_bytes()
    assert front(out) == front(expected)
    for kind in ("plans", "accelerators", "weights"):
        assert contents(out / kind) == contents(expected / kind)


def finish(process: subprocess.Popen[bytes]) -> None:
    error = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 0, error.decode()


def test_the_same_seed_gives_the_same_front(tiny_run: Path, study_file: Path, tmp_path: Path) -> None:
    assert run_cli("search", study_file, "--out", tmp_path / "again", "--workers", 1).code == 0
    same_results(tmp_path / "again", tiny_run)


@pytest.mark.slow
def test_two_workers_of_another_process_write_the_same_front(tiny_run: Path, study_file: Path, tmp_path: Path) -> None:
    finish(search_process(study_file, tmp_path / "again", "--workers", "2"))
    same_results(tmp_path / "again", tiny_run)


def test_a_run_killed_twice_ends_like_one_that_was_not(tiny_run: Path, study_file: Path, tmp_path: Path) -> None:
    """Killed in the search, in which two workers run, and in the repeats; then finished."""
    out = tmp_path / "killed"
    kill_when(search_process(study_file, out, "--workers", "2"), lambda: finished_trials(out) >= 5)
    assert 5 <= finished_trials(out) < 12, "the kill must land within the search"
    assert not (out / "front.csv").exists()
    kill_when(search_process(study_file, out, "--workers", "1", "--resume"), lambda: repeats_done(out) >= 3)
    assert finished_trials(out) == 12
    assert not (out / "front.csv").exists()
    kept = contents(out / "cache" / "repeats")
    finish(search_process(study_file, out, "--workers", "1", "--resume"))
    same_results(out, tiny_run)
    after = contents(out / "cache" / "repeats")
    assert all(after[name] == content for name, content in kept.items() if not name.startswith("."))


def test_resuming_a_finished_run_changes_no_result(tiny_run: Path, study_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    assert run_cli("search", study_file, "--out", copy, "--workers", 1, "--resume").code == 0
    before, after = contents(tiny_run), contents(copy)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


def test_the_study_in_the_folder_is_the_one_that_was_run(tiny_run: Path, study_file: Path) -> None:
    assert load_study(tiny_run / "study.yaml") == load_study(study_file)


def test_no_unfinished_file_is_left(tiny_run: Path) -> None:
    assert [path for path in tiny_run.rglob(".*") if path.is_file()] == []
    assert os.access(tiny_run / "front.csv", os.R_OK)
