"""Workload: named layers in a graph of tensors."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel_models.errors import InvalidInputError
from accel_models.layers import PAIRS, Bits, Conv2d, Gemm, Layer, VectorOp

if TYPE_CHECKING:
    import networkx as nx

WORKLOAD_VERSION = 1
_KINDS: dict[str, type] = {"conv2d": Conv2d, "gemm": Gemm, "vector": VectorOp}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Layers in execution order, and which layer's output each one reads.

    Attributes
    ----------
    edges
        (producer, consumer) pairs of layer names.
    """

    name: str
    layers: tuple[Layer, ...]
    edges: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        names = Counter(layer.name for layer in self.layers)
        if not names:
            raise InvalidInputError(f"workload {self.name!r} has no layers")
        twice = sorted(name for name, times in names.items() if times > 1)
        if twice:
            raise InvalidInputError(f"workload {self.name!r}: layer names must differ, twice: {twice}")
        order: TopologicalSorter[str] = TopologicalSorter()
        for pair in self.edges:
            for end in pair:
                if end not in names:
                    raise InvalidInputError(f"workload {self.name!r}: edge {pair} names no layer {end!r}")
            order.add(pair[1], pair[0])
        try:
            order.prepare()
        except CycleError as error:
            cycle = " -> ".join(error.args[1])
            raise InvalidInputError(f"workload {self.name!r}: the edges form a cycle: {cycle}") from error

    @property
    def graph(self) -> nx.DiGraph:
        """The layers as nodes (attribute `layer`), an edge per tensor."""
        import networkx as nx  # a tenth of a second that only those who ask for the graph pay

        graph = nx.DiGraph()
        graph.add_nodes_from((layer.name, {"layer": layer}) for layer in self.layers)
        graph.add_edges_from(self.edges)
        return graph

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of all layers."""
        return sum(layer.macs for layer in self.layers if not isinstance(layer, VectorOp))

    def to_json(self) -> str:
        """The text of a workload file: a layer or an edge a line, without the fields that have their default."""
        head = json.dumps({"version": WORKLOAD_VERSION, "name": self.name})[:-1]
        layers = _lines([_layer_data(layer) for layer in self.layers])
        return f'{head}, "layers": {layers}, "edges": {_lines(self.edges)}}}\n'


def load_workload(path: Path | str) -> Workload:
    """Read a workload JSON.

    Raises
    ------
    InvalidInputError
        The file or a field cannot be used; the message names file and field.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: is no JSON: {error}") from error
    if not isinstance(data, dict) or data.get("version") != WORKLOAD_VERSION:
        raise InvalidInputError(f"{path}: version: must be {WORKLOAD_VERSION} at the top of a workload file")
    _check_keys(data, ("version", "name", "layers", "edges"), f"{path}")
    for key, kind in (("name", str), ("layers", list)):
        if not isinstance(data.get(key), kind):
            raise InvalidInputError(f"{path}: {key}: is missing or no {'text' if kind is str else 'list'}")
    layers = tuple(_layer(item, f"{path}: layers.{i}") for i, item in enumerate(data["layers"]))
    edges = _edges(data.get("edges", []), f"{path}: edges")
    try:
        return Workload(name=data["name"], layers=layers, edges=edges)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def _lines(items: Collection[Any]) -> str:
    """A JSON list, an item a line."""
    return "[\n" + ",\n".join(f" {json.dumps(item)}" for item in items) + "\n]"


def _layer_data(layer: Layer) -> dict[str, Any]:
    """The type and the fields of a layer that differ from their defaults; `_layer` reads it back."""
    kind = next(kind for kind, cls in _KINDS.items() if type(layer) is cls)
    return {"type": kind, **_changed_fields(layer)}


def _changed_fields(value: Any) -> dict[str, Any]:
    data = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if field.default is MISSING or item != field.default:
            data[field.name] = _changed_fields(item) if isinstance(item, Bits) else item
    return data


def _layer(item: Any, where: str) -> Layer:
    if not isinstance(item, dict):
        raise InvalidInputError(f"{where}: must hold the keys and values of a layer, not {item!r}")
    values = dict(item)
    kind = values.pop("type", None)
    if kind not in list(_KINDS):
        raise InvalidInputError(f"{where}.type: {kind!r} is none of {sorted(_KINDS)}")
    _check_keys(values, [field.name for field in fields(_KINDS[kind])], where)
    if "bits" in values:
        if not isinstance(values["bits"], dict):
            raise InvalidInputError(f"{where}.bits: must hold widths by operand, not {values['bits']!r}")
        _check_keys(values["bits"], [field.name for field in fields(Bits)], f"{where}.bits")
        values["bits"] = Bits(**values["bits"])
    for name in PAIRS:
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    try:
        return _KINDS[kind](**values)
    except TypeError as error:  # a field is missing: the message names it
        raise InvalidInputError(f"{where}: {str(error).split('() ')[-1]}") from error
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error


def _edges(items: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(items, list):
        raise InvalidInputError(f"{where}: must be a list of [producer, consumer], not {items!r}")
    for i, item in enumerate(items):
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(name, str) for name in item):
            raise InvalidInputError(f"{where}.{i}: must be [producer, consumer], two layer names, not {item!r}")
    return tuple((producer, consumer) for producer, consumer in items)


def _check_keys(data: dict[str, Any], known: Collection[str], where: str) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise InvalidInputError(f"{where}: unknown key {key!r}; nearest: {near!r}")
