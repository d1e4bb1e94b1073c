"""`cosim prune --resume`: the same bits after an interruption, and no other run's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cosim.commands import prune as command
from cosim.pruning.mask_methods import method_names
from tests.cosim.conftest import contents, run_cli
from tests.cosim.pruned_run import LENET, PRUNE, pruned, train_dense


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained dense network."""
    return train_dense(tmp_path_factory)


class Stop(KeyboardInterrupt):
    """In place of a ctrl-c."""


def interrupt(monkeypatch: pytest.MonkeyPatch, training: str, epoch: int) -> None:
    """The next run ends after this epoch of this training."""
    show = command._Screen.show

    def stopping(self: Any, name: str, done: int, total: int) -> None:
        show(self, name, done, total)
        if (name, done) == (training, epoch):
            raise Stop

    monkeypatch.setattr(command._Screen, "show", stopping)


def left(out: Path) -> dict[str, bytes]:
    """Everything that must be the same."""
    return {name: data for name, data in contents(out).items() if not name.endswith(".png")}


@pytest.mark.parametrize("method", method_names())
def test_an_interrupted_run_goes_on_to_the_same_bits(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*LENET, "--method", method, "--dense-epochs", "2", "--distill")
    pruned(tmp_path / "whole", *arguments)
    for training, epoch in (("dense", 1), ("finetune", 1), ("finetune", 2)):
        with monkeypatch.context() as patch:
            interrupt(patch, training, epoch)
            assert run_cli(*arguments, "--out", tmp_path / "parts", "--resume").code == 130
    pruned(tmp_path / "parts", *arguments, "--resume")
    assert left(tmp_path / "parts") == left(tmp_path / "whole")


def test_steps_interrupted_go_on_to_the_same_bits(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = (
        "--step-epochs",
        "2",
        "--epochs",
        "2",
        "--crop-padding",
        "1",
        "--k",
        "2",
        "--n",
        "4",
        "--multiple",
        "4",
        "--exclude",
        "conv1",
        "--distill",
    )
    arguments = (*PRUNE[:-2], "--from", weights, "--macs-cut", "0.4", "--steps", "3", *tuned)
    pruned(tmp_path / "whole", *arguments)
    for training, epoch in (("step-01", 1), ("step-02", 0), ("step-02", 1), ("finetune", 1)):
        with monkeypatch.context() as patch:
            interrupt(patch, training, epoch)
            assert run_cli(*arguments, "--out", tmp_path / "parts", "--resume").code == 130
    pruned(tmp_path / "parts", *arguments, "--resume")
    assert left(tmp_path / "parts") == left(tmp_path / "whole")


def test_resuming_with_another_hyper_parameter_is_refused_by_its_name(weights: Path, tmp_path: Path) -> None:
    asked = (*PRUNE, "--from", weights, "--keep", "0.5", "--out", tmp_path / "run")
    assert run_cli(*asked).code == 0
    for changed, message in (
        (("--lr", "0.01"), "a run with lr 0.05, not 0.01; give --lr as it was"),
        (("--macs-cut", "0.5"), "one of the first three"),
        (("--density", "0.5"), "a run with density not given, not 0.5"),
    ):
        ended = run_cli(*asked, *changed, "--resume")
        assert ended.code == 2
        assert message in ended.err
    done = run_cli(*asked, "--resume")
    assert (done.code, "finetuned" in done.out, "epochs" in done.out) == (0, True, False)


def test_an_earlier_run_is_moved_aside_and_other_files_are_left_alone(weights: Path, tmp_path: Path) -> None:
    asked = (*PRUNE, "--from", weights, "--keep", "0.5", "--epochs", "0")
    first = pruned(tmp_path / "run", *asked)
    pruned(tmp_path / "run", *asked, "--seed", "1")
    assert json.loads((tmp_path / "run.old-1" / "results.json").read_text()) == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "give another" in run_cli(*asked, "--out", tmp_path / "mine").err
