"""The networks that ship, by name, and users' own as `module:function`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cosim.errors import ConfigError
from cosim.networks.cifar import CifarResNet
from cosim.networks.densenet import CifarDenseNet
from cosim.networks.digits import DigitsResNet
from cosim.networks.googlenet import CifarGoogLeNet
from cosim.networks.lenet import LeNet5, LeNet300
from cosim.networks.mobilenet import MobileNetV2
from cosim.networks.resnet import BasicBlock, Bottleneck, CifarResNet18, ResNet
from cosim.networks.shufflenet import ShuffleNetV2
from cosim.networks.transformer import GPT, ViT
from cosim.networks.vgg import CifarVGG16


class NetworkEntry(NamedTuple):
    """A network that ships."""

    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    """Of one input, without the batch."""
    dataset: str | None
    """The data set that it is usually trained on, a name of `cosim.data`; None for the network on tokens."""
    description: str
    dtype: torch.dtype = torch.float32
    """float32 images, or int64 tokens."""


_GREY, _CIFAR, _IMAGE = (1, 28, 28), (3, 32, 32), (3, 224, 224)
_NETWORKS: dict[str, NetworkEntry] = {
    "digits_resnet": NetworkEntry(DigitsResNet, (1, 8, 8), "digits", "small residual network of the examples"),
    "lenet_300_100": NetworkEntry(LeNet300, _GREY, "mnist", "LeNet-300-100: three linear layers"),
    "lenet5": NetworkEntry(LeNet5, _GREY, "mnist", "LeNet-5 as in Caffe: two convolutions, two linear layers"),
    "vgg16_cifar": NetworkEntry(CifarVGG16, _CIFAR, "cifar10", "VGG-16 with batch normalisation, one classifier"),
    "resnet20_cifar": NetworkEntry(lambda: CifarResNet(3), _CIFAR, "cifar10", "ResNet-20, option-A shortcuts"),
    "resnet32_cifar": NetworkEntry(lambda: CifarResNet(5), _CIFAR, "cifar10", "ResNet-32, option-A shortcuts"),
    "resnet44_cifar": NetworkEntry(lambda: CifarResNet(7), _CIFAR, "cifar10", "ResNet-44, option-A shortcuts"),
    "resnet56_cifar": NetworkEntry(lambda: CifarResNet(9), _CIFAR, "cifar10", "ResNet-56, option-A shortcuts"),
    "resnet110_cifar": NetworkEntry(lambda: CifarResNet(18), _CIFAR, "cifar10", "ResNet-110, option-A shortcuts"),
    "resnet18_cifar": NetworkEntry(CifarResNet18, _CIFAR, "cifar10", "ResNet-18 with a 3x3 stem"),
    "densenet40_cifar": NetworkEntry(CifarDenseNet, _CIFAR, "cifar10", "DenseNet-40, growth 12, no bottlenecks"),
    "googlenet_cifar": NetworkEntry(CifarGoogLeNet, _CIFAR, "cifar10", "GoogLeNet with batch normalisation"),
    "mobilenet_v2": NetworkEntry(MobileNetV2, _IMAGE, "imagefolder", "MobileNetV2 1.0: depthwise convolutions"),
    "resnet18": NetworkEntry(lambda: ResNet(BasicBlock, (2, 2, 2, 2)), _IMAGE, "imagefolder", "ResNet-18"),
    "resnet50": NetworkEntry(lambda: ResNet(Bottleneck, (3, 4, 6, 3)), _IMAGE, "imagefolder", "ResNet-50"),
    "shufflenet_v2": NetworkEntry(ShuffleNetV2, _IMAGE, "imagefolder", "ShuffleNetV2 1.0: chunk and channel shuffle"),
    "vit_tiny": NetworkEntry(ViT, _IMAGE, "imagefolder", "ViT-Ti/16: 12 blocks of 3 heads"),
    "gpt_small": NetworkEntry(GPT, (128,), None, "causal transformer on bytes: 4 blocks of 4 heads", torch.int64),
}


def network_names() -> tuple[str, ...]:
    """Names of the networks that ship."""
    return tuple(_NETWORKS)


def network_entry(name: str) -> NetworkEntry:
    """Builder, input shape, usual data set and description of a network that ships.

    Raises
    ------
    ConfigError
        The name is unknown.
    """
    if name not in _NETWORKS:
        near = get_close_matches(name, _NETWORKS, n=1, cutoff=0.0)[0]
        known = ", ".join(_NETWORKS)
        raise ConfigError(f"network {name!r} is unknown; did you mean {near!r}? Known: {known}, or module:function")
    return _NETWORKS[name]


def build_network(name: str, seed: int = 0) -> nn.Module:
    """Build a network with random weights; the same seed gives the same weights.

    The global random state is left as it was.

    Parameters
    ----------
    name : a name of `network_names()`, or `module:function`
        The function takes no argument and returns an `nn.Module`; modules in the working directory are found.
    seed : int
        Decides the weights.

    Raises
    ------
    ConfigError
        The name is unknown, or the function cannot be imported or returns no `nn.Module`.
    """
    build = _user_function(name) if ":" in name else network_entry(name).build
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
    if not isinstance(network, nn.Module):
        raise ConfigError(f"network {name!r} returned {type(network).__name__}; return a torch.nn.Module")
    return network


def network_input_shape(name: str) -> tuple[int, ...]:
    """Shape of one input, without the batch; a user's function states it as its attribute `input_shape`.

    Raises
    ------
    ConfigError
        The name is unknown, or the user's function has no usable `input_shape`.
    """
    if ":" not in name:
        return network_entry(name).input_shape
    shape = getattr(_user_function(name), "input_shape", None)
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size > 0 for size in shape):
        function = name.rpartition(":")[2]
        raise ConfigError(
            f"network {name!r}: input_shape is {shape!r}; set {function}.input_shape = (C, H, W) below the function"
        )
    return shape


def network_example(name: str, batch: int = 1) -> Tensor:
    """Zeros [batch, *input shape] of the kind that the network takes: float32, or int64 for tokens.

    A user's function may say `function.dtype = torch.int64`; float32 otherwise.

    Raises
    ------
    ConfigError
        As `network_input_shape`.
    """
    shape = network_input_shape(name)
    dtype = getattr(_user_function(name), "dtype", torch.float32) if ":" in name else network_entry(name).dtype
    return torch.zeros(batch, *shape, dtype=dtype)


def _user_function(name: str) -> Callable[[], Any]:
    module_name, _, function_name = name.rpartition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the console script does not look there by itself
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"network {name!r}: module {module_name!r} cannot be imported ({error}); "
            "run from its folder or put that folder on PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        near = get_close_matches(function_name, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; define it without arguments"
        raise ConfigError(f"network {name!r}: {module_name} has no function {function_name!r}{hint}")
    return function
