"""One training for many k: a k is drawn per step, and the masks of all k are the nested top-k of one Φ.

`AnyK(model, shares).on_step(…)` before each step; afterwards `at_share(model, share)` sets every mask to one density,
for `evaluate`, for a look-up by a search, or for freezing. Batch normalisation must be recalibrated at each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.dpp import KofNMask, find_masks
from cosim.pruning.dpp_schedules import MaskSchedule


def k_at(mask: KofNMask, share: float) -> int:
    """k of a mask at this share of n, at least 1.

    Raises
    ------
    PruningError
        The share is not in (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise PruningError(f"share of n = {share}; use a number in (0, 1]")
    return max(1, round(share * mask.plan.n))


def at_share(model: nn.Module, share: float) -> None:
    """Set k of every mask to this share of its n, and let masks that were fixed draw again."""
    for mask in find_masks(model).values():
        mask.set_k(k_at(mask, share))


class AnyK:
    """Draws the k of every step among some shares of n.

    A share s comes with a probability in proportion to 1 / sqrt(s), ours: the weights of the sparsest network are in
    every step, but few steps ask what it needs. LeNet-300-100 on MNIST at 5, 10, 25, 50 %, with 1.4 times the epochs
    of one training: 0.27, 0.18, 0.28, 0.18 points behind trainings of their own (3 seeds; `benchmarks.dpp_accuracy`).
    With the ends in turns and others between (the sandwich rule of Yu and Huang 2019, arXiv 1903.05134, section 3,
    spread over steps) 10 % lay 0.8 points behind and 50 % 0.3 (one seed, 20,000 images).

    Parameters
    ----------
    shares : shares of n, in (0, 1]
    seed : int
    schedule : temperature, noise and finish; its `k_start` is not used, and no gradient goes straight through: a larger
        network would take what a smaller one asks of absent weights
    """

    def __init__(self, shares: Sequence[float], *, seed: int = 0, schedule: MaskSchedule | None = None) -> None:
        if not shares or not all(0.0 < share <= 1.0 for share in shares):
            raise PruningError(f"shares of n = {list(shares)}; give one or more numbers in (0, 1]")
        self.shares = sorted(shares)
        self.schedule = replace(schedule or MaskSchedule(), straight_through=False)
        self._generator = torch.Generator().manual_seed(seed)
        self._chances = torch.tensor([share**-0.5 for share in self.shares])

    def next_share(self) -> float:
        """The share of the next step."""
        return self.shares[int(torch.multinomial(self._chances, 1, generator=self._generator))]

    def on_step(self, model: nn.Module, done: float) -> None:
        """Before each step, with the share of the training that is done."""
        share = self.next_share()
        at_share(model, share)
        self.schedule.apply(model, done)

    @staticmethod
    def masks(model: nn.Module, share: float) -> dict[str, Tensor]:
        """Layer -> bool mask at this share of n; a smaller share keeps a part of what a larger one keeps."""
        return {name: mask.mask(k_at(mask, share)) for name, mask in find_masks(model).items()}
