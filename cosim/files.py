"""Files that are either whole or absent: written beside their place and moved there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from cosim.errors import ConfigError


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; its folder is made if need be."""
    _replace(path, lambda target: target.write_text(text, encoding="utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; a value that is no JSON number is refused, not written."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    ConfigError
        The file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: is no JSON: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically."""
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    _replace(path, lambda target: save_file(plain, target))


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises
    ------
    ConfigError
        The file is missing or no safetensors file.
    """
    try:
        return load_file(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); give a safetensors file") from error
    except Exception as error:  # safetensors raises its own kinds
        raise ConfigError(f"{path}: is no safetensors file ({error})") from error


def _replace(path: Path, write: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
