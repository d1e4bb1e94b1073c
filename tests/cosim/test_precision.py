"""Training in bfloat16 on a CPU."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosim.data import load_dataset
from cosim.errors import ConfigError, TrainingError
from cosim.networks import build_network
from cosim.training import FitOptions, Recipe, evaluate, fit

RECIPE = Recipe(3, lr=0.003, optimizer="adam", precision="bfloat16")


def test_bfloat16_rounds_products_but_keeps_float32_weights_and_learns_as_well() -> None:
    data, start = load_dataset("digits", 0), build_network("digits_resnet", 0)
    rounded, exact = copy.deepcopy(start), copy.deepcopy(start)
    losses = fit(rounded, data.train, RECIPE, seed=0)
    plain = fit(exact, data.train, replace(RECIPE, precision="auto"), seed=0)
    assert all(tensor.dtype == torch.float32 for tensor in rounded.parameters())
    assert losses != plain
    assert losses == pytest.approx(plain, rel=0.1)
    assert evaluate(rounded, data.validation) == pytest.approx(evaluate(exact, data.validation), abs=0.05)


def test_a_checkpoint_of_another_precision_is_refused(tmp_path: Path) -> None:
    data, options = load_dataset("digits", 0), FitOptions(checkpoint=tmp_path / "fit.checkpoint")
    fit(build_network("digits_resnet", 0), data.train, replace(RECIPE, epochs=1), seed=0, options=options)
    with pytest.raises(ConfigError, match="precision"):
        fit(
            build_network("digits_resnet", 0),
            data.train,
            replace(RECIPE, epochs=1, precision="float32"),
            seed=0,
            options=options,
        )


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(TrainingError, match="precision is 'half'"):
        Recipe(1, precision="half")  # type: ignore[arg-type]
