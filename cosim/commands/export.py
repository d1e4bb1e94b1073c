"""cosim export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from rich.console import Console
from torch import Tensor, nn

from cosim.commands.show import count
from cosim.compress import load_compressed
from cosim.errors import ConfigError, PruningError
from cosim.export import Exported, Masks, export_onnx, export_program, export_weights, plain_network
from cosim.files import read_tensors
from cosim.networks import build_network, load_weights, network_example
from cosim.pruning.apply import apply_plan, attach_plan
from cosim.pruning.plan import PruningPlan, load_plan
from cosim.pruning.removal import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The options of `cosim export`."""

    network: str
    format: str
    out: Path
    plan: Path | None = None
    weights: Path | None = None
    masks: str = "fold"


@dataclass(frozen=True)
class _Subject:
    """The network to write, and what it is made of."""

    network: nn.Module
    example: Tensor
    plan: PruningPlan
    masks: Masks


_Writer = Callable[[_Subject, Path], Exported]


def run_export_command(request: ExportRequest, console: Console) -> None:
    """Write a network for others to run; what was written is loaded back, run and compared.

    Raises
    ------
    ConfigError
        An option or a file cannot be used; plan, weights and network do not belong together.
    PruningError
        The network cannot be written in this format, or the file gives other outputs; then there is no file.
    """
    write = _writer(request)
    if request.masks not in ("fold", "drop"):
        raise ConfigError(f"--masks {request.masks!r} must be fold (zeros among the weights) or drop (dense weights)")
    subject = _subject(request)
    if request.weights is None:
        console.print("notice: without --weights the weights are random: good for speed, not for use", style="yellow")
    written = write(subject, request.out)
    size = written.path.stat().st_size
    parameters = sum(weight.numel() for weight in plain_network(subject.network, subject.masks).parameters())
    console.print(
        f"written: {written.path} ({count(size)} bytes, {count(parameters)} parameters)", markup=False, soft_wrap=True
    )
    console.print(
        f"loaded back: on random input its outputs differ by {written.difference:.1e} of the largest "
        f"(allowed {TOLERANCE:.0e})",
        soft_wrap=True,
    )


def _writer(request: ExportRequest) -> _Writer:
    """The function that writes the format; also checks that the place fits it."""
    if request.format not in _WRITERS:
        near = get_close_matches(request.format, _WRITERS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"--format {request.format!r} is none of {', '.join(_WRITERS)}; did you mean {near!r}?")
    suffix, out = _SUFFIXES.get(request.format, ""), request.out
    if suffix and (out.suffix != suffix or out.is_dir()):
        raise ConfigError(f"--out {out}: give a file that ends with {suffix} for --format {request.format}")
    if not suffix and (out.suffix or out.is_file()):
        raise ConfigError(f"--out {out}: give a folder for --format {request.format}, which is two files")
    return _WRITERS[request.format]


def _subject(request: ExportRequest) -> _Subject:
    model, example = build_network(request.network).eval(), network_example(request.network)
    masks = cast(Masks, request.masks)
    if request.plan is None:
        if request.weights is not None:
            load_weights(model, request.weights)
        return _Subject(model, example, PruningPlan(network=request.network), masks)
    plan = load_plan(request.plan)
    if plan.network != request.network:
        raise ConfigError(f"{request.plan}: network: the plan is for {plan.network!r}, not for {request.network!r}")
    return _Subject(_planned(request, model, example, plan), example, plan, masks)


def _planned(request: ExportRequest, model: nn.Module, example: Tensor, plan: PruningPlan) -> nn.Module:
    """The pruned network: with the weights that belong to the plan, whose masks are zeros, or with random ones."""
    try:
        if request.weights is None:
            pruned = apply_plan(model, example, plan)
            attach_plan(pruned, plan, seed=0)
            return pruned.eval()
        if request.masks == "drop" and any(layer.mask is not None for layer in plan.layers.values()):
            raise ConfigError(
                f"--masks drop: the masks of {request.plan} are zeros in {request.weights}; leave --masks out"
            )
        return load_compressed(model, example, plan, read_tensors(request.weights))
    except PruningError as error:
        belong = f"; give the weights that belong to {request.plan}" if request.weights is not None else ""
        raise ConfigError(f"{request.weights or request.plan}: {error}{belong}") from error


def _write_onnx(subject: _Subject, out: Path) -> Exported:
    return export_onnx(subject.network, subject.example, out, masks=subject.masks)


def _write_program(subject: _Subject, out: Path) -> Exported:
    return export_program(subject.network, subject.example, out, masks=subject.masks)


def _write_weights(subject: _Subject, out: Path) -> Exported:
    original = build_network(subject.plan.network)
    return export_weights(subject.network, subject.example, out, subject.plan, original, masks=subject.masks)


_WRITERS: dict[str, _Writer] = {"onnx": _write_onnx, "program": _write_program, "safetensors": _write_weights}
_SUFFIXES = {"onnx": ".onnx", "program": ".pt2"}
