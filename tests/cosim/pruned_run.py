"""Runs of `cosim prune` for tests: on the digits and on made-up images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cosim.conftest import run_cli

PRUNE = ("prune", "-n", "digits_resnet", "-d", "digits", "--epochs", "1")
LENET = ("prune", "-n", "lenet_300_100", "-d", "synthetic:1x28x28", "--density", "0.1", "--epochs", "3")
DENSE_MACS, DENSE_PARAMETERS = 763_520, 77_754


def train_dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained digits_resnet, as a run leaves it."""
    out = tmp_path_factory.mktemp("dense") / "run"
    ended = run_cli(*PRUNE, "--keep", "1", "--dense-epochs", "2", "--epochs", "0", "--out", out)
    assert ended.code == 0, ended.err
    return out / "dense.safetensors"


def pruned(out: Path, *arguments: object) -> dict[str, Any]:
    """Run, and give back the results; they are also what --json writes."""
    ended = run_cli(*arguments, "--out", out, "--json", out.parent / "shown.json")
    assert ended.code == 0, ended.err
    results = json.loads((out / "results.json").read_text())
    assert json.loads((out.parent / "shown.json").read_text()) == results
    return results
