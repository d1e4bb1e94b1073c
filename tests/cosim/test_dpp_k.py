"""k of the masks: any k of one training, and k learned under a budget."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.any_k import AnyK, at_share
from cosim.pruning.dpp import attach_masks, check_mask, find_masks, freeze_masks
from cosim.pruning.dpp_sampler import Sampling, mask_values, perturb
from cosim.pruning.learned_k import BudgetedMasks, LearnedK
from cosim.pruning.plan import MaskPlan
from tests.cosim.dpp_cases import one_thread  # noqa: F401  a fixture


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


PLANS = {"0": MaskPlan(granularity="weight", k=8, n=16), "2": MaskPlan(granularity="weight", k=6, n=12)}


def test_masks_of_any_k_are_nested_and_exact() -> None:
    model = network()
    attach_masks(model, PLANS)
    smaller = AnyK.masks(model, 0.25)
    for share in (0.5, 0.75, 1.0):
        larger = AnyK.masks(model, share)
        for name, plan in PLANS.items():
            check_mask(larger[name], plan.model_copy(update={"k": round(share * plan.n)}))
            assert not bool((smaller[name] & ~larger[name]).any())
        smaller = larger


def test_shares_are_drawn_the_more_often_the_smaller_they_are() -> None:
    any_k = AnyK([0.36, 0.01, 0.09], seed=3)
    drawn = [any_k.next_share() for _ in range(2000)]
    expected = {0.01: 1 / 0.1, 0.09: 1 / 0.3, 0.36: 1 / 0.6}
    for share, chance in expected.items():
        assert drawn.count(share) / 2000 == pytest.approx(chance / sum(expected.values()), abs=0.04)  # 4 sd


def test_a_smaller_network_does_not_teach_weights_that_only_larger_ones_have() -> None:
    model = network()
    attach_masks(model, PLANS)
    AnyK([0.25, 0.5]).on_step(model, 0.0)
    weight = model[0].weight
    (weight * torch.randn(12, 16)).sum().backward()
    trained = model[0].parametrizations.weight.original
    assert torch.equal(trained.grad != 0, weight != 0)


def test_a_step_uses_the_k_drawn_and_the_finish_fixes_masks_of_every_k() -> None:
    model = network()
    attach_masks(model, PLANS)
    any_k = AnyK([0.25, 0.5])
    seen = set()
    for step in range(30):
        any_k.on_step(model, step / 30)
        kept = (model[0].weight != 0).sum(1)
        assert len(kept.unique()) == 1
        assert int(kept[0]) == find_masks(model)["0"].k
        seen.add(int(kept[0]))
    assert seen == {4, 8}
    assert all(mask.is_fixed for mask in find_masks(model).values())


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    model = network()
    attach_masks(model, PLANS)
    with pytest.raises(PruningError, match="share"):
        at_share(model, share)
    with pytest.raises(PruningError, match="shares"):
        AnyK([0.5, share])


# ---------------------------------------------------------------- learned k


def linear_cost(layer: str, k: int) -> float:
    return {"0": 12.0, "2": 4.0}[layer] * k


def test_the_gradient_of_k_is_what_the_next_pick_of_the_relaxed_mask_would_add() -> None:
    logits = torch.randn(5, 20, dtype=torch.float64)
    values, grad = torch.randn(5, 20, dtype=torch.float64), torch.randn(5, 20, dtype=torch.float64)
    share = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    out = mask_values(values, logits.requires_grad_(), Sampling(7, 0.5, 1.0, key=3), share=share)
    out.backward(grad)
    x = perturb(logits.detach(), 1.0, 3) / 0.5
    left = x.masked_fill(out.detach() != 0, -torch.inf).softmax(1)
    torch.testing.assert_close(share.grad, (left * grad * values).sum())


def test_price_between_two_integers_is_the_straight_line() -> None:
    model = network()
    attach_masks(model, PLANS)
    learned = LearnedK(model, lambda layer, k: float(k * k), budget=1000.0)
    with torch.no_grad():
        learned.log_k[0].fill_(float(torch.tensor(2.25).log()))
        learned.log_k[1].fill_(0.0)
    price = learned.price()
    assert float(price.detach()) == pytest.approx(4.0 + 0.25 * 5.0 + 1.0, rel=1e-5)
    price.backward()
    assert float(learned.log_k[0].grad) == pytest.approx(5.0 * 2.25, rel=1e-5)  # dκ / d log κ = κ


def task(seed: int) -> tuple[Tensor, Tensor]:
    """Only the first 3 inputs matter."""
    x = torch.randn(512, 16, generator=torch.Generator().manual_seed(seed))
    return x, (2 * (x[:, 0] > 0) + (x[:, 1] + x[:, 2] > 0)).long()


@pytest.mark.parametrize("budget", [40.0, 90.0])
def test_learned_k_ends_within_the_budget_and_uses_it(budget: float) -> None:
    model = network()
    attach_masks(model, PLANS, seed=0)
    learned = LearnedK(model, linear_cost, budget)
    optimizer = torch.optim.Adam(
        [{"params": model.parameters(), "lr": 0.01}, {"params": learned.parameters(), "lr": 0.02}]
    )
    x, y = task(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        learned.on_step(generator)
        kept = (model[0].weight != 0).sum(1)
        assert len(kept.unique()) == 1
        loss = nn.functional.cross_entropy(model(x), y) + learned.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    k = learned.finish()
    assert 0.8 * budget < learned.cost_of(k) <= budget
    copy.deepcopy(model)
    masks = freeze_masks(model)
    for name, plan in PLANS.items():
        check_mask(masks[name], plan.model_copy(update={"k": k[name]}))


def test_a_layer_with_dear_units_gets_fewer_of_them() -> None:
    ends = []
    for price in (1.0, 30.0):
        model = network()
        attach_masks(model, PLANS, seed=0)
        budget = 8.0 * price + 12.0 * 4.0
        learned = LearnedK(model, lambda layer, k, price=price: k * (price if layer == "0" else 4.0), 0.5 * budget)
        optimizer = torch.optim.Adam(
            [{"params": model.parameters(), "lr": 0.01}, {"params": learned.parameters(), "lr": 0.02}]
        )
        x, y = task(0)
        for _ in range(200):
            learned.on_step(torch.Generator().manual_seed(0))
            loss = nn.functional.cross_entropy(model(x), y) + learned.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append(learned.finish())
    assert ends[1]["0"] < ends[0]["0"]


def test_budgeted_masks_choose_k_within_the_budget_and_then_keep_it() -> None:
    model, method = network(), BudgetedMasks(linear_cost, 90.0)
    method.attach(model, PLANS, seed=0)
    optimizer, (x, y) = torch.optim.Adam(model.parameters(), 0.01), task(0)
    for step in range(200):
        method.on_step(model, step / 200)
        assert (method.k is None) == (step < 100)
        loss = nn.functional.cross_entropy(model(x), y) + method.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    masks = method.finish(model)
    assert method.k is not None
    assert 0.8 * 90.0 < sum(linear_cost(name, k) for name, k in method.k.items()) <= 90.0
    for name, plan in PLANS.items():
        check_mask(masks[name], plan.model_copy(update={"k": method.k[name]}))


def test_budgets_and_costs_that_cannot_be_are_refused() -> None:
    model = network()
    with pytest.raises(PruningError, match="no masks"):
        LearnedK(model, linear_cost, 10.0)
    attach_masks(model, PLANS)
    with pytest.raises(PruningError, match=r"budget = 10\.0; k = 1 everywhere costs 16"):
        LearnedK(model, linear_cost, 10.0)
    with pytest.raises(PruningError, match="cost at k = 1 is nan"):
        LearnedK(model, lambda layer, k: float("nan"), 10.0)
