"""cosim capture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from accel_models.masks import Mask
from cosim.codesign.check import check_images
from cosim.codesign.evaluator import one_thread
from cosim.commands.show import count, percent, save, table
from cosim.commands.zeros import write_activation_masks
from cosim.compress import load_own_plan, read_compressed
from cosim.data import load_dataset
from cosim.errors import ConfigError
from cosim.extract import capture_activations
from cosim.networks import build_network, load_weights


@dataclass(frozen=True, kw_only=True)
class CaptureRequest:
    """The options of `cosim capture`."""

    network: str
    dataset: str
    weights: Path
    out: Path
    plan: Path | None = None
    images: int = 4
    seed: int = 0
    data_root: Path | None = None


def run_capture_command(request: CaptureRequest, json_path: Path | None, console: Console) -> None:
    """Run a trained network on validation images and write which inputs of its layers are not zero.

    Raises
    ------
    ConfigError
        An option or a file cannot be used; network, data, plan and weights do not belong together.
    """
    one_thread()
    data = load_dataset(request.dataset, request.seed, root=request.data_root)
    if request.images > len(data.validation):
        raise ConfigError(f"--images {request.images}: {request.dataset} has {len(data.validation)} validation images")
    model = build_network(request.network)
    check_images(model, request.network, data)
    trained = _trained(request, model, torch.zeros(1, *data.input_shape))
    masks = capture_activations(trained, data.validation.batch(slice(0, request.images)))
    origin = {
        "network": request.network,
        "dataset": request.dataset,
        "images": request.images,
        "seed": request.seed,
        "weights": request.weights.name,
        "plan": None if request.plan is None else request.plan.name,
    }
    write_activation_masks(request.out, masks, origin)
    _show(request, masks, console)
    save(json_path, {name: mask.density for name, mask in masks.items()}, console)


def _trained(request: CaptureRequest, model: nn.Module, example: torch.Tensor) -> nn.Module:
    if request.plan is None:
        return load_weights(model, request.weights)
    plan = load_own_plan(request.plan, request.network)
    return read_compressed(model, example, plan, request.plan, request.weights)


def _show(request: CaptureRequest, masks: Mapping[str, Mask], console: Console) -> None:
    rows = [[name, " x ".join(map(str, mask.shape[1:])), percent(mask.density)] for name, mask in masks.items()]
    title = f"inputs of {request.network} that are not zero, {request.images} images of {request.dataset}"
    console.print(table(title, ["layer", "inputs", "not zero"], rows, left=2))
    kept, elements = (sum(getattr(mask, what) for mask in masks.values()) for what in ("nonzeros", "elements"))
    share = f"{percent(kept / elements)} of {count(elements)} inputs are not zero"
    console.print(f"written: {request.out}, {len(masks)} layers, {share}", markup=False, soft_wrap=True)
