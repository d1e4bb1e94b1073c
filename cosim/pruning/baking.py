"""Bake what parametrizations make of a parameter, without harm to copies of the network."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize


def bake(module: nn.Module, name: str) -> None:
    """Replace a parametrized parameter by its value of now, in place.

    `copy.deepcopy` lets a module and its copy share the class that torch made for the parametrized one, and torch takes
    the parameter out of that class: the other would lose it. So the module gets a class of its own first.
    """
    made = type(module)
    fields = {key: value for key, value in vars(made).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(made.__name__, made.__bases__, fields)
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
