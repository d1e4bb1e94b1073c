"""Reading a user's weights into a network: safetensors, or a state_dict that torch saved."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosim.errors import ConfigError
from cosim.files import read_tensors

_OPTIONAL = "num_batches_tracked"
"""Batch normalisation counts its batches; files older than torch 0.4.1 and stripped ones lack the counters."""
_WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts keep the state_dict in a checkpoint."""


def load_weights(network: nn.Module, path: Path | str, *, trust: bool = False) -> nn.Module:
    """Fill a network with the weights of a file.

    Parameters
    ----------
    network
        Changed in place, and returned; as it was where the file is refused.
    path
        `.safetensors`, or what `torch.save` wrote of a state_dict: plain, or under `state_dict` or `model` of a
        checkpoint. Names may begin with `module.` (of DataParallel); `num_batches_tracked` may lack.
    trust
        Also unpickle a file that holds other objects. Such a file can run any code: only for files of your own.

    Raises
    ------
    ConfigError
        The file is missing, damaged, no state_dict, or does not fit; the message names the first tensor that does not,
        with both shapes.
    """
    path = Path(path)
    state = read_tensors(path) if path.suffix == ".safetensors" else _read_state(path, trust)
    state = {_plain_name(name, state): tensor for name, tensor in state.items()}
    own = network.state_dict()
    _check(path, own, state)
    network.load_state_dict(own | state)
    return network


def _read_state(path: Path, trust: bool) -> dict[str, Tensor]:
    content = _unpickle(path, trust)
    if isinstance(content, nn.Module):
        content = content.state_dict()
    wrapped = next((key for key in _WRAPPERS if isinstance(content, Mapping) and key in content), None)
    state = content[wrapped] if wrapped is not None and isinstance(content[wrapped], Mapping) else content
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ConfigError(
            f"{path}: holds {type(content).__name__}, not a plain state_dict; save network.state_dict() and give that"
        )
    return {str(name): tensor for name, tensor in state.items()}


def _unpickle(path: Path, trust: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):
            raise ConfigError(
                f"{path}: is a pickle with other objects than tensors, which could run any code when read; save "
                "network.state_dict() where it was made and give that file"
            ) from error
        raise ConfigError(f"{path}: is no file of weights that torch saved; give a .pt or .safetensors file") from error
    except (RuntimeError, EOFError, ValueError, AttributeError, ImportError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: is damaged or no file of torch ({first}); fetch it again") from error


def _plain_name(name: str, state: Mapping[str, Tensor]) -> str:
    """Without the `module.` that DataParallel puts before every name."""
    return name.removeprefix("module.") if all(other.startswith("module.") for other in state) else name


def _check(path: Path, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    for name in (*own, *(name for name in given if name not in own)):
        if name not in given and name.rpartition(".")[2] == _OPTIONAL:
            continue
        shapes = [tuple(state[name].shape) if name in state else None for state in (own, given)]
        if shapes[0] is None:
            raise ConfigError(
                f"{path}: {name} {list(shapes[1] or ())} is no tensor of the network; give its own weights"
            )
        if shapes[1] is None:
            raise ConfigError(f"{path}: {name} {list(shapes[0])} of the network is missing; give its own weights")
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"{path}: {name} has shape {list(shapes[1])}, the network wants {list(shapes[0])}; "
                "give weights of the same network and number of classes"
            )
