"""How a network runs: its mode, its device, and what makes it fast there."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cosim.data.dataset import Split
from cosim.errors import TrainingError

_CACHE_BYTES = 4 << 20
"""Size of the largest tensor between two layers at the batch that is used for judging. Measured: ResNet-20 is fastest
at batches of 32 to 64 (2 to 4 MiB) where a core has 1 MiB of L2 and 16 MiB of L3."""
_BATCHES = (16, 512)
"""Smallest and largest batch for judging."""
_CLOSE = 1e-3
"""Largest difference of a folded network's logits, against the largest logit: rounding through a hundred layers."""


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set the mode of every module, and give each its own back."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter is; the CPU where there is none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def refuse_empty(split: Split) -> None:
    """Refuse a split without images."""
    if len(split) == 0:
        raise TrainingError("the split holds no image; give at least one")


def accelerated(model: nn.Module, *, steady: bool, precision: str) -> Callable[[Tensor], Tensor]:
    """The model as it trains fastest where it is.

    Parameters
    ----------
    steady
        Nothing changes the modules between steps, so that compiling pays (on a GPU, where triton is there).
    precision
        As in `Recipe`.
    """
    kind = device_of(model).type
    run = torch.compile(model) if kind == "cuda" and steady and find_spec("triton") is not None else model
    if precision == "auto":
        precision = "bfloat16" if kind == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    if precision == "float32":
        return run

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16):
            return run(images).float()

    return forward


def judging_batch(model: nn.Module, image: Tensor) -> int:
    """Batch at which the tensors between layers stay in the cache.

    Parameters
    ----------
    model
        In eval mode.
    image : Tensor [1, C, H, W]
    """
    largest = image.numel()

    def watch(module: nn.Module, args: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    hooks = [module.register_forward_hook(watch) for module in model.modules()]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    smallest, most = _BATCHES
    return max(smallest, min(most, _CACHE_BYTES // (4 * largest)))


def folded(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy for inference whose batch normalisations are part of the convolutions before them.

    The copy is used only where it gives the same logits for some images; the model itself comes back where it has
    hooks, cannot be traced by torch.fx or differs.

    Parameters
    ----------
    model
        In eval mode; left as it is.
    images : Tensor [n, C, H, W]
        On which both are compared.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return model
    try:
        faster = _fold(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        expected, logits = model(images), faster(images)
        difference = (logits - expected).abs().max()
    except Exception:  # whatever cannot be traced or copied runs as it is
        return model
    same = difference <= _CLOSE * expected.abs().max()
    return faster if bool(same) and bool((logits.argmax(-1) == expected.argmax(-1)).all()) else model


def _fold(model: nn.Module) -> fx.GraphModule:
    graph_module = fx.symbolic_trace(copy.deepcopy(model))
    for node in list(graph_module.graph.nodes):
        if _module(graph_module, node, nn.BatchNorm2d) is not None:
            _fold_norm(graph_module, node)
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is operator.add:
            _add_in_place(graph_module, node)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def _module(graph_module: fx.GraphModule, node: object, kind: type[nn.Module]) -> nn.Module | None:
    """The module that only this node calls, if it is of this kind."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    calls = sum(other.op == "call_module" and other.target == node.target for other in graph_module.graph.nodes)
    module = graph_module.get_submodule(str(node.target))
    return module if type(module) is kind and calls == 1 else None


def _fold_norm(graph_module: fx.GraphModule, node: fx.Node) -> None:
    before = node.args[0]
    conv, norm = _module(graph_module, before, nn.Conv2d), graph_module.get_submodule(str(node.target))
    if not isinstance(before, fx.Node) or not isinstance(conv, nn.Conv2d) or len(before.users) > 1:
        return
    assert isinstance(norm, nn.BatchNorm2d)
    if norm.running_mean is None:
        return
    parent, _, name = str(before.target).rpartition(".")
    setattr(graph_module.get_submodule(parent), name, fuse_conv_bn_eval(conv, norm))
    node.replace_all_uses_with(before)
    graph_module.graph.erase_node(node)


def _add_in_place(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Add to the output of a convolution that nothing else reads: no new tensor."""
    for ours, other in (node.args, node.args[::-1]):
        if isinstance(ours, fx.Node) and len(ours.users) == 1 and ours is not other:
            if _module(graph_module, ours, nn.Conv2d) is None:
                continue
            node.op, node.target, node.args = "call_method", "add_", (ours, other)
            return
