"""One small study, run once for all tests that look at what a run leaves behind; the command line in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor, nn

from cosim import cli
from cosim.data import Dataset, Split, load_digits
from cosim.networks import build_network

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.yaml"


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run_cli(*arguments: object) -> Ended:
    """Run `cosim` with these arguments in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["cosim", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        return Ended(int(ended.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("main returned without an exit code")


def tiny(**changes: Any) -> dict[str, Any]:
    """examples/digits.yaml made small; `changes` replace values, `hardware__base="x"` reaches inside."""
    study: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    study["name"], study["repeats"] = "tiny", 2
    study["search"] |= {"trials": 12, "population": 6, "batch": 3, "random_baseline": False}
    study["training"] |= {"finetune_epochs": 1, "dense_epochs": 2}
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = study
        for part in parents:
            node = node[part]
        node[last] = value
    return study


def write_study(path: Path, study: Any) -> Path:
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def front(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "front.json").read_text())


def trials(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "trials.json").read_text())


@pytest.fixture(scope="session")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "tiny.yaml", tiny())


@pytest.fixture(scope="session")
def tiny_run(study_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, in one process; treat it as read-only."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    ended = run_cli("search", study_file, "--out", out, "--workers", 1)
    assert ended.code == 0, ended.err
    return out


@pytest.fixture
def cosim() -> Callable[..., Ended]:
    """`cosim("simulate", "-a", …)` in this process."""
    return run_cli


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads only wait for each other on networks this small, and far longer where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """Treat it as read-only."""
    return load_digits(seed=0)


@pytest.fixture(scope="session")
def small(digits: Dataset) -> Split:
    """130 images of the digits; treat them as read-only."""
    return Split(digits.train.images[:130], digits.train.labels[:130])


def small_network(seed: int = 0) -> nn.Module:
    return build_network("digits_resnet", seed)


def flat_state(model: nn.Module) -> Tensor:
    """All that a network holds, as one vector."""
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])
