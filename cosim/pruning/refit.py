"""Masks that cost a trained layer's output least, and weights refitted to them: a start for trained networks.

What a layer computes is linear in its weights, so the covariance of its inputs says what the loss of a unit costs once
the others have been refitted to make up for it (least squares). Units go one by one, the cheapest first, each time with
all others refitted: the optimal brain surgeon (Hassibi and Stork 1993) of one layer, as in Frantar and Alistarh 2022,
arXiv 2208.11580. Ours: k of n of each row or tile, of kernels too; covariances in place of second moments where a bias
or the normalisation behind a convolution makes up for means; and blocks of `BLOCK` inputs that are taken to be
uncorrelated, without which a row of 4,608 weights would take minutes.

All layers are fitted to the inputs that they have in the dense network; whole filters are not handled here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cosim.errors import PruningError
from cosim.pruning.dpp_layout import Plan, granularity_of, layers_to_mask
from cosim.pruning.plan import FilterPlan
from cosim.pruning.refit_kernels import thin_row

FIT_IMAGES = 256
"""Training images to fit to. Assumption: enough positions for `SAMPLES` in layers of 8 x 8 outputs and more."""
SAMPLES = 20_000
"""Positions of the inputs that covariances are taken of. Assumption: 35 for each weight of a row of 576."""
BLOCK = 800
"""Inputs whose covariances are known, at most; the time of a row grows with its cube. Assumption."""
DAMPING = 0.01
"""Of the mean variance, added to all, so that the inverse exists. Assumption."""
_CHUNK = 2**24
"""Patches, as numbers, unfolded at a time."""
_FLOOR = 1e-12
"""Variance of inputs that are always 0."""
Told = Callable[[str, int, int], None]
"""Told of the progress: the layer that is done, layers done, layers in all."""


@dataclass
class _Moments:
    """Sums over the inputs of a layer: [groups, blocks, width] and [groups, blocks, width, width]."""

    blocks: int
    width: int
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0
    count: int = 0

    def add(self, patches: Tensor) -> None:
        """Of patches [groups, inputs, positions]."""
        groups, inputs, positions = patches.shape
        padded = functional.pad(patches, (0, 0, 0, self.blocks * self.width - inputs))
        parts = padded.reshape(groups, self.blocks, self.width, positions).double()
        self.first = self.first + parts.sum(3).cpu()
        self.second = self.second + (parts @ parts.transpose(2, 3)).cpu()
        self.count += positions


@dataclass
class _Observed:
    """A layer and what it reads."""

    layer: nn.Conv2d | nn.Linear
    moments: _Moments
    generator: torch.Generator

    def look(self, inputs: Tensor, positions: int) -> None:
        """Add so many positions, at most, of a batch of inputs."""
        if isinstance(self.layer, nn.Linear):
            rows = inputs.flatten(0, -2)
            self.moments.add(rows[self._some(len(rows), positions, rows.device)].T[None])
            return
        step = max(1, _CHUNK // (inputs[0].numel() * self.layer.weight[0, 0].numel()))
        for some in inputs.split(step):
            patches = _patches(some, self.layer)
            chosen = self._some(patches.shape[2], positions * len(some) // len(inputs), patches.device)
            self.moments.add(patches[:, :, chosen])

    def _some(self, count: int, wanted: int, device: torch.device) -> Tensor:
        return torch.randperm(count, generator=self.generator)[: max(wanted, 1)].to(device)


def refit(
    model: nn.Module, plans: Mapping[str, Plan], images: Tensor, *, seed: int = 0, told: Told | None = None
) -> dict[str, Tensor]:
    """Remove k-of-n units from layers of a trained network so that their outputs change least, in place.

    Weights out of the masks become 0, the others are refitted; biases make up for means. Recalibrate batch
    normalisation afterwards.

    Parameters
    ----------
    model
        Trained; its mode is as before afterwards.
    plans : mapping of layer name to MaskPlan
    images : Tensor [N, C, H, W]
        What the network reads; on any device.
    seed
        Which positions of the inputs are looked at.
    told
        Called after every layer.

    Returns
    -------
    dict of layer name to bool mask of the weight's shape

    Raises
    ------
    PruningError
        A layer is missing, masked already, cannot have its mask or is not run; or a plan is of whole filters. Nothing
        has been changed then.
    """
    for name, plan in plans.items():
        if isinstance(plan, FilterPlan):
            raise PruningError(f"{name}: filters cannot be refitted; give a mask of weights or kernels")
    observed = _observe(model, layers_to_mask(model, plans), images, seed)
    found: dict[str, Tensor] = {}
    for name, seen in observed.items():
        found[name] = _refit_layer(seen.layer, plans[name], seen.moments)
        if told is not None:
            told(name, len(found), len(plans))
    return found


def _observe(
    model: nn.Module, layers: Mapping[str, nn.Conv2d | nn.Linear], images: Tensor, seed: int
) -> dict[str, _Observed]:
    """Run the images through the network and keep the moments of what the layers read."""
    seeds = {name: torch.Generator().manual_seed(seed) for name in layers}
    observed = {name: _Observed(layer, _Moments(*_blocks(layer)), seeds[name]) for name, layer in layers.items()}
    device, training = next(model.parameters()).device, model.training
    batches = images.split(64)
    hooks = []
    for seen in observed.values():

        def look(module: nn.Module, inputs: tuple[Tensor, ...], seen: _Observed = seen) -> None:
            seen.look(inputs[0], -(-SAMPLES // len(batches)))

        hooks.append(seen.layer.register_forward_pre_hook(look))
    try:
        with torch.no_grad():
            model.eval()
            for batch in batches:
                model(batch.to(device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    for name, seen in observed.items():
        if seen.moments.count == 0:
            raise PruningError(f"{name}: the network does not run this layer, so it cannot be refitted; exclude it")
    return observed


def _blocks(layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    """(blocks, inputs of a block): whole channels, at most `BLOCK` inputs."""
    channels, taps = layer.weight.shape[1], layer.weight[0, 0].numel()
    count = -(-channels // max(1, BLOCK // taps))
    return count, -(-channels // count) * taps


def _patches(inputs: Tensor, layer: nn.Conv2d) -> Tensor:
    """What the outputs of a convolution read: [groups, inputs of one output, positions]."""
    before = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(inputs, before, mode=mode)
    found = functional.unfold(padded, layer.kernel_size, layer.dilation, stride=layer.stride)
    images, length, positions = found.shape
    found = found.reshape(images, layer.groups, length // layer.groups, positions)
    return found.permute(1, 2, 0, 3).flatten(2)


def _refit_layer(layer: nn.Conv2d | nn.Linear, plan: Plan, moments: _Moments) -> Tensor:
    """Thin out and refit the rows of one layer, in place; its mask."""
    weight = layer.weight.detach()
    rows, length = len(weight), weight[0].numel()
    old = functional.pad(weight.flatten(1).double().cpu(), (0, moments.blocks * moments.width - length))
    new, (mean, inverse) = old.reshape(rows, moments.blocks, moments.width).clone(), _statistics(layer, moments)
    size = weight[0, 0].numel() if granularity_of(plan) == "kernel" else 1
    kept = _thin(new, inverse, size, *_tiles(layer, plan, moments, size))
    if layer.bias is not None:
        lost = (old - new.flatten(1)).reshape(len(mean), -1, old.shape[1])
        layer.bias.data += torch.einsum("gkn,gn->gk", lost, mean.flatten(1)).flatten().to(layer.bias)
    layer.weight.data.copy_(new.flatten(1)[:, :length].reshape(weight.shape))
    return kept.repeat_interleave(size, 1)[:, :length].reshape(weight.shape).to(weight.device)


def _thin(weights: Tensor, inverse: Tensor, size: int, tiles: np.ndarray, losses: np.ndarray) -> Tensor:
    """`thin_row` of all rows, in place; bool [rows, units], what stays. Groups have as many rows each."""
    rows, groups = len(weights), len(inverse)

    def thin(row: int) -> np.ndarray:
        left, own = tiles.copy(), inverse[row * groups // rows].numpy().copy()
        thin_row(weights[row].numpy(), own, size, left, losses.copy())
        return left.ravel() >= 0

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return torch.from_numpy(np.stack(list(pool.map(thin, range(rows)))))


def _tiles(layer: nn.Conv2d | nn.Linear, plan: Plan, moments: _Moments, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64[blocks, units]: tile of each unit of a row, -1 beyond its end; int64[tiles]: how many each is to lose)."""
    channels, taps = layer.weight.shape[1], layer.weight[0, 0].numel() // size
    order = np.arange(channels * taps).reshape(taps, channels).T.ravel()  # tiles run along channels first
    found = np.full(moments.blocks * moments.width // size, -1)
    found[: len(order)] = order // plan.n
    sizes = np.bincount(order // plan.n)
    return found.reshape(moments.blocks, -1), np.maximum(sizes - plan.k, 0)


def _statistics(layer: nn.Conv2d | nn.Linear, moments: _Moments) -> tuple[Tensor, Tensor]:
    """(means [groups, blocks, width], inverse covariances); of second moments where nothing makes up for means."""
    assert isinstance(moments.first, Tensor)
    assert isinstance(moments.second, Tensor)
    mean, square = moments.first / moments.count, moments.second / moments.count
    if layer.bias is not None or isinstance(layer, nn.Conv2d):
        square = square - mean[..., :, None] * mean[..., None, :]
    variances = torch.diagonal(square, dim1=2, dim2=3)
    damping = (DAMPING * variances.mean(2)).clamp_min(_FLOOR)
    damped = square + damping[..., None, None] * torch.eye(moments.width, dtype=torch.float64)
    return mean, torch.linalg.inv(damped)
