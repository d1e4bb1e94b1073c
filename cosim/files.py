"""Files that are either whole or absent: written beside their place and moved there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosim.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

_ORIGIN = "origin"


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; its folder is made if need be."""
    replace_file(path, lambda target: target.write_text(text, encoding="utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; a value that is no JSON number is refused, not written."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def move_aside(path: Path) -> None:
    """Rename to the first of `<path>.old-1`, … that is free."""
    path, number = path.resolve(), 1
    while (old := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(old)


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no JSON: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], origin: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically; `origin` says what the tensors belong to."""
    from safetensors.torch import save_file

    metadata = {
        _ORIGIN: json.dumps(dict(origin or {}), sort_keys=True)
    }  # one entry: the format keeps no order of several
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    replace_file(path, lambda target: save_file(plain, target, metadata))


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises
    ------
    ConfigError
        The file is missing or no safetensors file.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); give a safetensors file") from error
    except Exception as error:  # safetensors raises its own kinds
        raise ConfigError(f"{path}: is no safetensors file ({error})") from error


def read_origin(path: Path | str) -> dict[str, str]:
    """What the tensors of a safetensors file belong to; empty where the file does not say."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(json.loads((file.metadata() or {}).get(_ORIGIN, "{}")))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a file beside `path`, then move it there."""
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
