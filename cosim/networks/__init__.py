"""Networks by name: `build_network(name, seed)`; `module:function` names a user's own.

A public name is imported when it is first asked for (PEP 562): `cosim.networks.workloads` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cosim.networks.cifar import CifarResNet
    from cosim.networks.digits import DigitsResNet
    from cosim.networks.registry import (
        build_network,
        network_entry,
        network_example,
        network_input_shape,
        network_names,
    )
    from cosim.networks.weights import load_weights
    from cosim.networks.workloads import network_workload
else:
    _MODULES = {
        "cifar": ("CifarResNet",),
        "digits": ("DigitsResNet",),
        "registry": ("build_network", "network_entry", "network_example", "network_input_shape", "network_names"),
        "weights": ("load_weights",),
        "workloads": ("network_workload",),
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        for module, names in _MODULES.items():
            if name in names:
                value = getattr(import_module(f"{__name__}.{module}"), name)
                globals()[name] = value  # the next look-up is a plain one
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CifarResNet",
    "DigitsResNet",
    "build_network",
    "load_weights",
    "network_entry",
    "network_example",
    "network_input_shape",
    "network_names",
    "network_workload",
]
