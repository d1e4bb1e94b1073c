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
from cosim.compress import load_own_plan, read_compressed
from cosim.errors import ConfigError, PruningError
from cosim.export import Exported, Masks, export_onnx, export_program, export_weights, plain_network
from cosim.networks import build_network, load_weights, network_example
from cosim.pruning.apply import apply_plan, attach_plan
from cosim.pruning.plan import PruningPlan
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
    plan = load_own_plan(request.plan, request.network)
    if request.weights is None:
        return _Subject(_with_random_weights(request.plan, model, example, plan), example, plan, masks)
    if masks == "drop" and any(layer.mask is not None for layer in plan.layers.values()):
        raise ConfigError(
            f"--masks drop: the masks of {request.plan} are zeros in {request.weights}; leave --masks out"
        )
    return _Subject(read_compressed(model, example, plan, request.plan, request.weights), example, plan, masks)


def _with_random_weights(path: Path, model: nn.Module, example: Tensor, plan: PruningPlan) -> nn.Module:
    try:
        pruned = apply_plan(model, example, plan)
        attach_plan(pruned, plan, seed=0)
    except PruningError as error:
        raise ConfigError(f"{path}: {error}") from error
    return pruned.eval()


def _write_onnx(subject: _Subject, out: Path) -> Exported:
    return export_onnx(subject.network, subject.example, out, masks=subject.masks)


def _write_program(subject: _Subject, out: Path) -> Exported:
    return export_program(subject.network, subject.example, out, masks=subject.masks)


def _write_weights(subject: _Subject, out: Path) -> Exported:
    original = build_network(subject.plan.network)
    return export_weights(subject.network, subject.example, out, subject.plan, original, masks=subject.masks)


_WRITERS: dict[str, _Writer] = {"onnx": _write_onnx, "program": _write_program, "safetensors": _write_weights}
_SUFFIXES = {"onnx": ".onnx", "program": ".pt2"}
