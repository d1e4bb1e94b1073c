"""Runs that meet trouble: interrupted, into folders that are there already, with trials that crash or do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel_models.accelerator import load_accelerator
from cosim.codesign import evaluator
from cosim.codesign.run import Progress, run_study
from cosim.codesign.study import StudySpec
from cosim.errors import ConfigError
from tests.cosim.conftest import contents, front, run_cli, tiny, trials, write_study


def small(**changes: Any) -> dict[str, Any]:
    few = {"search__trials": 8, "search__population": 8, "repeats": 1, "training__finetune_epochs": 0}
    return tiny(**(few | changes))


class StopError(Exception):
    """Ends a run on purpose."""


def stop(progress: Progress) -> None:
    raise StopError


def test_progress_of_a_resumed_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    seen: list[Progress] = []

    def until(number: int) -> Callable[[Progress], None]:
        def look(progress: Progress) -> None:
            seen.append(progress)
            if progress.phase == "search" and progress.done == number:
                raise StopError

        return look

    spec = StudySpec.model_validate(small())
    with pytest.raises(StopError):
        run_study(spec, tmp_path / "run", on_progress=until(3))
    seen.clear()
    with pytest.raises(StopError):
        run_study(spec, tmp_path / "run", resume=True, on_progress=until(8))
    assert [p.done for p in seen if p.phase == "search"] == [4, 5, 6, 7, 8]
    assert {p.total for p in seen if p.phase == "search"} == {8}


# Folders that are there already


CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "limits": {"limits__area_mm2": 0.41},
    "search": {"search__population": 8},
    "plan": {"plan__weight_bits": [8]},
}


@pytest.mark.parametrize("field", CHANGES)
def test_resume_refuses_another_study_and_changes_nothing(field: str, tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    with pytest.raises(ConfigError, match=rf"--resume finds another study there \({field} differ\)"):
        run_study(StudySpec.model_validate(tiny(**CHANGES[field])), copy, resume=True)
    assert contents(copy) == contents(tiny_run)


def test_resume_refuses_fewer_trials_and_changes_nothing(tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    with pytest.raises(ConfigError, match="holds 12 trials already: pass trials >= 12 instead of 6"):
        run_study(StudySpec.model_validate(tiny(search__trials=6)), copy, resume=True)
    assert contents(copy) == contents(tiny_run)


def test_resume_refuses_a_base_accelerator_that_was_edited(tmp_path: Path) -> None:
    base = tmp_path / "mine.yaml"
    base.write_text(load_accelerator("edge_os_16x16").to_yaml())
    changes = {"hardware__base": str(base), "search__trials": 2, "search__population": 2, "search__batch": 2}
    spec = StudySpec.model_validate(tiny(repeats=1, training__finetune_epochs=0, **changes))
    out = tmp_path / "run"
    run_study(spec, out)
    base.write_text(base.read_text().replace("clock_mhz: 500", "clock_mhz: 400"))
    before = contents(out)
    with pytest.raises(ConfigError, match="identity"):
        run_study(spec, out, resume=True)
    assert contents(out) == before


def test_a_damaged_study_file_is_named_on_resume(tiny_run: Path, study_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    (copy / "study.yaml").write_text("name: {")
    ended = run_cli("search", study_file, "--out", copy, "--resume")
    assert ended.code == 2
    assert "study.yaml: is no YAML" in ended.err


def test_without_resume_an_earlier_run_is_moved_aside_whole(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(tiny_run, out)
    before = contents(out)
    for number in (1, 2):
        with pytest.raises(StopError):
            run_study(StudySpec.model_validate(tiny()), out, on_progress=stop)
        assert list(contents(out)) == ["study.yaml"]
        assert (tmp_path / f"run.old-{number}").is_dir()
    assert contents(tmp_path / "run.old-1") == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_holds_something_else_is_left_alone(resume: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ConfigError, match="give another --out"):
            run_study(StudySpec.model_validate(tiny()), out, resume=resume)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_an_empty_folder_is_used_and_resume_begins_where_there_is_nothing(tmp_path: Path) -> None:
    for name, resume in (("empty", False), ("absent", True)):
        out = tmp_path / name
        if name == "empty":
            out.mkdir()
        with pytest.raises(StopError):
            run_study(StudySpec.model_validate(tiny()), out, resume=resume, on_progress=stop)
        assert (out / "study.yaml").is_file()
    assert not list(tmp_path.glob("*.old-*"))


# Studies that come to little


def test_crashed_trials_are_recorded_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    price = evaluator.price_design

    def crash(design: Any, *rest: Any) -> Any:
        if design.accelerator.pe_array.dataflow == "output_stationary":
            raise RuntimeError("the array is on fire")
        return price(design, *rest)

    monkeypatch.setattr(evaluator, "price_design", crash)
    study = write_study(tmp_path / "study.yaml", small(limits__area_mm2=10))
    ended = run_cli("search", study, "--out", tmp_path / "run", "--workers", 1)
    assert ended.code == 0, ended.err
    crashed = [t for t in trials(tmp_path / "run") if t["state"] == "crashed"]
    assert 0 < len(crashed) < 8
    assert all("on fire" in t["error"] and "Traceback" in t["error"] for t in crashed)
    assert front(tmp_path / "run")["counts"]["crashed"] == len(crashed)
    assert f"{len(crashed)} crashed" in ended.out
    assert f"first crash: trial {crashed[0]['number']}: RuntimeError: the array is on fire" in ended.out
    assert "the array is on fire" in (tmp_path / "run" / "report.html").read_text()


def test_a_crash_of_one_seed_leaves_the_others_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cosim.codesign import repeats

    compress = repeats.compress_design

    def crash(plan: Any, spec: Any, cache: Path, seed: int) -> Any:
        if seed == spec.seed + 1:
            raise RuntimeError("bad luck")
        return compress(plan, spec, cache, seed)

    monkeypatch.setattr(repeats, "compress_design", crash)
    study = write_study(tmp_path / "study.yaml", small(repeats=2))
    ended = run_cli("search", study, "--out", tmp_path / "run", "--workers", 1)
    assert ended.code == 0, ended.err
    for point in front(tmp_path / "run")["points"]:
        assert len(point["test_accuracy"]) == 1
        assert point["test_accuracy_sd"] is None
        assert "bad luck" in point["errors"][0]


def test_a_search_without_feasible_design_says_so_and_keeps_its_trials(tmp_path: Path) -> None:
    vary = {f"memories.{name}_buffer.capacity_bytes": [16] for name in ("input", "weight", "output")}
    study = write_study(tmp_path / "study.yaml", small(hardware__vary=vary))
    ended = run_cli("search", study, "--out", tmp_path / "run", "--workers", 1)
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "none of 8 trials is a feasible design" in ended.err
    assert "unmapped_bytes: 8 exceed it, by 16 bytes at least" in ended.err
    assert len(trials(tmp_path / "run")) == 8


def test_an_area_that_no_design_keeps_ends_before_anything_is_written(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study.yaml", small(limits__area_mm2=1e-4))
    ended = run_cli("search", study, "--out", tmp_path / "run")
    assert ended.code == 2
    assert ended.err.startswith(f"error: {study}: limits.area_mm2: ")
    assert not (tmp_path / "run").exists()


def test_a_search_where_every_trial_crashes_names_the_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> Any:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(evaluator, "price_design", crash)
    study = write_study(tmp_path / "study.yaml", small(limits__area_mm2=10))
    ended = run_cli("search", study, "--out", tmp_path / "run", "--workers", 1)
    assert ended.code == 1
    assert "8 crashed" in ended.err
    assert "RuntimeError: no such luck" in ended.err
