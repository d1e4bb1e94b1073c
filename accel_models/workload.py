"""Workload: named layers in a graph of tensors."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import networkx as nx

from accel_models.errors import InvalidInputError
from accel_models.layers import Bits, Conv2d, Gemm, Layer, VectorOp

WORKLOAD_VERSION = 1
_KINDS: dict[str, type] = {"conv2d": Conv2d, "gemm": Gemm, "vector": VectorOp}
_PAIRS = ("stride", "padding", "dilation", "input_size")


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
        names = [layer.name for layer in self.layers]
        if not names:
            raise InvalidInputError(f"workload {self.name!r} has no layers")
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise InvalidInputError(f"workload {self.name!r}: layer names must differ, twice: {sorted(twice)}")
        for pair in self.edges:
            for end in pair:
                if end not in names:
                    raise InvalidInputError(f"workload {self.name!r}: edge {pair} names no layer {end!r}")
        if not nx.is_directed_acyclic_graph(self.graph):
            raise InvalidInputError(f"workload {self.name!r}: the edges form a cycle")

    @property
    def graph(self) -> nx.DiGraph:
        """The layers as nodes (attribute `layer`), an edge per tensor."""
        graph = nx.DiGraph()
        graph.add_nodes_from((layer.name, {"layer": layer}) for layer in self.layers)
        graph.add_edges_from(self.edges)
        return graph

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of all layers."""
        return sum(layer.macs for layer in self.layers if not isinstance(layer, VectorOp))

    def to_json(self) -> str:
        kinds = {cls: kind for kind, cls in _KINDS.items()}
        layers = [{"type": kinds[type(layer)], **asdict(layer)} for layer in self.layers]
        data = {"version": WORKLOAD_VERSION, "name": self.name, "layers": layers, "edges": self.edges}
        return json.dumps(data, indent=1) + "\n"


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
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{path}: is no JSON: {error}") from error
    if not isinstance(data, dict) or data.get("version") != WORKLOAD_VERSION:
        raise InvalidInputError(f"{path}: version: must be {WORKLOAD_VERSION} at the top of a workload file")
    try:
        layers = tuple(_layer(item, f"{path}: layers.{i}") for i, item in enumerate(data["layers"]))
        edges = tuple((str(a), str(b)) for a, b in data.get("edges", []))
        return Workload(name=str(data["name"]), layers=layers, edges=edges)
    except KeyError as error:
        raise InvalidInputError(f"{path}: field {error.args[0]!r} is missing") from error
    except (TypeError, ValueError) as error:
        message = str(error)
        raise InvalidInputError(message if message.startswith(str(path)) else f"{path}: {message}") from error


def _layer(item: dict[str, Any], where: str) -> Layer:
    fields = dict(item)
    kind = fields.pop("type", None)
    if kind not in _KINDS:
        raise InvalidInputError(f"{where}.type: {kind!r} is none of {sorted(_KINDS)}")
    if "bits" in fields:
        fields["bits"] = Bits(**fields["bits"])
    for name in _PAIRS:
        if isinstance(fields.get(name), list):
            fields[name] = tuple(fields[name])
    try:
        return _KINDS[kind](**fields)
    except TypeError as error:
        raise InvalidInputError(f"{where}: {str(error).split('() ')[-1]}") from error
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error
