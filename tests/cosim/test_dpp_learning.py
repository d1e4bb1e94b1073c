"""How masks learn: straight-through weights, steps of a given length, logits that follow the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cosim.pruning.dpp import KofNMask, attach_masks, entropy_penalty, find_masks
from cosim.pruning.dpp_learning import follow_spread, follow_weights
from cosim.pruning.dpp_schedules import MaskSchedule
from cosim.pruning.plan import FilterPlan, MaskPlan
from tests.cosim.dpp_cases import kernels, one_thread, weights  # noqa: F401  a fixture

PLANS = [weights(2, 4), weights(3, 24), weights(2, 5), kernels(2, 6), FilterPlan(k=3, n=8)]
SHAPE = (8, 6, 2, 2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("plan", PLANS)
def test_weights_get_the_whole_gradient_or_that_of_the_kept_ones(plan: MaskPlan | FilterPlan) -> None:
    weight, upstream = random(*SHAPE).requires_grad_(), random(*SHAPE, seed=1)
    mask = KofNMask(weight, plan)
    for whole in (True, False):
        mask.straight_through, weight.grad = whole, None
        kept = mask(weight)
        (kept * upstream).sum().backward()
        expected = upstream if whole else upstream * (kept != 0)
        torch.testing.assert_close(weight.grad, expected, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("plan", PLANS)
def test_the_mask_gets_the_gradient_of_its_product_with_the_weight(plan: MaskPlan | FilterPlan) -> None:
    """As it does where mask and weight are multiplied by torch."""
    weight, upstream = random(*SHAPE), random(*SHAPE, seed=1)
    own, product = KofNMask(weight, plan), KofNMask(weight, plan)
    (own(weight) * upstream).sum().backward()
    (product.sample() * weight * upstream).sum().backward()
    torch.testing.assert_close(own.logits.grad, product.logits.grad)


def backward_once(mask: KofNMask, scale: float = 1.0) -> None:
    (scale * mask(random(*SHAPE)) * random(*SHAPE, seed=1)).sum().backward()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("scale", [1e-6, 1.0])
@pytest.mark.parametrize("entropy", [0.0, 0.01])
def test_a_step_has_the_length_asked_for_whatever_the_scale_of_the_loss(
    plan: MaskPlan | FilterPlan, scale: float, entropy: float
) -> None:
    """The first one only measures. Its direction is that of the gradient of loss and penalty."""
    plain, own = (KofNMask(random(*SHAPE), plan) for _ in range(2))
    plain.noise = own.noise = 0.0
    own.learning.length, own.learning.entropy_weight, before = 0.25, scale * entropy, own.logits.detach().clone()
    backward_once(own, scale)
    assert torch.equal(own.logits.detach(), before)
    backward_once(own, scale)
    assert own.logits.grad is None  # nothing for an optimizer
    moved = own.logits.detach() - before
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.25, rel=1e-4)
    backward_once(plain)
    if entropy:
        entropy_penalty([plain], mu=dict.fromkeys(("weight", "kernel", "filter"), entropy)).backward()
    expected = plain.logits.grad
    assert expected is not None
    torch.testing.assert_close(moved / moved.norm(), -expected / expected.norm(), rtol=1e-3, atol=1e-5)


def test_without_a_gradient_nothing_moves() -> None:
    mask = KofNMask(random(*SHAPE), weights(2, 4))
    mask.learning.length, before = 0.25, mask.logits.detach().clone()
    for _ in range(3):
        backward_once(mask, 0.0)
    assert torch.equal(mask.logits.detach(), before)
    assert float(entropy_penalty([mask])) == 0.0  # it would be part of the steps


@pytest.mark.parametrize("steps", [10, 1000])
def test_the_steps_of_a_search_add_up_to_the_travel_however_many_they_are(steps: int) -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    attach_masks(model, {"0": weights(2, 6)})
    schedule, total = MaskSchedule(travel=7.0), 0.0
    for step in range(steps):
        schedule.apply(model, step / steps)
        total += find_masks(model)["0"].learning.length or 0.0
    assert total == pytest.approx(7.0, rel=1.5 / steps)


def test_a_schedule_without_travel_leaves_the_logits_to_the_optimizer() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    mask = attach_masks(model, {"0": weights(2, 6)})["0"]
    MaskSchedule(travel=None).apply(model, 0.5)
    model(random(3, 6)).square().sum().backward()
    assert mask.logits.grad is not None
    assert float(entropy_penalty(model).detach()) > 0.0


def start(weight: Tensor, plan: MaskPlan | FilterPlan) -> Tensor:
    return KofNMask(weight, plan).logits.detach()


@pytest.mark.parametrize("plan", PLANS)
def test_logits_move_by_as_much_as_their_warm_start_would(plan: MaskPlan | FilterPlan) -> None:
    first, second = random(*SHAPE), random(*SHAPE, seed=3)
    mask, cold = KofNMask(first, plan), KofNMask(first, plan, init="random")
    learned, unmoved = random(*mask.logits.shape, seed=4), cold.logits.detach().clone()
    with torch.no_grad():
        mask.logits.add_(learned)
    mask(second)
    cold(second)
    torch.testing.assert_close(mask.logits.detach(), start(second, plan) + learned, rtol=1e-5, atol=1e-5)
    assert torch.equal(cold.logits.detach(), unmoved)


def test_fixed_masks_and_settled_rows_do_not_follow() -> None:
    first, second = random(2, 6), random(2, 6, seed=3)
    fixed, settled = KofNMask(first, weights(2, 6)), KofNMask(first, weights(2, 6))
    with torch.no_grad():
        settled.logits[0] += 100.0 * settled.mask()[0]
    fixed.fix()
    settled.settle(20.0)
    for mask, still in ((fixed, [0, 1]), (settled, [0])):
        before = mask.logits.detach().clone()
        mask(second)
        same = (mask.logits.detach() == before).all(1)
        assert same.nonzero().flatten().tolist() == still


def test_the_kernel_and_the_tensor_operations_follow_alike() -> None:
    values = random(5, 40)
    values[3] = 0.0
    by_kernel = [random(5, 40, seed=1), random(5, 40, seed=2)]
    by_tensors = [tensor.half() for tensor in by_kernel]
    follow_weights(values, 2.0, *by_kernel)
    follow_weights(values.half(), 2.0, *by_tensors)
    for one, other in zip(by_kernel, by_tensors, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=5e-3, atol=5e-3)


def test_norms_spread_as_far_as_normal_weights_do_however_alike_they_are() -> None:
    normal, norms = random(4, 50_000), 10.0 + 0.1 * random(4, 50_000, seed=1)
    spreads = []
    for follow, values in ((follow_weights, normal), (follow_spread, norms)):
        seen, logits = torch.zeros_like(values), torch.zeros_like(values)
        follow(values, 2.0, seen, logits)
        spreads.append(logits.std(1))
    torch.testing.assert_close(*spreads, rtol=0.02, atol=0.0)


def test_equal_norms_start_equal() -> None:
    for weight, plan in (
        (torch.full((4, 6, 3, 3), 0.1), kernels(2, 6)),
        (torch.full((4, 6, 3, 3), 0.1), FilterPlan(k=2, n=4)),
    ):
        assert not KofNMask(weight, plan).logits.any()


@pytest.mark.parametrize("plan", PLANS)
def test_a_mask_that_does_not_follow_stays_where_it_started(plan: MaskPlan | FilterPlan) -> None:
    mask = KofNMask(random(*SHAPE), plan)
    start = mask.logits.detach().clone()
    mask.follows = False
    mask(random(*SHAPE, seed=3))
    assert torch.equal(mask.logits.detach(), start)
    mask.follows, mask.draws = True, 1
    mask(random(*SHAPE, seed=3))
    assert not torch.equal(mask.logits.detach(), start)
