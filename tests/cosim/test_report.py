"""The report shows what the run directory says: every number, no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from cosim.report import write_report
from cosim.report.axes import axes_of
from cosim.report.figures import staircase
from cosim.report.html import page
from cosim.report.layers import cycle_parts
from cosim.report.load import Layer, load_run
from cosim.report.sentences import leanest_near_dense
from cosim.report.units import digits, scale_for
from tests.cosim.report_page import Page, smaller, written
from tests.cosim.synthetic_run import CLOCK_MHZ, DENSE_PJ, synthetic_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = written(tmp_path_factory.mktemp("runs") / "digits", *synthetic_run())
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def opened(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_page_fetches_nothing_and_forbids_fetching(folder: Path, opened: Page) -> None:
    assert opened.resources == ["data:,"]
    assert not [tag for tag, _ in opened.tags if tag in ("img", "iframe", "object", "embed", "base", "form")]
    style = re.search(r"<style>(.*?)</style>", (folder / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(a["content"] for tag, a in opened.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_plotly_is_in_the_page_once(opened: Page) -> None:
    assert sum("plotly.js v" in script[:500] for script in opened.scripts) == 1
    assert (sum(len(script) for script in opened.scripts)) < 8_000_000


def test_every_point_is_in_every_chart_the_table_and_the_choice(opened: Page) -> None:
    points = synthetic_run()[0]["points"]
    ids = [point["id"] for point in points]
    assert len(ids) == 20
    for name in ("accuracy-energy", "accuracy-latency", "energy-latency", "space"):
        front = next(t for t in opened.data["charts"][name]["data"] if t["meta"]["role"] == "front")
        assert front["customdata"] == ids
    assert [a["data-point"] for tag, a in opened.tags if tag == "tr" and "data-point" in a] == ids
    assert [a["value"] for tag, a in opened.tags if tag == "option"] == ids
    assert opened.data["order"] == ids


def test_numbers_in_the_charts_are_those_of_the_run(opened: Page) -> None:
    front, trials = synthetic_run()
    chart = opened.data["charts"]["accuracy-energy"]
    drawn = {trace["meta"]["role"]: trace for trace in chart["data"]}
    assert drawn["front"]["x"] == pytest.approx([point["energy_pj"] / 1e6 for point in front["points"]])
    assert drawn["front"]["y"] == pytest.approx([100 * point["test_accuracy_mean"] for point in front["points"]])
    spread = [100 * point["test_accuracy_sd"] for point in front["points"]]
    assert drawn["front"]["error_y"]["array"] == pytest.approx(spread)
    seen = [100 * point["validation_accuracy"] for point in front["points"]]
    assert drawn["validation"]["y"] == pytest.approx(seen)
    complete = [trial["evaluation"]["objectives"] for trial in trials if trial["state"] == "complete"]
    assert drawn["trials"]["y"] == pytest.approx([100 * values[0] for values in complete])
    assert len(drawn["infeasible"]["x"]) == front["counts"]["infeasible"]
    assert drawn["dense"]["x"] == pytest.approx([DENSE_PJ / 1e6])
    assert chart["layout"]["xaxis"]["title"]["text"] == "energy (µJ)"


def test_table_sorts_by_exact_values_and_shows_rounded_ones(opened: Page) -> None:
    point = synthetic_run()[0]["points"][0]
    values = [a["data-value"] for tag, a in opened.tags if tag in ("td", "th") and "data-value" in a]
    assert values[0] == point["id"]
    assert float(values[1] or 0) == point["test_accuracy_mean"]
    expected = f"{100 * point['test_accuracy_mean']:.1f} ± {100 * point['test_accuracy_sd']:.1f} %"
    assert expected in opened.text
    assert f"{digits(point['energy_pj'] / 1e6)} µJ" in opened.text


def test_layers_of_a_point_add_up_to_its_energy_and_latency(opened: Page) -> None:
    for point in synthetic_run()[0]["points"]:
        energy = sum(sum(trace["x"]) for trace in opened.data["layers"]["energy"]["traces"][point["id"]])
        latency = sum(sum(trace["x"]) for trace in opened.data["layers"]["latency"]["traces"][point["id"]])
        assert energy == pytest.approx(point["energy_pj"] / 1e6)
        cycles = sum(layer["latency_cycles"] for layer in point["layers"])
        assert latency == pytest.approx(1000 * cycles / (1000 * CLOCK_MHZ))


def test_component_has_one_colour_for_all_points(opened: Page) -> None:
    for chart in opened.data["layers"].values():
        looks = {tuple((t["name"], t["marker"]["color"]) for t in traces) for traces in chart["traces"].values()}
        assert len(looks) == 1
        colours = [colour for _, colour in looks.pop()]
        assert len(set(colours)) == len(colours)


def test_cycles_that_no_cause_explains_are_shown() -> None:
    layer = Layer(name="a", latency_cycles=10, compute_cycles=6, stall_cycles={"dram_fill": 3}, energy_pj={})
    assert cycle_parts(layer) == {"compute": 6, "dram_fill": 3, "unattributed": 1}


def test_links_are_relative_and_lead_to_files_of_the_run(folder: Path, opened: Page) -> None:
    files = [link for link in opened.links if not link.startswith("#")]
    assert len(files) == 3 * 20
    assert all(link.startswith("./") and (folder / link).is_file() for link in files)


def test_missing_file_of_a_point_is_named_but_not_linked(tmp_path: Path) -> None:
    folder = written(tmp_path, *smaller())
    (folder / "plans" / "p00.json").unlink()
    text = page(load_run(folder))
    assert "plans/p00.json (not in the run directory)" in text
    assert "./plans/p00.json" not in text


def test_headline_and_dense_comparison_are_computed(folder: Path, opened: Page) -> None:
    run = load_run(folder)
    best, lean = run.front.points[0], min(run.front.points, key=lambda point: point.energy_pj)
    headline = re.search(r"From .* from end to end\.", opened.text)
    assert headline is not None
    for point in (best, lean):
        assert f"{100 * (point.test_mean or 0):.1f}" in headline[0]
        assert f"{digits(point.energy_pj / 1e6)} µJ" in headline[0]
    near = leanest_near_dense(run)
    assert near is not None
    assert (near.test_mean or 0) >= 0.971 - 0.01
    assert f"within 1 percentage point of it is {near.id}" in opened.text
    assert opened.data["chosen"] == near.id


def test_gain_over_random_search_is_computed_from_the_curves(tmp_path: Path) -> None:
    curves = {"nsga2": [0.1, 0.5, 0.9], "random": [0.2, 0.4, 0.5]}
    text = page(load_run(written(tmp_path, *smaller(hypervolume=curves))))
    assert "After 3 trials nsga2 covers 80.0 % more hypervolume than random search" in text
    assert "at trial 2" in text


def test_crashes_are_counted_and_their_errors_shown(opened: Page) -> None:
    front = synthetic_run()[0]
    assert f"Errors of crashed trials ({front['counts']['crashed']})" in opened.text
    assert "NoMappingError: buffer too small" in opened.text


def test_png_shows_the_front(folder: Path, tmp_path: Path) -> None:
    image = imread(folder / "front.png")
    assert image.shape[1] >= 1200
    accent = np.abs(image[:, :, :3] - np.array([0x0B, 0x5F, 0xA5]) / 255).max(axis=2) < 0.02
    assert accent.sum() > 1000
    empty = written(tmp_path, *smaller(points=[], hypervolume={}))
    write_report(empty)
    without = imread(empty / "front.png")
    assert (np.abs(without[:, :, :3] - np.array([0x0B, 0x5F, 0xA5]) / 255).max(axis=2) < 0.02).sum() == 0


def test_same_run_gives_the_same_files_and_leaves_no_others(tmp_path: Path) -> None:
    folder = written(tmp_path, *smaller())
    write_report(folder)
    first = [(folder / name).read_bytes() for name in ("report.html", "front.png")]
    before = sorted(path.name for path in folder.iterdir())
    write_report(folder)
    assert [(folder / name).read_bytes() for name in ("report.html", "front.png")] == first
    assert sorted(path.name for path in folder.iterdir()) == before


def test_one_bare_point_is_enough(tmp_path: Path) -> None:
    front, trials = smaller(dense=None, notes=None, reference=None, constraints=None, hypervolume=None)
    needed = ("id", "trial", "validation_accuracy", "energy_pj", "latency_cycles", "latency_ms", "design")
    front["points"] = [{name: front["points"][0][name] for name in needed}]
    text = Page(write_report(written(tmp_path, front, trials)).read_text(encoding="utf-8"))
    assert "(validation)" in text.text
    assert "hypervolume" not in text.data["charts"]
    assert text.data["chosen"] == "p00"


def test_search_without_a_feasible_design_still_gets_its_report(tmp_path: Path) -> None:
    front, trials = smaller(points=[])
    crashed = [trial | {"state": "crashed", "evaluation": None, "error": "boom"} for trial in trials]
    text = Page(write_report(written(tmp_path, front, crashed)).read_text(encoding="utf-8")).text
    assert "No feasible design was found" in text
    assert "boom" in text


def test_latency_in_cycles_is_shown_in_time_if_one_clock_serves_all(tmp_path: Path) -> None:
    front, trials = smaller()
    front["objectives"][2] = {"name": "latency_cycles", "direction": "minimize", "unit": "cycles"}
    for trial in trials:
        if trial["evaluation"]:
            trial["evaluation"]["objectives"][2] *= 1000 * CLOCK_MHZ
    axis = axes_of(load_run(written(tmp_path / "one", front, trials)))["latency"]
    assert axis.scale.unit in ("µs", "ms")
    point = front["points"][0]
    front["points"][0] = point | {"latency_ms": 2 * point["latency_ms"]}
    assert "cycles" in axes_of(load_run(written(tmp_path / "two", front, trials)))["latency"].scale.unit


def test_points_are_shown_by_falling_test_accuracy_and_failed_seeds_named(tmp_path: Path) -> None:
    front, trials = smaller()
    front["points"].reverse()
    front["points"][0]["errors"] = ["TrainingError: loss is nan"]
    text = Page(page(load_run(written(tmp_path, front, trials))))
    assert text.data["order"] == ["p00", "p01", "p02", "p03"]
    assert "A seed failed: TrainingError: loss is nan" in text.text


def test_parameters_are_listed_for_the_accelerator_and_tabled_for_the_plan(tmp_path: Path) -> None:
    front, trials = smaller()
    sparsity = '{"action": "skip", "gather": 8}'
    front["points"][0]["design"] = {
        "memories.dram.banks": 7,
        "weight_sparsity": sparsity,
        "keep.a.b": 0.25,
        "bits.s": 4,
    }
    text = page(load_run(written(tmp_path, front, trials)))
    assert '<th scope="row">memories.dram.banks</th><td>7</td>' in text
    assert '<th scope="row">weight_sparsity</th><td>action skip, gather 8</td>' in text
    assert '<th scope="row">a.b</th><td>0.25</td><td></td>' in text
    assert '<th scope="row">s</th><td></td><td>4</td>' in text


def test_infeasible_trials_without_a_score_are_mentioned(tmp_path: Path) -> None:
    front, trials = smaller()
    trials[0] |= {"state": "infeasible", "evaluation": {"objectives": None, "violations": [1.0], "info": {}}}
    assert "1 infeasible trials were not scored" in page(load_run(written(tmp_path, front, trials)))


def test_staircase_keeps_what_nothing_cheaper_beats() -> None:
    assert staircase([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (3, 0.8)]) == [(1, 0.5), (2, 0.7), (3, 0.9)]


@pytest.mark.parametrize(
    ("values", "stored", "unit"),
    [
        ([3.1e6, 12e6], "pJ", "µJ"),
        ([5e5, 8e5, 2.6e6], "pJ", "µJ"),
        ([5e4, 8e5, 2.6e6], "pJ", "nJ"),
        ([4.2e9], "pJ", "mJ"),
        ([0.4], "ms", "µs"),
        ([2048], "B", "KiB"),
        ([], "pJ", "pJ"),
    ],
)
def test_units_suit_the_values(values: list[float], stored: str, unit: str) -> None:
    assert scale_for(values, stored).unit == unit


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.345, "12.3"), (0.0456, "0.0456"), (999.7, "1000"), (12345, "12\u202f345"), (1e9, "1.00e+09")],
)
def test_digits_are_three_and_significant(value: float, text: str) -> None:
    assert digits(value) == text


def test_report_loads_no_training_search_or_hardware_code() -> None:
    code = "import cosim.report, sys; print({'torch', 'optuna', 'search', 'accel_models'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
