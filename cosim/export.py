"""A pruned network as files that others read: torch.export program, ONNX, safetensors with its plan.

Every file is written beside its place, loaded back, run on random input and compared with the network; only then it
takes its place. ONNX needs the extra `onnx`; onnxruntime runs the file if it is installed, else onnx' own (slow)
reference does.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosim.errors import ConfigError, PruningError
from cosim.files import read_tensors, replace_file, write_tensors
from cosim.pruning.activation_bits import ActivationQuantizer
from cosim.pruning.apply import apply_plan, attach_input_bits
from cosim.pruning.dpp import freeze_masks
from cosim.pruning.plan import PruningPlan, load_plan
from cosim.pruning.quantize import freeze_quantizers
from cosim.pruning.removal import TOLERANCE, flat_outputs, output_difference, random_inputs

Masks = Literal["fold", "drop"]
Example = Tensor | tuple[Any, ...]


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how far the network loaded from it is from the one exported."""

    path: Path
    difference: float
    """Largest difference of the outputs, relative to the largest output."""


def plain_network(model: nn.Module, masks: Masks = "fold") -> nn.Module:
    """A copy with plain weights and fixed ranges of quantized inputs, in eval mode.

    Parameters
    ----------
    masks : "fold" or "drop"
        Multiply the masks (and quantizers) into the weights, or leave them out: the dense weights.
    """
    plain = copy.deepcopy(model).eval()
    for module in plain.modules():
        _own_class(module)
    if masks == "fold":
        freeze_masks(plain)
        freeze_quantizers(plain)
    for module in plain.modules():
        if isinstance(module, ActivationQuantizer):
            module.fix()
        if parametrize.is_parametrized(module, "weight") and isinstance(module, nn.Module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=masks == "fold")
    return plain


def _own_class(module: nn.Module) -> None:
    """A parametrized module keeps its weight as a property of its class, which a copy shares with the original."""
    if parametrize.is_parametrized(module):
        old = type(module)
        entries = {name: value for name, value in vars(old).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(old.__name__, old.__bases__, entries)


def export_program(model: nn.Module, example: Example, path: Path, *, masks: Masks = "fold") -> Exported:
    """Write a torch.export program (.pt2) for inputs of the example's shape; `torch.export.load` reads it.

    Raises
    ------
    PruningError
        torch.export cannot record the network, or the file gives other outputs.
    """
    plain, inputs = plain_network(model, masks), _arguments(example)
    try:
        program = torch.export.export(plain, inputs, strict=False)
    except Exception as error:  # torch.export has no common base
        raise PruningError(f"{path}: torch.export cannot record the network: {_one_line(error)}") from error
    buffer = io.BytesIO()
    torch.export.save(program, buffer)

    def load(written: Path) -> Callable[..., Any]:
        return torch.export.load(io.BytesIO(written.read_bytes())).module()

    return _write_checked(path, buffer.getvalue(), load, plain, example)


def export_onnx(model: nn.Module, example: Example, path: Path, *, masks: Masks = "fold") -> Exported:
    """Write an ONNX file for inputs of the example's shape; the weights are in the file.

    Raises
    ------
    ConfigError
        The packages onnx and onnxscript are not installed.
    PruningError
        The network cannot be exported, or the file gives other outputs.
    """
    _require("onnx", "onnxscript")
    plain, inputs = plain_network(model, masks), _arguments(example)
    try:
        with warnings.catch_warnings(), _quiet("torch.onnx"):
            warnings.simplefilter("ignore")  # the exporter's own
            program = torch.onnx.export(plain, inputs, dynamo=True, verbose=False, external_data=False)
    except Exception as error:  # the exporter has no common base
        raise PruningError(f"{path}: the network cannot be written as ONNX: {_one_line(error)}") from error
    assert program is not None
    return _write_checked(path, program.model_proto.SerializeToString(), _onnx_runner, plain, example)


def export_weights(
    model: nn.Module, example: Example, folder: Path, plan: PruningPlan, original: nn.Module, *, masks: Masks = "fold"
) -> Exported:
    """Write weights.safetensors and plan.json, from which the network is rebuilt: `load_exported(folder, original)`.

    Parameters
    ----------
    original
        A network as it was before `plan`; its weights do not matter.

    Raises
    ------
    PruningError
        The plan does not make this network of the original.
    """
    plain = plain_network(model, masks)
    state = plain.state_dict()

    def load(written: Path) -> nn.Module:
        return _rebuilt(written, plan, original, example)

    differences: list[float] = []

    def write(target: Path) -> None:
        write_tensors(target, state, {"network": plan.network})
        differences.append(_compare(target, load(target), plain, example))

    path = folder / "weights.safetensors"
    replace_file(path, write)
    replace_file(folder / "plan.json", lambda target: target.write_text(plan.to_json(), encoding="utf-8"))
    return Exported(path, differences[0])


def load_exported(folder: Path, original: nn.Module, example: Example) -> nn.Module:
    """Rebuild a network from weights.safetensors and plan.json.

    Parameters
    ----------
    original
        A network as it was before the plan; its weights do not matter.

    Raises
    ------
    ConfigError
        A file is missing or unreadable.
    PruningError
        Plan, weights and network do not belong together.
    """
    return _rebuilt(folder / "weights.safetensors", load_plan(folder / "plan.json"), original, example)


def _rebuilt(weights: Path, plan: PruningPlan, original: nn.Module, example: Example) -> nn.Module:
    network = apply_plan(original, example, plan, verify=False)
    attach_input_bits(network, plan)
    own, given = network.state_dict(), read_tensors(weights)
    for name in [*own, *(name for name in given if name not in own)]:
        shapes = [tuple(state[name].shape) if name in state else "missing" for state in (own, given)]
        if shapes[0] != shapes[1]:
            raise PruningError(f"{weights}: {name}: the plan makes {shapes[0]}, the file holds {shapes[1]}")
    network.load_state_dict(given)
    return network.eval()


def _write_checked(
    path: Path, content: bytes, load: Callable[[Path], Callable[..., Any]], plain: nn.Module, example: Example
) -> Exported:
    differences: list[float] = []

    def write(target: Path) -> None:
        target.write_bytes(content)
        differences.append(_compare(path, load(target), plain, example))

    replace_file(path, write)
    return Exported(path, differences[0])


def _compare(path: Path, loaded: Callable[..., Any], plain: nn.Module, example: Example) -> float:
    inputs = random_inputs(plain, example, seed=1)
    with torch.no_grad():
        expected, found = flat_outputs(plain(*inputs)), flat_outputs(loaded(*inputs))
    difference = output_difference(expected, found)
    if not difference <= TOLERANCE:
        raise PruningError(
            f"{path}: the network loaded back gives outputs that differ by {difference:.1e} of the largest (allowed "
            f"{TOLERANCE:.0e}); nothing was written"
        )
    return difference


def _onnx_runner(path: Path) -> Callable[..., list[Tensor]]:
    """Run an ONNX file on tensors."""
    try:
        import onnxruntime  # type: ignore[import-not-found, unused-ignore]

        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
    except ImportError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(onnx.load_model_from_string(path.read_bytes()))
        names = list(session.input_names)

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True))
        outputs: Sequence[Any] = session.run(None, feed)
        return [torch.from_numpy(np.array(output)) for output in outputs]

    return run


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Errors only: the exporter lists what it does without."""
    found = logging.getLogger(logger)
    level = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(level)


def _require(*packages: str) -> None:
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX export needs {' and '.join(missing)}; run pip install 'cosim[onnx]'")


def _arguments(example: Example) -> tuple[Any, ...]:
    return tuple(example) if isinstance(example, tuple | list) else (example,)


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


__all__ = ["Exported", "export_onnx", "export_program", "export_weights", "load_exported", "plain_network"]
