"""Parameters that stay and go with the filters of another layer: its bias, its normalisation, coupled layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.pruning.baking import bake

if TYPE_CHECKING:
    from cosim.pruning.dpp_mask import KofNMask


class Follower(nn.Module):
    """Parametrization: zeros where the filter mask that it follows has zeros, in the same draw.

    In training mode the leader must have been used first in the step.
    """

    def __init__(self, leader: KofNMask) -> None:
        super().__init__()
        self._leader = (leader,)  # no submodule: it is one of the layer that it belongs to

    def forward(self, parameter: Tensor) -> Tensor:
        leader = self._leader[0]
        last = leader.last if self.training else None
        channels = leader.mask().to(parameter.dtype).flatten(1)[:, 0] if last is None else last.flatten(1)[:, 0]
        return parameter * channels.reshape(-1, *(1,) * (parameter.dim() - 1))


def attach_followers(
    layers: Mapping[str, nn.Module], leaders: Mapping[str, KofNMask], shared: Mapping[str, Iterable[str]]
) -> None:
    """Put followers on the biases of the leaders' layers and on weight and bias of the modules that share them.

    Raises
    ------
    PruningError
        A module is missing, has other channels, or shares with a layer that has no filter mask; nothing has been
        attached then.
    """
    wanted = [(leader, name) for leader, names in shared.items() for name in names]
    for leader, name in wanted:
        if leader not in leaders:
            raise PruningError(f"{leader}: shared: it has no filter mask; give it a FilterPlan")
        weight = getattr(layers.get(name), "weight", None)
        if not isinstance(weight, Tensor) or len(weight) != leaders[leader].plan.n:
            raise PruningError(f"{name}: shared: no module of {leaders[leader].plan.n} output channels; check the name")
        if parametrize.is_parametrized(layers[name], "weight"):
            raise PruningError(f"{name}: shared: the weight is already parametrized; name it once, without a mask")
    for leader, mask in leaders.items():
        _follow(layers[leader], mask, ("bias",))
    for leader, name in wanted:
        _follow(layers[name], leaders[leader], ("weight", "bias"))


def _follow(module: nn.Module, leader: KofNMask, names: Iterable[str]) -> None:
    for name in names:
        if isinstance(getattr(module, name, None), Tensor):
            follower = Follower(leader).train(module.training)
            parametrize.register_parametrization(module, name, follower, unsafe=True)


def detach_followers(model: nn.Module) -> None:
    """Bake what followers leave, in place; their leaders must be there still."""
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module):
            continue
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            parts = list(module.parametrizations[name])  # type: ignore[index]
            if any(isinstance(part, Follower) for part in parts):
                for part in parts:
                    part.eval()
                bake(module, name)
