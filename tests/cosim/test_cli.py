"""The command line as a newcomer meets it: examples in the help, one line for bad input, JSON of what is shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from accel_models.accelerator import library_names
from cosim import cli
from cosim.pruning.plan import FilterPlan, LayerPlan, MaskPlan, PruningPlan
from tests.cosim.conftest import EXAMPLE, Ended, contents, run_cli, tiny, write_study

COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback]
TOPOLOGY = "name, ifmap h, ifmap w, filter h, filter w, channels, filters, strides\nc1, 8, 8, 3, 3, 4, 8, 1,\n"
SIMULATE = ("simulate", "-a", "edge_os_16x16", "-w", "digits_resnet")
PRUNE = ("prune", "-n", "digits_resnet", "-d", "digits")


def plan_text(**layers: LayerPlan) -> str:
    return PruningPlan(network="digits_resnet", layers={n.replace("__", "."): p for n, p in layers.items()}).to_json()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files, good and bad, to point at."""
    monkeypatch.chdir(tmp_path)
    study = tiny()
    write_study(tmp_path / "study.yaml", study)
    for name, changes in STUDIES.items():
        write_study(tmp_path / f"{name}.yaml", tiny(**changes))
    (tmp_path / "broken.yaml").write_text("name: {")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "text.json").write_text("rows: 4")
    (tmp_path / "nan.yaml").write_text(_accelerator().replace("clock_mhz: 500.0", "clock_mhz: .nan"))
    (tmp_path / "key.yaml").write_text(_accelerator().replace("clock_mhz:", "clock_mhs:"))
    (tmp_path / "topology.csv").write_text(TOPOLOGY)
    (tmp_path / "row.csv").write_text(TOPOLOGY.replace("4, 8, 1", "-4, 8, 1"))
    for name, text in PLANS.items():
        (tmp_path / f"{name}.json").write_text(text)
    return tmp_path


def _accelerator() -> str:
    from accel_models.accelerator import load_accelerator

    return load_accelerator("edge_os_16x16").to_yaml()


STUDIES: dict[str, dict[str, Any]] = {
    "s_key": {"search__trails": 3},
    "s_trials": {"search__trials": 0},
    "s_negative": {"repeats": -1},
    "s_nan": {"worst__energy_pj": float("nan")},
    "s_k": {"plan__masks": ["weight 9:8"]},
    "s_vary": {"hardware__vary": {"pe_array.rows": []}},
    "s_accelerator": {"hardware__base": "edge"},
    "s_network": {"network": "resnet"},
    "s_dataset": {"dataset": "digit"},
    "s_sampler": {"search__sampler": "cmaes"},
    "s_criterion": {"plan__criterion": "l3"},
    "s_area": {"limits__area_mm2": 1e-3},
    "s_blocks": {"plan__blocks": {"a": ["nothing.*"]}},
}
_MASK = '{"mask": {"granularity": "weight", "k": 9, "n": 4}}'
_K = f'{{"version": 1, "network": "digits_resnet", "layers": {{"conv1": {_MASK}}}}}'
PLANS = {
    "p_k": _K,
    "p_key": _K.replace('"mask"', '"msak"'),
    "p_layer": plan_text(conv7=LayerPlan(weight_bits=4)),
    "p_other": PruningPlan(network="resnet20_cifar").to_json(),
    "p_shape": plan_text(stages__1__conv1=LayerPlan(filters=FilterPlan(k=3, n=99))),
    "p_mask": plan_text(conv1=LayerPlan(mask=MaskPlan(granularity="weight", k=1, n=64))),
    "p_bits": plan_text(conv1=LayerPlan(weight_bits=16)),
    "p_dense": plan_text(),
}

BAD: dict[str, tuple[tuple[str, ...], str]] = {
    # search
    "study: unknown key": (("search", "s_key.yaml"), "s_key.yaml: search.trails: unknown key; did you mean 'trials'?"),
    "study: zero trials": (("search", "s_trials.yaml"), "search.trials"),
    "study: negative": (("search", "s_negative.yaml"), "repeats"),
    "study: NaN": (("search", "s_nan.yaml"), "worst.energy_pj"),
    "study: k > n": (("search", "s_k.yaml"), "k = 9 of n = 8; use 1 <= k <= n"),
    "study: empty vary": (("search", "s_vary.yaml"), "pe_array.rows: give at least one value"),
    "study: accelerator": (("search", "s_accelerator.yaml"), "hardware.base: accelerator 'edge' is not in the library"),
    "study: network": (("search", "s_network.yaml"), "s_network.yaml: network: network 'resnet' is unknown"),
    "study: data set": (("search", "s_dataset.yaml"), "s_dataset.yaml: dataset: data set 'digit' is unknown"),
    "study: sampler": (("search", "s_sampler.yaml"), "search.sampler"),
    "study: criterion": (("search", "s_criterion.yaml"), "plan.criterion"),
    "study: area": (("search", "s_area.yaml"), "s_area.yaml: limits.area_mm2: 0.001 mm2 is less than"),
    "study: blocks": (("search", "s_blocks.yaml"), "plan.blocks.a: pattern 'nothing.*'"),
    "study: missing": (("search", "no.yaml"), "no.yaml: cannot be read"),
    "study: folder": (("search", "."), "cannot be read"),
    "study: broken": (("search", "broken.yaml"), "broken.yaml: is no YAML"),
    "study: binary": (("search", "binary"), "binary: is no YAML"),
    "study: out is a file": (("search", "study.yaml", "--out", "topology.csv"), "--out"),
    "study: out holds other things": (("search", "study.yaml", "--out", "."), "give another --out"),
    "study: no workers": (("search", "study.yaml", "--workers", "0"), "--workers"),
    "study: json is a folder": (("search", "study.yaml", "--json", "."), "--json"),
    "study: none": (("search",), "Missing argument"),
    # simulate
    "accelerator": (("simulate", "-a", "edge", "-w", "digits_resnet"), "nearest: 'edge_"),
    "accelerator: missing": (("simulate", "-a", "no.yaml", "-w", "digits_resnet"), "no.yaml: cannot be read"),
    "accelerator: NaN": (("simulate", "-a", "nan.yaml", "-w", "digits_resnet"), "nan.yaml: clock_mhz"),
    "accelerator: key": (("simulate", "-a", "key.yaml", "-w", "digits_resnet"), "key.yaml"),
    "network": (("simulate", "-a", "edge_os_16x16", "-w", "digits"), "did you mean 'digits_resnet'"),
    "topology: missing": (("simulate", "-a", "edge_os_16x16", "-w", "no.csv"), "no.csv: cannot be read"),
    "topology: binary": (("simulate", "-a", "edge_os_16x16", "-w", "binary.csv"), "binary.csv: holds bytes"),
    "topology: row": (("simulate", "-a", "edge_os_16x16", "-w", "row.csv"), "row.csv:2"),
    "workload: binary": (("simulate", "-a", "edge_os_16x16", "-w", "binary.json"), "binary.json: is no JSON"),
    "workload: text": (("simulate", "-a", "edge_os_16x16", "-w", "text.json"), "text.json: is no JSON"),
    "workload: onnx": (("simulate", "-a", "edge_os_16x16", "-w", "net.onnx"), "net.onnx: cannot be read"),
    "simulate: no accelerator": (("simulate", "-w", "digits_resnet"), "-a NAME"),
    "simulate: two accelerators": ((*SIMULATE, "--scalesim-config", "no.cfg"), "--scalesim-config"),
    "simulate: objective": (
        (*SIMULATE, "--objective", "power"),
        "objective 'power': choose one of energy, latency, edp",
    ),
    "simulate: mode": ((*SIMULATE, "--mode", "fast"), "mode 'fast': choose one of detailed, ideal"),
    "plan: no budget": (("plan", "-n", "digits_resnet", "-a", "edge_os_16x16"), "--latency-ms"),
    "plan for a file": (("simulate", "-a", "edge_os_16x16", "-w", "topology.csv", "--plan", "p_dense.json"), "--plan"),
    "plan: missing": ((*SIMULATE, "--plan", "no.json"), "no.json: cannot be read"),
    "plan: binary": ((*SIMULATE, "--plan", "binary"), "binary: is no text"),
    "plan: no JSON": ((*SIMULATE, "--plan", "study.yaml"), "study.yaml: is no JSON"),
    "plan: k > n": ((*SIMULATE, "--plan", "p_k.json"), "p_k.json: layers.conv1.mask: k = 9 is more than n = 4"),
    "plan: key": ((*SIMULATE, "--plan", "p_key.json"), "layers.conv1.msak: unknown key; did you mean 'mask'?"),
    "plan: network": ((*SIMULATE, "--plan", "p_other.json"), "p_other.json: network: the plan is for 'resnet20_cifar'"),
    "plan: layer": ((*SIMULATE, "--plan", "p_layer.json"), "p_layer.json: layers.conv7"),
    "plan: shape": ((*SIMULATE, "--plan", "p_shape.json"), "p_shape.json: layers.stages.1.conv1.filters.n = 99"),
    "plan: mask": ((*SIMULATE, "--plan", "p_mask.json"), "p_mask.json: layers.conv1.mask"),
    "plan: bits": ((*SIMULATE, "--plan", "p_bits.json"), "16 bits"),
    "set without =": ((*SIMULATE, "--set", "pe_array.rows"), "--set 'pe_array.rows' must read key=value"),
    "set without key": ((*SIMULATE, "--set", "=4"), "must read key=value"),
    "set unknown key": ((*SIMULATE, "--set", "pe_array.row=4"), "did you mean 'rows'"),
    "set NaN": ((*SIMULATE, "--set", "clock_mhz=.nan"), "clock_mhz"),
    "set negative": ((*SIMULATE, "--set", "pe_array.rows=-1"), "pe_array.rows"),
    "set zero": ((*SIMULATE, "--set", "vector_lanes=0"), "vector_lanes"),
    "set too small": ((*SIMULATE, "--set", "memories.input_buffer.capacity_bytes=1"), "set capacity_bytes to at least"),
    "set no YAML": ((*SIMULATE, "--set", "pe_array.rows={"), "no YAML"),
    "unknown option": ((*SIMULATE, "--row", "4"), "--row"),
    "no workload": (("simulate", "-a", "edge_os_16x16"), "--workload"),
    "json is a folder": ((*SIMULATE, "--json", "."), "--json"),
    # prune
    "prune: neither": (PRUNE, "--plan FILE or --keep SHARE"),
    "prune: both": ((*PRUNE, "--keep", "0.5", "--plan", "p_dense.json"), "--plan FILE or --keep SHARE"),
    "prune: keep 0": ((*PRUNE, "--keep", "0"), "--keep 0.0"),
    "prune: keep NaN": ((*PRUNE, "--keep", "nan"), "--keep nan"),
    "prune: keep text": ((*PRUNE, "--keep", "half"), "--keep"),
    "prune: lr NaN": ((*PRUNE, "--keep", "0.5", "--lr", "nan"), "--lr nan"),
    "prune: lr negative": ((*PRUNE, "--keep", "0.5", "--lr", "-1"), "--lr -1.0"),
    "prune: epochs": ((*PRUNE, "--keep", "0.5", "--epochs", "-1"), "--epochs"),
    "prune: criterion": ((*PRUNE, "--keep", "0.5", "--criterion", "l3"), "--criterion 'l3'"),
    "prune: network": (("prune", "-n", "digits", "-d", "digits", "--keep", "0.5"), "did you mean 'digits_resnet'"),
    "prune: data set": (("prune", "-n", "digits_resnet", "-d", "digit", "--keep", "1"), "did you mean 'digits'"),
    "prune: images": (("prune", "-n", "resnet20_cifar", "-d", "digits", "--keep", "1"), "choose another network"),
    "prune: accelerator": ((*PRUNE, "--keep", "0.5", "-a", "edge"), "not in the library"),
    "prune: weights alone": ((*PRUNE, "--keep", "0.5", "--weights", "w"), "needs the --plan"),
    "prune: weights missing": ((*PRUNE, "--plan", "p_dense.json", "--weights", "w"), "w: cannot be read"),
    "prune: weights text": ((*PRUNE, "--plan", "p_dense.json", "--weights", "study.yaml"), "no safetensors file"),
    "prune: plan missing": ((*PRUNE, "--plan", "no.json"), "no.json: cannot be read"),
    "prune: plan layer": ((*PRUNE, "--plan", "p_layer.json"), "p_layer.json: layers.conv7"),
    "prune: plan network": ((*PRUNE, "--plan", "p_other.json"), "p_other.json: network"),
    "prune: plan mask": ((*PRUNE, "--plan", "p_mask.json"), "p_mask.json"),
    # the rest
    "accelerators": (("accelerators", "edge"), "nearest: 'edge_"),
    "report": (("report", "nowhere"), "nowhere"),
    "validate: set": (("validate", "scale"), "nearest: 'scalesim'"),
    "validate: data without set": (("validate", "--data", "x"), "needs the name of its set"),
    "validate: data": (("validate", "scalesim", "--data", "nowhere"), "nowhere"),
    "command": (("serach",), "serach"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2_and_writes_nothing(case: str, place: Path) -> None:
    arguments, message = BAD[case]
    before = contents(place)
    ended = run_cli(*arguments)
    assert ended.code == 2, ended
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("error: ")
    assert message in ended.err
    assert contents(place) == before
    assert not (place / "runs").exists()


def test_debug_shows_the_traceback_of_bad_input(place: Path) -> None:
    ended = run_cli("--debug", "accelerators", "edge")
    assert ended.code == 2
    assert "Traceback" in ended.err
    assert "Traceback" not in run_cli("accelerators", "edge").err


def test_an_error_of_our_own_is_not_called_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("cosim.commands.accelerators.run_accelerators_command", wrong)
    with pytest.raises(ZeroDivisionError):
        run_cli("accelerators")


def test_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cosim.commands.search.run_search_command", interrupted)
    ended = run_cli("search", "study.yaml")
    assert ended.code == 130
    assert "--resume" in ended.err
    assert ended.err.count("\n") == 1


def test_a_disk_that_cannot_be_written_is_one_line_and_exit_code_1(place: Path) -> None:
    ended = run_cli(*SIMULATE, "--json", "topology.csv/out.json")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "topology.csv" in ended.err


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(command: str) -> None:
    ended = run_cli(command, "--help")
    assert ended.code == 0
    assert re.search(rf"Example: cosim {command}\b", " ".join(ended.out.split())), ended.out


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_lists_every_command(arguments: tuple[str, ...]) -> None:
    ended = run_cli(*arguments)
    assert ended.code == 0
    assert all(command in ended.out for command in COMMANDS)


def test_every_promised_command_is_there() -> None:
    assert {"search", "simulate", "prune", "accelerators", "report", "validate"} <= set(COMMANDS)


# simulate


def test_simulate_writes_what_it_shows(place: Path) -> None:
    ended = run_cli(*SIMULATE, "--json", "out.json")
    assert ended.code == 0
    found = json.loads((place / "out.json").read_text())
    assert set(found["total"]) == {
        *("latency_cycles", "latency_ms", "energy_pj", "dram_bytes", "macs", "utilization", "area_mm2"),
        "peak_activation_bytes",
    }
    assert f"{found['total']['latency_cycles']:,} cycles" in ended.out
    assert all(layer["name"] in ended.out for layer in found["layers"])
    for layer in found["layers"]:
        stalls = sum(layer["stall_cycles"].values())
        assert layer["latency_cycles"] == layer["compute_cycles"] + stalls


def test_set_changes_the_machine_and_may_be_repeated(place: Path) -> None:
    assert run_cli(*SIMULATE, "--json", "a.json").code == 0
    settings = ("--set", "pe_array.rows=4", "--set", "memories.dram.bandwidth_bytes_per_cycle=1")
    assert run_cli(*SIMULATE, *settings, "--json", "b.json").code == 0
    a, b = (json.loads((place / name).read_text())["total"] for name in ("a.json", "b.json"))
    assert b["latency_cycles"] > a["latency_cycles"]
    assert b["area_mm2"] < a["area_mm2"]


def test_a_plan_that_prunes_nothing_costs_what_the_network_costs(place: Path) -> None:
    assert run_cli(*SIMULATE, "--json", "a.json").code == 0
    assert run_cli(*SIMULATE, "--plan", "p_dense.json", "--json", "b.json").code == 0
    assert (place / "a.json").read_text() == (place / "b.json").read_text()


def loaded(code: str, folder: Path) -> set[str]:
    """Which of the heavy packages a fresh process has imported after running the command line."""
    script = f"""
import json, sys
sys.argv = ["cosim", *{code}]
from cosim.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = ("torch", "optuna", "sklearn", "plotly", "matplotlib", "scipy", "safetensors")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_simulating_a_topology_loads_no_torch_and_no_optuna(place: Path) -> None:
    found = loaded('["simulate", "-a", "edge_os_16x16", "-w", "topology.csv"]', place)
    assert not found & {"torch", "optuna", "sklearn", "plotly", "matplotlib", "safetensors"}


def test_simulating_a_network_loads_no_optuna(place: Path) -> None:
    found = loaded('["simulate", "-a", "edge_os_16x16", "-w", "digits_resnet", "--plan", "p_dense.json"]', place)
    assert "torch" in found
    assert not found & {"optuna", "sklearn", "plotly", "matplotlib"}


# accelerators, prune, search


def test_accelerators_are_listed_and_shown_with_the_source_of_every_price(cosim: Callable[..., Ended]) -> None:
    listed = cosim("accelerators")
    assert listed.code == 0
    assert all(name in listed.out for name in library_names())
    card = cosim("accelerators", "edge_os_16x16")
    assert card.code == 0
    assert "CACTI 7" in card.out
    assert "total area" in card.out


def test_accelerators_write_json(cosim: Callable[..., Ended], place: Path) -> None:
    assert cosim("accelerators", "edge_os_16x16", "--json", "card.json").code == 0
    card = json.loads((place / "card.json").read_text())
    assert all(price["source"] for price in card["prices"].values())
    assert card["accelerator"]["pe_array"]["rows"] == 16


def test_prune_keeps_a_share_and_its_files_give_the_same_accuracy(place: Path) -> None:
    ended = run_cli(*PRUNE, "--keep", "0.5", "--dense-epochs", "2", "--epochs", "1", "-a", "edge_os_16x16",
                    "--out", "half", "--json", "half.json")  # fmt: skip
    assert ended.code == 0, ended.err
    table = json.loads((place / "half.json").read_text())
    dense, pruned = table["dense"], table["pruned"]
    assert 0.2 < pruned["macs"] / dense["macs"] < 0.35
    assert pruned["energy_pj"] < dense["energy_pj"]
    assert pruned["parameters"] < 0.3 * dense["parameters"]
    files = ("--plan", "half/plan.json", "--weights", "half/weights.safetensors")
    assert run_cli(*PRUNE, *files, "--json", "again.json").code == 0
    again = json.loads((place / "again.json").read_text())
    assert again["validation_accuracy"] == pruned["validation_finetuned"]
    assert again["test_accuracy"] == pruned["test_accuracy"]


def test_weights_of_another_plan_are_refused(tiny_run: Path, place: Path) -> None:
    weights = sorted((tiny_run / "weights").iterdir())[0]
    ended = run_cli(*PRUNE, "--plan", "p_dense.json", "--weights", weights)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "the plan makes" in ended.err


def test_weights_are_not_measured_on_images_that_they_were_trained_on(tiny_run: Path, place: Path) -> None:
    files = ("--plan", tiny_run / "plans/p00.json", "--weights", tiny_run / "weights/p00.safetensors")
    ended = run_cli(*PRUNE, *files, "--seed", "1")
    assert ended.code == 2
    assert "was trained with seed 0, not 1; add --seed 0" in ended.err


def test_search_ends_with_the_table_and_the_path_of_the_report(study_file: Path, tiny_run: Path, place: Path) -> None:
    ended = run_cli("search", study_file, "--out", tiny_run, "--resume", "--workers", 1, "--json", "front.json")
    assert ended.code == 0
    points = json.loads((place / "front.json").read_text())["points"]
    assert all(point["id"] in ended.out for point in points)
    assert ended.out.strip().splitlines()[-2] == f"report: {tiny_run / 'report.html'}"
    assert "12 trials (" in ended.out


def test_the_example_study_is_what_the_help_names() -> None:
    assert "examples/digits.yaml" in run_cli("search", "--help").out
    assert yaml.safe_load(EXAMPLE.read_text())["name"] == "digits"
