"""The only bridge from networks to hardware: nn.Module + example input -> Workload, PruningPlan -> weight structures.

ReLU, batch normalisation, reshapes and slices are free: they ride on the layer that produces or reads the tensor.
Pooling, padding and element-wise additions or multiplications become vector work with their traffic.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, fx, nn

from accel_models.errors import InvalidInputError
from accel_models.layers import Bits, Conv2d, Gemm, Layer, VectorOp
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from cosim.errors import PruningError, UntraceableError
from cosim.pruning.plan import PruningPlan

_FREE_MODULES = (nn.ReLU, nn.BatchNorm2d, nn.Flatten, nn.Identity, nn.Dropout)
_FREE_FUNCTIONS = {F.relu, torch.relu, torch.flatten, operator.getitem, getattr}
_FREE_METHODS = {"view", "reshape", "flatten", "relu", "size", "contiguous"}
_POOL_MODULES = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d)
_POOL_FUNCTIONS = {F.avg_pool2d, F.adaptive_avg_pool2d, F.max_pool2d}
_POOL_METHODS = {"mean"}
_ADDS = {operator.add, torch.add, operator.iadd, operator.mul, torch.mul}


def extract_workload(model: nn.Module, example: Tensor, name: str, plan: PruningPlan | None = None) -> Workload:
    """The layers that hardware executes for one pass over `example`.

    Parameters
    ----------
    model
        Traceable by torch.fx; run once in eval mode, left as it was.
    example : Tensor [N, C, H, W]
        Decides the shapes.
    plan
        Gives the weight bits of each layer; 8 otherwise.

    Raises
    ------
    UntraceableError
        An operator that has no cost model; the message names node and operator.
    """
    extractor = _Extractor(model, plan)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            extractor.run(example)
    finally:
        for module, training in modes:
            module.training = training
    return Workload(name=name, layers=tuple(extractor.layers), edges=tuple(dict.fromkeys(extractor.edges)))


def weight_structures(plan: PruningPlan) -> dict[str, KofN]:
    """The k-of-n structure of every masked layer of a plan."""
    return {
        name: KofN(granularity=layer.mask.granularity, k=layer.mask.k, n=layer.mask.n)
        for name, layer in plan.layers.items()
        if layer.mask is not None
    }


class _Extractor(fx.Interpreter):
    """Runs the network and writes down a layer for every node that costs something."""

    def __init__(self, model: nn.Module, plan: PruningPlan | None) -> None:
        try:
            super().__init__(fx.symbolic_trace(model))
        except Exception as error:  # torch.fx raises many kinds
            raise UntraceableError(f"{type(model).__name__}: torch.fx cannot trace it: {error}") from error
        self.plan = plan
        self.layers: list[Layer] = []
        self.edges: list[tuple[str, str]] = []
        self.producers: dict[fx.Node, tuple[str, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        inputs = [self.env[node] for node in n.all_input_nodes]
        shapes = [tuple(value.shape) for value in inputs if isinstance(value, Tensor)]
        value = super().run_node(n)
        layer = self._layer(n, shapes, value)
        sources = tuple(dict.fromkeys(name for node in n.all_input_nodes for name in self.producers.get(node, ())))
        if layer is None:
            self.producers[n] = sources
        else:
            self.layers.append(layer)
            self.edges += [(source, layer.name) for source in sources]
            self.producers[n] = (layer.name,)
        return value

    def _layer(self, n: fx.Node, shapes: list[tuple[int, ...]], value: Any) -> Layer | None:
        if n.op in ("placeholder", "output", "get_attr"):
            return None
        if n.op == "call_module":
            return self._module_layer(n, shapes, value)
        if n.target in _FREE_FUNCTIONS or n.target in _FREE_METHODS:
            return None
        kind = _vector_kind(n)
        if kind is None or not isinstance(value, Tensor):
            if not isinstance(value, Tensor):
                return None
            raise UntraceableError(
                f"node {n.name!r}: operator {getattr(n.target, '__name__', n.target)!r} has no cost model; "
                "use convolutions, linear layers, batch normalisation, ReLU, pooling, adds"
            )
        return _vector(n.name, kind, shapes, value)

    def _module_layer(self, n: fx.Node, shapes: list[tuple[int, ...]], value: Tensor) -> Layer | None:
        name, module = str(n.target), self.fetch_attr(str(n.target))
        bits = Bits(weight=self.plan[name].weight_bits) if self.plan is not None else Bits()
        if isinstance(module, nn.Conv2d):
            return _convolution(name, module, shapes[0], value.shape, bits)
        if isinstance(module, nn.Linear):
            rows = value.numel() // module.out_features
            return Gemm(name=name, m=rows, n=module.out_features, k=module.in_features, bits=bits)
        if isinstance(module, _FREE_MODULES):
            return None
        if isinstance(module, _POOL_MODULES):
            return _vector(name, "pool", shapes, value)
        raise UntraceableError(f"module {name!r}: {type(module).__name__} has no cost model")


def _vector_kind(n: fx.Node) -> str | None:
    if n.target in _POOL_FUNCTIONS or n.target in _POOL_METHODS:
        return "pool"
    if n.target in _ADDS or n.target in ("add", "mul"):
        return "elementwise"
    return "pad" if n.target is F.pad else None


def _vector(name: str, kind: str, shapes: list[tuple[int, ...]], value: Tensor) -> VectorOp:
    read = sum(_size(shape) for shape in shapes)
    return VectorOp(
        name=name,
        kind=kind,
        input_elements=read,
        output_elements=value.numel(),
        operations=max(read if kind == "pool" else 0, value.numel()),
    )


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _convolution(name: str, module: nn.Conv2d, shape: tuple[int, ...], out: torch.Size, bits: Bits) -> Conv2d:
    if isinstance(module.padding, str):
        raise UntraceableError(f"module {name!r}: padding={module.padding!r}; give the padding in pixels")
    return Conv2d(
        name=name,
        n=out[0],
        k=module.out_channels,
        c=module.in_channels,
        p=out[2],
        q=out[3],
        r=module.kernel_size[0],
        s=module.kernel_size[1],
        stride=_pair(module.stride),
        padding=_pair(module.padding),
        dilation=_pair(module.dilation),
        groups=module.groups,
        input_size=(shape[2], shape[3]),
        bits=bits,
    )


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return (int(value[0]), int(value[1]))


def check_structures(workload: Workload, structures: Mapping[str, KofN]) -> None:
    """Refuse a plan whose masks do not fit the layers.

    Raises
    ------
    PruningError
        The message names layer, n and what would fit.
    """
    layers = {layer.name: layer for layer in workload.layers}
    for name, structure in structures.items():
        layer = layers.get(name)
        if layer is None or isinstance(layer, VectorOp):
            raise PruningError(f"layers.{name}: the network has no such convolution or linear layer")
        try:
            structure.kept_per_row(layer)
        except InvalidInputError as error:
            raise PruningError(f"layers.{name}.mask: {error}") from error
