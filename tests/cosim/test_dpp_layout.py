"""Where the units of a mask lie: tiles, kernels, and masks that keep exactly k of each."""

import pytest
import torch
from torch import Tensor

from cosim.errors import PruningError
from cosim.pruning.dpp import KofNMask, check_mask, magnitude_mask
from cosim.pruning.plan import MaskPlan
from tests.cosim.dpp_cases import kernels, one_thread, weights  # noqa: F401  a fixture
from tests.reference.dpp import naive_gradient, pick_order

LAYOUTS = [
    ((4, 3, 3, 3), weights(5, 27)),
    ((4, 3, 3, 3), weights(2, 4)),  # last tile of 3
    ((4, 3, 3, 3), weights(4, 5)),  # last tile of 2 < k
    ((4, 6, 1, 1), weights(2, 3)),
    ((4, 3, 2, 3), weights(3, 18)),
    ((5, 10), weights(3, 10)),
    ((5, 10), weights(1, 4)),
    ((4, 6, 3, 3), kernels(2, 6)),
    ((4, 1, 3, 3), kernels(1, 1)),
    ((5, 10), kernels(3, 10)),
]


def units_by_hand(shape: tuple[int, ...], plan: MaskPlan, channel: int) -> list[list[tuple]]:
    """The tiles of one output channel as lists of units; a unit is the weight indices that stay or go together."""
    C, R, S = (*shape[1:], 1, 1)[:3]
    index = (lambda r, s, c: (channel, c, r, s)) if len(shape) == 4 else (lambda r, s, c: (channel, c))
    if plan.granularity == "kernel":
        return [[tuple(index(r, s, c) for r in range(R) for s in range(S)) for c in range(C)]]
    units = [(index(r, s, c),) for r in range(R) for s in range(S) for c in range(C)]
    return [units[start : start + plan.n] for start in range(0, len(units), plan.n)]


def magnitude_by_hand(weight: Tensor, plan: MaskPlan) -> Tensor:
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    for channel in range(weight.shape[0]):
        for tile in units_by_hand(tuple(weight.shape), plan, channel):
            ranked = sorted(tile, key=lambda unit: -sum(abs(float(weight[index])) for index in unit))
            for unit in ranked[: plan.k]:
                for index in unit:
                    mask[index] = True
    return mask


@pytest.mark.parametrize(("shape", "plan"), LAYOUTS)
def test_magnitude_mask_keeps_the_largest_units_of_every_tile(shape: tuple[int, ...], plan: MaskPlan) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    mask = magnitude_mask(weight, plan)
    assert torch.equal(mask, magnitude_by_hand(weight, plan))
    check_mask(mask, plan)


@pytest.mark.parametrize("init", ["magnitude", "random"])
@pytest.mark.parametrize(("shape", "plan"), LAYOUTS)
def test_sampled_and_final_masks_keep_exactly_k(shape: tuple[int, ...], plan: MaskPlan, init: str) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    mask = KofNMask(weight, plan, seed=3, init=init)  # type: ignore[arg-type]
    sampled = [mask.sample().expand(shape) == 1 for _ in range(5)]
    for one in (*sampled, mask.mask()):
        check_mask(one, plan)
    if init == "magnitude":
        assert torch.equal(mask.mask(), magnitude_mask(weight, plan))


@pytest.mark.parametrize(("shape", "plan"), LAYOUTS)
def test_logit_gradient_is_the_loops_through_the_layout(shape: tuple[int, ...], plan: MaskPlan) -> None:
    """Tile by tile, the gradient of a logit is the loop's for the sum of upstream · weight over its unit."""
    generator = torch.Generator().manual_seed(5)
    weight, upstream = (
        torch.randn(shape, generator=generator).double(),
        torch.randn(shape, generator=generator).double(),
    )
    mask = KofNMask(weight, plan, seed=1, init="random")
    mask.noise, mask.temperature = 0.0, 0.5
    mask(weight).backward(upstream)
    assert mask.logits.grad is not None
    for channel in range(shape[0]):
        start = 0
        for tile in units_by_hand(shape, plan, channel):
            logits = mask.logits.detach()[channel : channel + 1, start : start + len(tile)]
            value = torch.tensor([[sum(float(upstream[i] * weight[i]) for i in unit) for unit in tile]]).double()
            picks = torch.tensor(pick_order(logits, min(plan.k, len(tile))))
            expected = naive_gradient(logits, picks, 0.5, value)
            got = mask.logits.grad[channel : channel + 1, start : start + len(tile)]
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
            start += len(tile)


def test_check_mask_finds_a_row_that_breaks_k_and_a_half_kept_kernel() -> None:
    mask = magnitude_mask(torch.randn(4, 3, 3, 3), weights(2, 4))
    wrong = mask.clone()
    wrong[2, 1, 1, 1] = ~wrong[2, 1, 1, 1]
    with pytest.raises(PruningError, match=r"c1: row \d+ of 4 units keeps [13]; exactly 2"):
        check_mask(wrong, weights(2, 4), "c1")
    half = magnitude_mask(torch.randn(4, 6, 3, 3), kernels(2, 6))
    half[0, 0, 0, 0] = ~half[0, 0, 0, 0]
    with pytest.raises(PruningError, match="half kept"):
        check_mask(half, kernels(2, 6))
    with pytest.raises(PruningError, match="float32"):
        check_mask(torch.ones(2, 2), weights(1, 2))
    with pytest.raises(PruningError, match=r"mask\.n = 9 does not fit 2"):
        check_mask(torch.ones(2, 2, dtype=torch.bool), weights(1, 9))
