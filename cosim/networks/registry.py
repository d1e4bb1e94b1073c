"""The networks that ship, by name, and users' own as `module:function`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import nn

from cosim.errors import ConfigError
from cosim.networks.cifar import CifarResNet
from cosim.networks.digits import DigitsResNet


class _Entry(NamedTuple):
    build: Callable[[], nn.Module]
    input_shape: tuple[int, int, int]


_NETWORKS: dict[str, _Entry] = {
    "digits_resnet": _Entry(DigitsResNet, (1, 8, 8)),
    "resnet20_cifar": _Entry(lambda: CifarResNet(3), (3, 32, 32)),
    "resnet56_cifar": _Entry(lambda: CifarResNet(9), (3, 32, 32)),
}


def network_names() -> tuple[str, ...]:
    """Names of the networks that ship."""
    return tuple(_NETWORKS)


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
    build = _user_function(name) if ":" in name else _entry(name).build
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
        return _entry(name).input_shape
    shape = getattr(_user_function(name), "input_shape", None)
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size > 0 for size in shape):
        function = name.rpartition(":")[2]
        raise ConfigError(
            f"network {name!r}: input_shape is {shape!r}; set {function}.input_shape = (C, H, W) below the function"
        )
    return shape


def _entry(name: str) -> _Entry:
    if name not in _NETWORKS:
        near = get_close_matches(name, _NETWORKS, n=1, cutoff=0.0)[0]
        known = ", ".join(_NETWORKS)
        raise ConfigError(f"network {name!r} is unknown; did you mean {near!r}? Known: {known}, or module:function")
    return _NETWORKS[name]


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
