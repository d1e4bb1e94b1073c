"""Runs that the report must not trust, or cannot read: no foreign markup, every fault named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cosim.errors import ConfigError
from cosim.report import write_report
from cosim.report.html import page
from cosim.report.load import load_run
from tests.cosim.report_page import Page, smaller, written

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{data}}"


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    front, trials = smaller(name=HOSTILE, network=HOSTILE, sampler=HOSTILE, notes=[HOSTILE])
    front["hypervolume"] = {HOSTILE: [0.1, 0.2]}
    point = front["points"][0]
    point |= {"id": HOSTILE, "plan_summary": HOSTILE, "notices": [HOSTILE]}
    point["design"] = {HOSTILE: HOSTILE, f"a.{HOSTILE}": HOSTILE, f"keep.{HOSTILE}": HOSTILE}
    point["layers"][0] |= {"name": HOSTILE, "energy_pj": {HOSTILE: 1.0}, "stall_cycles": {HOSTILE: 1}}
    trials[0] |= {"state": "crashed", "evaluation": None, "error": HOSTILE}
    complete = next(trial for trial in trials if trial["state"] == "complete")
    complete["params"] = {HOSTILE: HOSTILE}
    plain, hostile = (
        page(load_run(written(tmp_path / "a", *smaller()))),
        page(load_run(written(tmp_path / "b", front, trials))),
    )
    read = Page(hostile)
    assert not [tag for tag, _ in read.tags if tag == "img"]
    assert hostile.count("<script") == plain.count("<script")
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert HOSTILE in read.text
    hovers = [text for texts in read.data["texts"].values() for text in texts]
    names = [trace["name"] for chart in read.data["layers"].values() for ts in chart["traces"].values() for trace in ts]
    assert not [text for text in [*hovers, *names] if "<img" in text or "<script" in text]


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.json"])
def test_link_out_of_the_run_directory_is_refused(tmp_path: Path, path: str) -> None:
    front, trials = smaller()
    front["points"][1]["plan"] = path
    with pytest.raises(ConfigError, match=r"front\.json: points\[1\]\.plan: .*leads out of the run directory"):
        write_report(written(tmp_path, front, trials))


def test_scheme_in_a_link_is_only_a_file_name(tmp_path: Path) -> None:
    front, trials = smaller()
    front["points"][0]["plan"] = "javascript:alert(1)"
    folder = written(tmp_path, front, trials)
    assert not [link for link in Page(page(load_run(folder))).links if link.startswith("javascript")]


@pytest.mark.parametrize("name", ["front.json", "trials.json"])
def test_missing_and_broken_files_are_named(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, *smaller())
    (folder / name).write_text('{"version": 1,', encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"{re.escape(name)}: is not JSON .*cosim search"):
        write_report(folder)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=rf"{re.escape(name)}: no such file; pass the directory that `cosim search`"):
        write_report(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda front: front.update(version=2), r"version: Input should be 1 \(it is 2\)"),
        (lambda front: front["points"][2].pop("energy_pj"), r"points\[2\]\.energy_pj: Field required"),
        (lambda front: front["points"][0].update(energy_pj=-1.0), r"points\[0\]\.energy_pj: .*\(it is -1\.0\)"),
        (lambda front: front["points"][0].update(validation_accuracy=97.0), r"points\[0\]\.validation_accuracy: "),
        (
            lambda front: front["points"][0].update(test_accuracy_mean=0.5),
            r"points\[0\]: .*the mean of test_accuracy is",
        ),
        (lambda front: front["points"][0].update(latency_ms=float("nan")), "holds the number NaN"),
        (lambda front: front["points"][1].update(id="p00"), "ids .* are not all different"),
        (lambda front: front["objectives"][1].update(name="power"), "none named energy"),
        (lambda front: front["objectives"].append({"name": "x", "direction": "minimize"}), r"\[0\]\.objectives has 3"),
        (lambda front: front["counts"].update(lost=1), r"counts\.lost"),
    ],
)
def test_broken_field_is_named_with_its_value_and_a_remedy(tmp_path: Path, change: Any, said: str) -> None:
    front, trials = smaller()
    change(front)
    with pytest.raises(ConfigError, match=rf"{said}.*write the directory again with `cosim search`"):
        write_report(written(tmp_path, front, trials))


def test_trials_with_their_objectives_outside_the_evaluation_read_the_same(tmp_path: Path) -> None:
    front, trials = smaller()
    flat = [trial | {"objectives": (trial["evaluation"] or {}).get("objectives")} for trial in trials]
    for trial in flat:
        del trial["evaluation"]
    nested = load_run(written(tmp_path / "nested", front, trials))
    assert load_run(written(tmp_path / "flat", front, flat)).trials == nested.trials
    assert nested.scored("complete")


def test_trial_without_objectives_and_evaluation_is_refused(tmp_path: Path) -> None:
    front, trials = smaller()
    del trials[3]["evaluation"]
    with pytest.raises(ConfigError, match=r"trials\.json: \[3\]\.objectives: Field required"):
        write_report(written(tmp_path, front, trials))
