"""Networks by name: `build_network(name, seed)`; `module:function` names a user's own."""

from cosim.networks.cifar import CifarResNet
from cosim.networks.digits import DigitsResNet
from cosim.networks.registry import build_network, network_input_shape, network_names

__all__ = ["CifarResNet", "DigitsResNet", "build_network", "network_input_shape", "network_names"]
