"""Accuracy when one group alone loses channels: figure and numbers of a run."""

from __future__ import annotations

from functools import partial

from torch import nn

from cosim.compress import Trained
from cosim.prune_run.running import Run
from cosim.pruning.sensitivity import measure_sensitivity, write_sensitivity_figure
from cosim.training import evaluate

IMAGES = 1024
"""Training images that recalibrate each candidate: one batch of `recalibrate_batchnorm`."""


def write_sensitivity(run: Run, dense: Trained) -> dict[str, dict[str, float]]:
    """Write sensitivity.png; group -> share kept -> accuracy (validation, or test where validation is trained on)."""
    judge = partial(_judge, run)
    found = measure_sensitivity(dense.model, dense.example, dense.groups, dense.scores, judge)
    write_sensitivity_figure(found, run.folder.path / "sensitivity.png")
    shares = [str(share) for share in found.keep]
    return {name: dict(zip(shares, values, strict=True)) for name, values in found.accuracy.items()}


def _judge(run: Run, model: nn.Module) -> float:
    run.recalibrate(model, min(IMAGES, len(run.data.train)))
    return evaluate(model, run.data.test if run.recipe.all_images else run.data.validation)
