"""Ways to find masks under one protocol, so that they compare at the same density, data and epochs.

    method = build_method("sr_ste")
    method.attach(model, plans, seed=0)
    fit(model, …, penalty=method.penalty, on_step=lambda done: method.on_step(model, done))
    masks = method.finish(model)

| name | rows exactly k | how |
|---|---|---|
| `dpp` | yes | dynamic probabilistic pruning (`dpp`, `dpp_schedules`) |
| `magnitude` | yes | the largest of each row or tile at the start, then training (n:m: one-shot) |
| `gradual` | yes | the same with k falling to the plan's |
| `sr_ste` | yes | the largest of each row or tile at every step, dense gradients, decay of what is masked |
| `rigl` | no | dynamic sparse training: drop small weights, grow where the gradient is large |
| `unstructured` | no | the largest of each layer at the start, then training |

Methods without exact rows keep as many weights of a layer as the plan does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.pruning.baking import bake
from cosim.pruning.dpp import attach_masks, entropy_penalty, find_masks, freeze_masks
from cosim.pruning.dpp_layout import Plan, layers_to_mask, magnitude_mask
from cosim.pruning.dpp_schedules import MaskSchedule

UPDATES = 50
"""How often `gradual` and `rigl` look at their masks anew, in a whole training. Assumption: RigL does so every 100
steps of long trainings (arXiv 1911.11134, section 4), which would be a handful of times in a short one."""
SR_STE_DECAY = 2e-4
"""λ_W of Zhou et al. 2021, arXiv 2102.04010, section 4.1."""
RIGL_DROP, RIGL_END = 0.3, 0.75
"""α and T_end as a share of the training: Evci et al. 2020, arXiv 1911.11134, section 4."""


class MaskMethod(Protocol):
    """What a training needs of a method."""

    exact_rows: ClassVar[bool]
    """Does every row or tile keep exactly k?"""

    def attach(self, model: nn.Module, plans: Mapping[str, Plan], *, seed: int) -> None:
        """Put the masks on the layers, in place; PruningError where a layer cannot have its mask."""

    def on_step(self, model: nn.Module, done: float) -> None:
        """Before each step; `done` in [0, 1) is the share of the training that is over."""

    def penalty(self, model: nn.Module) -> Tensor:
        """To be added to the loss; scalar."""

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Layer -> bool mask of the weight's shape, as evaluation uses it now."""

    def finish(self, model: nn.Module) -> dict[str, Tensor]:
        """Bake the masks into plain weights, in place, and return them."""


class DynamicProbabilistic:
    """DPP with its default schedule, warm start and the paper's entropy penalty."""

    exact_rows: ClassVar[bool] = True

    def __init__(self, schedule: MaskSchedule | None = None, entropy_scale: float = 1.0) -> None:
        schedule = schedule or MaskSchedule()
        self.schedule = replace(schedule, entropy=schedule.entropy * entropy_scale)

    def attach(self, model: nn.Module, plans: Mapping[str, Plan], *, seed: int) -> None:
        attach_masks(model, plans, seed=seed)

    def on_step(self, model: nn.Module, done: float) -> None:
        self.schedule.apply(model, done)

    def penalty(self, model: nn.Module) -> Tensor:
        return self.schedule.entropy * entropy_penalty(model)

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: mask.mask() for name, mask in find_masks(model).items()}

    def finish(self, model: nn.Module) -> dict[str, Tensor]:
        return freeze_masks(model)


class _Chosen(torch.autograd.Function):
    """W ⊙ mask; backward: masked gradient, or the dense one with a decay of what is masked."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, owner: ChosenMask) -> Tensor:
        ctx.save_for_backward(weight, owner.kept)
        ctx.owner = owner
        return weight * owner.kept

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        weight, kept = ctx.saved_tensors
        if ctx.owner.watch:
            ctx.owner.dense_gradient = grads[0].detach()
        if ctx.owner.decay is None:
            return grads[0] * kept, None
        return grads[0] + ctx.owner.decay * ~kept * weight, None


class ChosenMask(nn.Module):
    """Parametrization: W -> W where the mask keeps it.

    Attributes
    ----------
    kept : buffer, bool, shape of the weight
    decay : float or None
        None: masked weights learn nothing; else they get the dense gradient and this decay.
    watch : bool
        Keep the gradient of the masked weight, also where it is masked, in `dense_gradient`.
    """

    kept: Tensor

    def __init__(self, kept: Tensor, plan: Plan, decay: float | None, watch: bool) -> None:
        super().__init__()
        self.plan, self.decay, self.watch = plan, decay, watch
        self.dense_gradient: Tensor | None = None
        self.register_buffer("kept", kept)

    def forward(self, weight: Tensor) -> Tensor:
        return _Chosen.apply(weight, self)


class _ChosenMethod:
    """Base of the methods whose masks are chosen from outside."""

    exact_rows: ClassVar[bool] = True
    decay: ClassVar[float | None] = None
    watch: ClassVar[bool] = False

    def __init__(self) -> None:
        self._round = -1

    def attach(self, model: nn.Module, plans: Mapping[str, Plan], *, seed: int) -> None:
        for name, layer in layers_to_mask(model, plans).items():
            kept = self.first(layer.weight.detach(), plans[name])
            mask = ChosenMask(kept, plans[name], self.decay, self.watch)
            parametrize.register_parametrization(layer, "weight", mask, unsafe=True)

    def first(self, weight: Tensor, plan: Plan) -> Tensor:
        """The mask at the start."""
        return magnitude_mask(weight, plan)

    def on_step(self, model: nn.Module, done: float) -> None:
        now = int(done * UPDATES)
        if now != self._round:
            self._round = now
            for weight, mask in _chosen(model):
                self.update(weight, mask, done)

    def update(self, weight: Tensor, mask: ChosenMask, done: float) -> None:
        """Choose anew, in place; `weight` is what the optimizer trains."""

    def penalty(self, model: nn.Module) -> Tensor:
        return torch.zeros(())

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        layers = model.named_modules()
        return {name: part.kept.clone() for name, module in layers for part in _parts(module)}

    def finish(self, model: nn.Module) -> dict[str, Tensor]:
        for weight, mask in _chosen(model):
            self.update(weight, mask, 1.0)
        found = self.masks(model)
        layers = dict(model.named_modules())
        for name in found:
            bake(layers[name], "weight")
        return found


def _parts(module: nn.Module) -> list[ChosenMask]:
    if not parametrize.is_parametrized(module, "weight"):
        return []
    return [part for part in module.parametrizations["weight"] if isinstance(part, ChosenMask)]  # type: ignore[index]


def _chosen(model: nn.Module) -> list[tuple[Tensor, ChosenMask]]:
    """(what the optimizer trains, mask) of every layer."""
    return [
        (module.parametrizations["weight"].original.detach(), part)  # type: ignore[index,union-attr]
        for module in model.modules()
        for part in _parts(module)
    ]


class Magnitude(_ChosenMethod):
    """The largest of every row or tile stay, once."""


class GradualMagnitude(_ChosenMethod):
    """k falls from n to the plan's over the first 80 % with the cube of the time left.

    Source: Zhu and Gupta 2017, arXiv 1710.01878, section 3.1.
    """

    schedule = MaskSchedule(k_start=1.0)

    def first(self, weight: Tensor, plan: Plan) -> Tensor:
        return torch.ones_like(weight, dtype=torch.bool)

    def update(self, weight: Tensor, mask: ChosenMask, done: float) -> None:
        left = (1.0 - self.schedule.searching(done)) ** 3
        k = mask.plan.k + round((mask.plan.n - mask.plan.k) * left)
        alive = weight * mask.kept  # what is gone stays gone
        mask.kept.copy_(magnitude_mask(alive, mask.plan.model_copy(update={"k": k})))


class SrSte(_ChosenMethod):
    """The largest of every row or tile at every step; gradients reach all weights, masked ones decay.

    Source: Zhou et al. 2021, arXiv 2102.04010.
    """

    decay = SR_STE_DECAY

    def on_step(self, model: nn.Module, done: float) -> None:
        for weight, mask in _chosen(model):
            self.update(weight, mask, done)

    def update(self, weight: Tensor, mask: ChosenMask, done: float) -> None:
        mask.kept.copy_(magnitude_mask(weight, mask.plan))


class Unstructured(_ChosenMethod):
    """The largest weights of every layer stay, once: as many as the plan keeps."""

    exact_rows: ClassVar[bool] = False

    def first(self, weight: Tensor, plan: Plan) -> Tensor:
        return _largest(weight.abs(), int(magnitude_mask(weight, plan).sum()))


class RigL(Unstructured):
    """Dynamic sparse training: drop the smallest weights, grow where the gradient is largest.

    Source: Evci et al. 2020, arXiv 1911.11134, section 3: share of the weights that move α/2 (1 + cos(π t / T_end)).
    Ours: the first mask is the largest weights of the network given, not a random one.
    """

    watch = True

    def update(self, weight: Tensor, mask: ChosenMask, done: float) -> None:
        if mask.dense_gradient is None or done >= RIGL_END:
            return
        kept, count = mask.kept, int(mask.kept.sum())
        moving = int(count * 0.5 * RIGL_DROP * (1.0 + math.cos(math.pi * done / RIGL_END)))
        moving = min(moving, kept.numel() - count)
        staying = _largest((weight.abs() + 1.0) * kept, count - moving)  # + 1: kept zeros before masked weights
        grown = _largest((mask.dense_gradient.abs() + 1.0) * ~kept, moving)
        weight.masked_fill_(grown, 0.0)
        kept.copy_(staying | grown)


def _largest(scores: Tensor, count: int) -> Tensor:
    """Bool mask of the `count` largest scores."""
    flat = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    order = scores.flatten().argsort(descending=True, stable=True)[:count]
    flat[order] = True
    return flat.view(scores.shape)


_METHODS: dict[str, Callable[[], MaskMethod]] = {
    "dpp": DynamicProbabilistic,
    "magnitude": Magnitude,
    "gradual": GradualMagnitude,
    "sr_ste": SrSte,
    "rigl": RigL,
    "unstructured": Unstructured,
}


def method_names() -> tuple[str, ...]:
    """Names that `build_method` knows."""
    return tuple(_METHODS)


def build_method(name: str) -> MaskMethod:
    """A fresh method.

    Raises
    ------
    PruningError
        The name is unknown.
    """
    if name not in _METHODS:
        near = get_close_matches(name, _METHODS, n=1, cutoff=0.0)[0]
        raise PruningError(f"mask method {name!r} is unknown; did you mean {near!r}? Known: {', '.join(_METHODS)}")
    return _METHODS[name]()
