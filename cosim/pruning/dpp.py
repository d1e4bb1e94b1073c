"""Dynamic probabilistic pruning: exactly k of n units per row, learned jointly with the weights.

`attach_masks` puts a KofNMask on the weights of a network; train it as usual, with `entropy_penalty` in the loss and
`set_temperature` once per epoch; `freeze_masks` bakes the result. In training mode each access to a layer's weight
draws one mask: where a module runs more than once per step, wrap the step in `torch.nn.utils.parametrize.cached()`.

Source: Gonzalez-Carabarin et al., TNNLS 2022, arXiv 2105.12686. Open in the paper, and therefore options: the
evaluation mask (here: deterministic top-k of Φ), the noise scale, the start of Φ, confidence and diversity.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.pruning.dpp_layout import (
    check_fit,
    check_mask,
    from_rows,
    join_tiles,
    magnitude_mask,
    split_tiles,
    to_rows,
    unit_count,
)
from cosim.pruning.dpp_sampler import PickOrder, sample_mask, top_k_mask
from cosim.pruning.plan import MaskPlan

__all__ = [
    "KofNMask",
    "anneal_noise",
    "anneal_temperature",
    "attach_masks",
    "check_mask",
    "confidence",
    "diversity",
    "entropy_penalty",
    "find_masks",
    "freeze_masks",
    "logit_parameters",
    "magnitude_mask",
    "set_temperature",
]

MaskInit = Literal["magnitude", "random"]
ENTROPY_WEIGHT: Mapping[str, float] = {"weight": 5e-5, "kernel": 1e-5}
"""μ of the entropy penalty by granularity (arXiv 2105.12686)."""
_RANDOM_STD = {"weight": 0.5, "kernel": 1.0}
START_TEMPERATURE, FLOOR_TEMPERATURE = 5.0, 0.5


def _seed_of(seed: int, layer: str, use: str) -> int:
    """A seed per layer and use, so that one layer's draws do not depend on which others are masked."""
    return zlib.crc32(f"{seed}/{layer}/{use}".encode())


def _start_logits(weight: Tensor, plan: MaskPlan, init: MaskInit, seed: int) -> Tensor:
    """Φ [K, units]: 2·|W| / mean of its tile, or N(0, 0.5²) for weights and N(0, 1) for kernels."""
    weight = weight.detach()
    if init == "random":
        shape = (weight.shape[0], unit_count(weight.shape, plan))
        draw = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=weight.dtype)
        return draw.mul_(_RANDOM_STD[plan.granularity]).to(weight.device)
    tiles = [tile for tile, _ in split_tiles(to_rows(weight, plan).abs(), plan.n, plan.k)]
    smallest = torch.finfo(weight.dtype).tiny
    return join_tiles([2.0 * tile / tile.mean(1, keepdim=True).clamp_min(smallest) for tile in tiles], weight.shape[0])


class KofNMask(nn.Module):
    """Parametrization of a weight: W -> A ⊙ W with exactly k of n units kept in each row.

    Training mode samples a straight-through mask, evaluation mode takes the deterministic top-k of Φ.

    Parameters
    ----------
    weight : Tensor, [K, C, R, S] or [K, C]
        The weight to be masked: gives the shape, and the start of Φ with `init="magnitude"`.
    plan : MaskPlan
        Must fit (see `attach_masks`).
    seed : int
        Of Φ (`init="random"`) and of the Gumbel noise, together with `layer`.
    init : "magnitude" or "random"
        Φ = 2·|W| / row mean (warm start, for short trainings), or the paper's normal draws.
    order : "score" or "index"
        Order of the picks; "index" reproduces the authors' released code.
    layer : str
        Name in messages, and part of the seed.

    Attributes
    ----------
    logits : nn.Parameter, [K, units]
        Φ. With one tile per channel a row of it is a constraint row, else `tiles()` gives the rows.
    temperature : float
        τ > 0. noise : float, Gumbel scale c >= 0; 0 with fixed logits is a fixed mask.
    """

    def __init__(
        self,
        weight: Tensor,
        plan: MaskPlan,
        *,
        seed: int = 0,
        init: MaskInit = "magnitude",
        order: PickOrder = "score",
        layer: str = "layer",
    ) -> None:
        super().__init__()
        if init not in ("magnitude", "random"):
            raise PruningError(f'{layer}: init = "{init}" is not known; use "magnitude" or "random"')
        self.plan, self.layer, self.order, self.shape = plan, layer, order, weight.shape
        self.temperature, self.noise = START_TEMPERATURE, 1.0
        self.seed = _seed_of(seed, layer, "noise")
        self.logits = nn.Parameter(_start_logits(weight, plan, init, _seed_of(seed, layer, "init")))
        self._generator: torch.Generator | None = None

    def generator(self) -> torch.Generator:
        """The source of the noise, on the device of the logits; starts from `seed`."""
        if self._generator is None or self._generator.device != self.logits.device:
            self._generator = torch.Generator(self.logits.device).manual_seed(self.seed)
        return self._generator

    def tiles(self) -> Iterator[tuple[Tensor, int]]:
        """(Φ [rows, n], k) of the full tiles, then of the shorter last ones if there are any."""
        return split_tiles(self.logits, self.plan.n, self.plan.k)

    def sample(self) -> Tensor:
        """One straight-through mask of zeros and ones that broadcasts to the weight's shape."""
        drawn = [
            sample_mask(
                rows, k, temperature=self.temperature, noise=self.noise, generator=self.generator(), order=self.order
            )
            for rows, k in self.tiles()
        ]
        return from_rows(join_tiles(drawn, self.shape[0]), self.shape, self.plan)

    @torch.no_grad()
    def mask(self) -> Tensor:
        """The deterministic mask, top-k of Φ: bool, shape of the weight."""
        tiles = [top_k_mask(rows, k) for rows, k in self.tiles()]
        return from_rows(join_tiles(tiles, self.shape[0]), self.shape, self.plan).expand(self.shape).contiguous()

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.sample() if self.training else self.mask())

    def extra_repr(self) -> str:
        return f"{self.plan.granularity}, k={self.plan.k}, n={self.plan.n}, temperature={self.temperature:g}"


def attach_masks(
    model: nn.Module, plans: Mapping[str, MaskPlan], *, seed: int = 0, init: MaskInit = "magnitude"
) -> dict[str, KofNMask]:
    """Put a KofNMask on the weight of each named layer, in place. Attach masks before quantizers.

    Parameters
    ----------
    model : nn.Module
    plans : mapping of layer name to MaskPlan
    seed, init
        See KofNMask.

    Returns
    -------
    dict of layer name to KofNMask

    Raises
    ------
    PruningError
        A layer is missing, already parametrized, or cannot have its mask; nothing has been attached then.
    """
    layers = dict(model.named_modules())
    for name, plan in plans.items():
        if name not in layers:
            raise PruningError(f"{name}: mask: the network has no such layer; it has {', '.join(layers)[:200]}")
        check_fit(layers[name], plan, name)
        if parametrize.is_parametrized(layers[name], "weight"):
            raise PruningError(f"{name}: the weight is already masked or quantized; freeze it first, then attach again")
    masks = {}
    for name, plan in plans.items():
        weight = layers[name].weight
        assert isinstance(weight, Tensor)
        masks[name] = KofNMask(weight, plan, seed=seed, init=init, layer=name).train(layers[name].training)
        parametrize.register_parametrization(layers[name], "weight", masks[name], unsafe=True)  # shape and dtype stay
    return masks


def find_masks(model: nn.Module) -> dict[str, KofNMask]:
    """Layer name -> the KofNMask on its weight."""
    suffix = ".parametrizations.weight."
    return {
        name.rpartition(suffix)[0] or name: module
        for name, module in model.named_modules()
        if isinstance(module, KofNMask)
    }


def logit_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The Φ of all masks, for an optimizer group of their own (short trainings need about 10 × the learning rate)."""
    return [mask.logits for mask in find_masks(model).values()]


def set_temperature(model: nn.Module, value: float, noise: float | None = None) -> None:
    """Set τ (and the Gumbel scale c, if given) of all masks.

    Raises
    ------
    PruningError
        τ is not positive or c is negative.
    """
    if not value > 0.0 or (noise is not None and not noise >= 0.0):
        raise PruningError(f"temperature = {value}, noise = {noise}; use temperature > 0 and noise >= 0")
    for mask in find_masks(model).values():
        mask.temperature = float(value)
        mask.noise = mask.noise if noise is None else float(noise)


def _line(epoch: int, epochs: int, start: float, end: float) -> float:
    share = min(max(epoch / max(epochs - 1, 1), 0.0), 1.0)
    return start + share * (end - start)


def anneal_temperature(
    epoch: int, epochs: int, start: float = START_TEMPERATURE, floor: float = FLOOR_TEMPERATURE
) -> float:
    """τ of an epoch (0-based): linear from `start` in the first to `floor` in the last, never below it."""
    return max(_line(epoch, epochs, start, floor), floor)


def anneal_noise(epoch: int, epochs: int, start: float = 1.0, end: float = 0.0) -> float:
    """Gumbel scale c of an epoch (0-based): linear from `start` to `end`."""
    return max(_line(epoch, epochs, start, end), 0.0)


class _RowEntropy(torch.autograd.Function):
    """Σ_rows H(softmax(Φ)) in nats; dH/dΦ_m = -p_m (log p_m + H)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        entropy = (p * log_p).sum(1, keepdim=True).neg_()
        ctx.save_for_backward(log_p, p, entropy)
        return entropy.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        log_p, p, entropy = ctx.saved_tensors
        return (log_p + entropy).mul_(p).mul_(-grads[0])


def _row_entropy(mask: KofNMask) -> tuple[Tensor, int]:
    """Sum of the row entropies, and the number of rows."""
    rows = [tile for tile, _ in mask.tiles()]
    return torch.stack([_RowEntropy.apply(tile) for tile in rows]).sum(), sum(len(tile) for tile in rows)


def entropy_penalty(
    masks: nn.Module | Iterable[KofNMask],
    *,
    mu: Mapping[str, float] = ENTROPY_WEIGHT,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Σ_layers μ(granularity) · Σ_rows H(softmax(Φ)), to be added to the loss: it makes the masks confident.

    Parameters
    ----------
    masks : model or iterable of KofNMask
    mu : mapping of granularity to weight
        Default: the paper's.
    reduction : "sum" or "mean"
        Over the rows of a layer; "sum" is the paper's.

    Returns
    -------
    Tensor, scalar, nats; 0 without masks
    """
    found = find_masks(masks).values() if isinstance(masks, nn.Module) else masks
    total = torch.zeros(())
    for mask in found:
        entropy, rows = _row_entropy(mask)
        total = total + entropy * (mu[mask.plan.granularity] / (rows if reduction == "mean" else 1))
    return total


def _tile_statistics(rows: Tensor) -> tuple[float, float]:
    """(confidence, diversity) of Φ [rows, n]."""
    if rows.shape[1] == 1:
        return 1.0, 0.0
    log_p = rows.double().log_softmax(1)
    p = log_p.exp()
    mean_entropy = float(-(p * log_p).sum(1).mean())
    entropy_of_mean = float(torch.special.entr(p.mean(0)).sum())
    scale = math.log(rows.shape[1])
    return 1.0 - mean_entropy / scale, (entropy_of_mean - mean_entropy) / scale


@torch.no_grad()
def _statistic(mask: KofNMask, index: int) -> float:
    """Average over the tile lengths, weighted by their rows."""
    parts = [(_tile_statistics(rows)[index], len(rows)) for rows, _ in mask.tiles()]
    return sum(value * count for value, count in parts) / sum(count for _, count in parts)


def confidence(mask: KofNMask) -> float:
    """1 - mean_r H(p_r) / log n with p = softmax(Φ): 0 for uniform rows, 1 when each row is sure of one unit.

    The paper's formula was not found; this one is ours.
    """
    return _statistic(mask, 0)


def diversity(mask: KofNMask) -> float:
    """(H(mean_r p_r) - mean_r H(p_r)) / log n in [0, 1]: 0 when all rows prefer the same units.

    The paper's formula was not found; this one is ours.
    """
    return _statistic(mask, 1)


def freeze_masks(model: nn.Module) -> dict[str, Tensor]:
    """Bake A ⊙ W with the deterministic mask into plain weights and remove the parametrizations, in place.

    A quantizer on the same weight is baked with it (the weight is quantized after masking).

    Returns
    -------
    dict of layer name to bool mask of the weight's shape
    """
    layers = dict(model.named_modules())
    frozen = {}
    for name, mask in find_masks(model).items():
        frozen[name] = mask.mask()
        check_mask(frozen[name], mask.plan, name)
        getattr(layers[name], "parametrizations").eval()  # noqa: B009  (not an attribute of every nn.Module)
        parametrize.remove_parametrizations(layers[name], "weight", leave_parametrized=True)
    return frozen
