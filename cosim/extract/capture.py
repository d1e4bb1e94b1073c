"""Which inputs of every layer are not zero, seen while a network runs on images."""

from __future__ import annotations

import copy
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from accel_models.activation_masks import activation_mask, input_shape
from accel_models.layers import Gemm, Layer, VectorOp
from accel_models.masks import Mask
from cosim.errors import ConfigError
from cosim.extract.extractor import _Extractor
from cosim.pruning.tracing import operator_name, trace_graph


def capture_activations(model: nn.Module, images: Tensor) -> dict[str, Mask]:
    """Masks of the inputs of every convolution and linear layer, as that layer reads them.

    Layers have the names and shapes that `extract_workload` gives them for one image. Products of two activations and
    the projections inside an attention module are left out. A batch of one is run at a time.

    Parameters
    ----------
    model
        Trained; in eval mode while it runs, left as it was.
    images : Tensor [images, C, H, W]
        As the network takes them; at least one.

    Returns
    -------
    dict
        Layer name -> Mask [images, C, H, W] of a convolution, [images, rows, K] of a linear layer.

    Raises
    ------
    UntraceableError
        As `extract_workload`.
    ConfigError
        There are no images, or an activation is not a number: the message names the layer.
    """
    if not len(images):
        raise ConfigError("no images to run; give at least one")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        traced = trace_graph(model, images[:1])
        root = copy.deepcopy(traced.root)
        runs = [_run(root, traced.graph, image) for image in images.split(1)]
    finally:
        for module, training in modes:
            module.training = training
    return {name: activation_mask(_stacked(layer, runs), layer) for name, (layer, _) in runs[0].captured.items()}


def _run(root: nn.Module, graph: fx.Graph, image: Tensor) -> _Capture:
    capture = _Capture(root, graph, False, None)
    capture.compute((image,))
    return capture


def _stacked(layer: Layer, runs: list[_Capture]) -> NDArray[np.bool_]:
    inputs = np.stack([run.captured[layer.name][1] for run in runs])
    return inputs if isinstance(layer, Gemm) else inputs[:, 0]


_OPERATORS = ("linear", "conv1d", "conv2d", "matmul", "mm")


class _Capture(_Extractor):
    """An extraction on values that keeps what layers with weights read."""

    def __init__(self, root: nn.Module, graph: fx.Graph, shapes_only: bool, plan: None) -> None:
        super().__init__(root, graph, shapes_only, plan)
        self.captured: dict[str, tuple[Layer, NDArray[np.bool_]]] = {}

    def put(self, n: fx.Node, layer: Layer) -> None:
        super().put(n, layer)
        if isinstance(layer, VectorOp) or not self._reads_first_argument(n, layer):
            return
        value = self.values[self._argument(n, 0, "input")]
        if value.isnan().any():
            raise ConfigError(f"layer {layer.name!r}: an input is not a number; the weights do not fit the network")
        if value.numel() == prod(input_shape(layer)):
            self.captured[layer.name] = layer, (value != 0).reshape(input_shape(layer)).numpy()

    def _reads_first_argument(self, n: fx.Node, layer: Layer) -> bool:
        """Whether the first argument of a node is what its layer multiplies with stored weights, in this order."""
        module = self._module(n)
        if module is not None:
            return isinstance(module, _ConvNd | nn.Linear)
        stored = getattr(layer, "b_source", "parameter") == "parameter"
        return stored and operator_name(n) in _OPERATORS and self._argument(n, 0, "input") not in self.stored
