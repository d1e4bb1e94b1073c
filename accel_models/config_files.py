"""Configuration files: YAML in, key paths, and errors that name file, field and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from accel_models.errors import InvalidInputError


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: is no YAML: it holds bytes that are no text; check the path") from error
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InvalidInputError(f"{path}: must hold keys and values at the top, not {type(data).__name__}")
    return data


def set_by_path(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """data["a"]["b"] = value for key "a.b"; in a list a part is the name of an item, or its position."""
    *parents, last = key.split(".")
    node: Any = data
    for part in parents:
        node = _child(node, part, key, where)
    node[_place(node, last, key, where)] = value


def _child(node: Any, part: str, key: str, where: str) -> Any:
    place = _place(node, part, key, where)
    return node.setdefault(place, {}) if isinstance(node, dict) else node[place]


def _place(node: Any, part: str, key: str, where: str) -> Any:
    """Key or index of a part of a path."""
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise InvalidInputError(f"{where}: {key}: {part!r} is inside a value that has no fields")
    names = [item.get("name") for item in node if isinstance(item, dict)]
    if part in names:
        return next(i for i, item in enumerate(node) if isinstance(item, dict) and item.get("name") == part)
    if part.isdecimal() and int(part) < len(node):
        return int(part)
    raise InvalidInputError(f"{where}: {key}: no item is named {part!r}; there are {names or len(node)}")


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """One line for the first fault of a pydantic error: origin, field path, value, remedy."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"]) or "(top)"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        keys = list(_model_at(model, first["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(first["loc"][-1]), keys, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(keys)}"
        return f"{where}: {path}: unknown key{hint}"
    given = "" if first["type"] == "missing" or isinstance(first["input"], dict) else f" (given: {first['input']!r})"
    return f"{where}: {path}: {message}{given}"


def _model_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model whose fields stand at a place inside `model`."""
    for part in loc:
        field = model.model_fields.get(str(part))
        model = next(_models_in(field.annotation), model) if field is not None else model
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)
