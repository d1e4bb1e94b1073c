"""Masks over a training: filters, followers, schedules, fixing and settling, exact resume, exact marginals, metrics."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning import dpp
from cosim.pruning.dpp import KofNMask, attach_masks, check_mask, find_masks, freeze_masks, kept_filters
from cosim.pruning.dpp_layout import Plan, magnitude_mask
from cosim.pruning.dpp_sampler import Sampling, exact_marginals, mask_values, perturb, sample_mask
from cosim.pruning.dpp_schedules import MaskSchedule, parameter_groups, scale_noise
from cosim.pruning.mask_metrics import MaskHistory, churn
from cosim.pruning.plan import FilterPlan, MaskPlan
from tests.cosim.dpp_cases import one_thread  # noqa: F401  a fixture
from tests.reference.dpp import exact_subsets, naive_gradient, pick_order


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 4))


PLANS: dict[str, Plan] = {
    "0": FilterPlan(k=5, n=8),
    "3": MaskPlan(granularity="kernel", k=3, n=4),
    "6": MaskPlan(granularity="weight", k=3, n=8),
}
IMAGES = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(2))


def train(model: nn.Module, steps: int, schedule: MaskSchedule, first: int = 0, total: int = 40) -> None:
    optimizer = torch.optim.SGD(parameter_groups(model, 0.05), momentum=0.0)
    for step in range(first, first + steps):
        schedule.apply(model, step / total)
        loss = model(IMAGES).square().mean() + dpp.entropy_penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# ---------------------------------------------------------------- exactly k


@given(
    st.sampled_from(["weight", "kernel", "filter"]),
    st.integers(1, 12),
    st.integers(1, 10),
    st.integers(1, 3),
    st.integers(0, 1000),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_every_row_keeps_exactly_k_at_every_step_in_every_granularity(
    kind: str, K: int, C: int, R: int, seed: int, data: st.DataObject
) -> None:
    shape = (K, C, R, R)
    units = {"weight": C * R * R, "kernel": C, "filter": K}[kind]
    n = data.draw(st.integers(1, units)) if kind == "weight" else units
    k = data.draw(st.integers(1, n))
    plan: Plan = FilterPlan(k=k, n=n) if kind == "filter" else MaskPlan(granularity=kind, k=k, n=n)  # type: ignore[arg-type]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    mask = KofNMask(weight, plan, seed=seed, init="random")
    for temperature in (5.0, 0.05):
        mask.temperature = temperature
        check_mask(mask(weight) != 0, plan)
        mask(weight.requires_grad_()).sum().backward()
    assert mask.logits.grad is not None
    assert bool(mask.logits.grad.isfinite().all())
    check_mask(mask.eval()(weight) != 0, plan)
    assert torch.equal(KofNMask(weight, plan).mask(), magnitude_mask(weight, plan))


@pytest.mark.parametrize(("n", "k"), [(4, 2), (8, 4), (16, 1), (16, 4), (5, 5), (1, 1), (7, 3)])
@pytest.mark.parametrize("temperature", [5.0, 0.5, 0.05])
def test_short_tiles_have_the_gradient_of_the_loop(n: int, k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(n)
    logits, values, grad = (2.0 * torch.randn(130, n, generator=generator) for _ in range(3))
    logits.requires_grad_(True)
    values.requires_grad_(True)
    out = mask_values(values, logits, Sampling(k, temperature, 1.0, key=4))
    out.backward(grad)
    perturbed = perturb(logits, 1.0, 4)
    picks = torch.tensor(pick_order(perturbed, k))
    expected = naive_gradient(perturbed.double(), picks, temperature, (grad * values).detach().double())
    assert logits.grad is not None
    scale = float((grad * values).detach().abs().max()) / temperature
    torch.testing.assert_close(logits.grad.double(), expected, rtol=1e-4, atol=2e-6 * scale)
    kept = torch.zeros_like(grad).scatter(1, picks, 1.0)
    assert torch.equal(values.grad, grad)  # kept or not
    assert torch.equal(out.detach(), kept * values.detach())


# ---------------------------------------------------------------- exact marginals


@pytest.mark.parametrize(("n", "k"), [(1, 1), (4, 2), (6, 1), (7, 6), (9, 4)])
@pytest.mark.parametrize("temperature", [5.0, 0.5, 0.05])
def test_exact_marginals_and_their_gradient_equal_the_sum_over_all_subsets(n: int, k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(n)
    logits = torch.randn(3, n, generator=generator, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, n, generator=generator, dtype=torch.float64)
    marginals = torch.stack([exact_subsets(row / temperature, k)[1] for row in logits])
    torch.testing.assert_close(exact_marginals(logits, k, temperature), marginals.detach(), rtol=1e-8, atol=1e-12)
    (expected,) = torch.autograd.grad(marginals, logits, grad)
    mask = sample_mask(logits, k, temperature=temperature, relaxation="exact_marginals", key=1)
    assert mask.sum(1).tolist() == [k] * 3
    mask.backward(grad)
    torch.testing.assert_close(logits.grad, expected, rtol=0.0, atol=1e-8)


def test_exact_draws_follow_the_distribution_of_subsets() -> None:
    logits, k, draws = torch.tensor([1.0, 0.0, -1.0, 0.5, -0.5]), 2, 40_000
    masks = sample_mask(logits.expand(draws, 5), k, temperature=1.0, relaxation="exact_marginals", key=2).bool()
    chances, _ = exact_subsets(logits.double(), k)
    for subset, chance in zip(itertools.combinations(range(5), k), chances, strict=True):
        wanted = torch.zeros(5, dtype=torch.bool)
        wanted[list(subset)] = True
        share = float((masks == wanted).all(1).float().mean())
        assert share == pytest.approx(float(chance), abs=0.01)  # 4 standard errors
    assert torch.equal(
        sample_mask(logits[None], k, temperature=1.0, noise=0.0, relaxation="exact_marginals"),
        torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0]]),
    )


def test_exact_marginals_of_long_rows_with_far_logits_are_finite_and_sum_to_k() -> None:
    logits = 30.0 * torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    marginals = exact_marginals(logits, 60, 0.05)
    torch.testing.assert_close(marginals.sum(1), torch.full((4,), 60.0))


# ---------------------------------------------------------------- filters


def test_a_filter_mask_takes_bias_and_normalisation_along() -> None:
    model = network()
    attach_masks(model, {"0": PLANS["0"]}, shared={"0": ["1"]})
    for training in (True, False):
        model.train(training)
        seen = model[1](model[0](IMAGES))
        dead = seen.abs().amax((0, 2, 3)) == 0
        assert int(dead.sum()) == 3
    plan = kept_filters(model)["0"]
    expected = model(IMAGES)
    freeze_masks(model)
    assert torch.equal(model(IMAGES), expected)
    assert plan.keep == tuple((~dead).nonzero().flatten().tolist())
    assert sorted(dict(model.named_parameters())) == sorted(dict(network().named_parameters()))


def test_filters_learn_through_their_followers() -> None:
    model = network()
    mask = attach_masks(model, {"0": PLANS["0"]}, shared={"0": ["1"]})["0"]
    model(IMAGES).square().sum().backward()
    assert mask.logits.grad is not None
    assert float(mask.logits.grad.abs().sum()) > 0
    assert mask.logits.shape == (1, 8)


@pytest.mark.parametrize(
    ("plans", "shared", "message"),
    [
        ({"0": FilterPlan(k=2, n=9)}, {}, r"0: filters\.n = 9 is not the 8 filters of the layer; use n = 8"),
        ({"0": FilterPlan.model_construct(k=0, n=8)}, {}, r"0: filters\.k = 0 keeps nothing"),
        ({"6": MaskPlan.model_construct(granularity="weight", k=0, n=8)}, {}, r"6: mask\.k = 0 keeps nothing"),
        ({"0": PLANS["0"]}, {"3": ["1"]}, "3: shared: it has no filter mask"),
        ({"0": PLANS["0"]}, {"0": ["6"]}, "6: shared: no module of 8 output channels"),
        ({"0": PLANS["0"]}, {"0": ["nowhere"]}, "nowhere: shared: no module"),
    ],
)
def test_masks_that_do_not_fit_are_refused_before_anything_is_attached(plans: dict, shared: dict, message: str) -> None:
    model = network()
    with pytest.raises(PruningError, match=message):
        attach_masks(model, plans, shared=shared)
    assert sorted(dict(model.named_parameters())) == sorted(dict(network().named_parameters()))


# ---------------------------------------------------------------- schedules


def test_a_schedule_anneals_and_then_fixes_the_masks() -> None:
    model, schedule = network(), MaskSchedule(noise=(1.0, 0.0), finish=0.25)
    masks = attach_masks(model, PLANS)
    schedule.apply(model, 0.375)
    assert {(mask.temperature, mask.noise) for mask in masks.values()} == {(2.75, 0.5)}
    schedule.apply(model, 0.75)
    assert all(mask.is_fixed for mask in masks.values())
    before = {name: mask.logits.clone() for name, mask in masks.items()}
    train(model, 3, schedule, first=36)
    for name, mask in masks.items():
        assert torch.equal(mask.logits, before[name])
    assert torch.equal(model[6].weight != 0, masks["6"].mask())
    schedule.apply(model, 0.1)
    assert not any(mask.is_fixed for mask in masks.values())


def test_k_falls_with_the_cube_of_the_time_left_and_ends_at_the_plan() -> None:
    model, schedule = network(), MaskSchedule(k_start=1.0, finish=0.0)
    masks = attach_masks(model, {"6": PLANS["6"]})
    seen = []
    for done in (0.0, 0.5, 1.0):
        schedule.apply(model, done)
        seen.append(masks["6"].k)
        check_mask(model[6].weight != 0, MaskPlan(granularity="weight", k=masks["6"].k, n=8))
    assert seen == [8, 3 + round(5 / 8), 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": (5.0, 0.0)}, r"temperature is \(5\.0, 0\.0\)"),
        ({"noise": (1.0, -1.0)}, "noise"),
        ({"finish": 1.0}, "finish is 1.0"),
        ({"k_start": 0.0}, "k_start is 0.0"),
        ({"settle": -1.0}, "settle is -1.0"),
        ({"travel": -1.0}, "travel is -1.0"),
        ({"entropy": -1.0}, "entropy is -1.0"),
    ],
)
def test_schedules_outside_their_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        MaskSchedule(**options)


def test_logits_have_a_learning_rate_of_their_own_and_no_decay() -> None:
    model = network()
    attach_masks(model, PLANS)
    plain, logits = parameter_groups(model, 0.1, weight_decay=0.01)
    assert (plain["lr"], plain["weight_decay"], logits["lr"], logits["weight_decay"]) == (0.1, 0.01, 1.0, 0.0)
    assert [id(p) for p in logits["params"]] == [id(p) for p in dpp.logit_parameters(model)]  # type: ignore[attr-defined]
    assert len(plain["params"]) + 3 == len(list(model.parameters()))  # type: ignore[arg-type]


def test_noise_of_single_layers_can_be_scaled() -> None:
    model = network()
    masks = attach_masks(model, PLANS)
    scale_noise(model, {"6": 0.0})
    assert torch.equal(model[6].weight != 0, masks["6"].mask())
    for scales in ({"5": 1.0}, {"6": -1.0}):
        with pytest.raises(PruningError, match="name a masked layer"):
            scale_noise(model, scales)


def test_settled_rows_stand_still_and_the_others_move() -> None:
    weight = torch.ones(2, 6)
    mask = KofNMask(weight, MaskPlan(granularity="weight", k=2, n=6))
    with torch.no_grad():
        mask.logits[0] = torch.tensor([9.0, 8.0, 0.0, 0.0, 0.0, 0.0])
        mask.logits[1] = 0.0
    mask.settle(6.0)
    assert mask.settled_share() == 0.5
    draws = torch.stack([mask(weight).detach() for _ in range(30)])
    assert bool((draws[:, 0] == draws[0, 0]).all())
    assert not bool((draws[:, 1] == draws[0, 1]).all())
    (mask(weight) * torch.randn(2, 6)).sum().backward()
    assert mask.logits.grad is not None
    assert not bool(mask.logits.grad[0].any())
    assert bool(mask.logits.grad[1].any())


# ---------------------------------------------------------------- state


def test_a_training_that_goes_on_from_a_state_draws_the_same_masks(tmp_path: Path) -> None:
    schedule = MaskSchedule(settle=3.0)
    whole, first, second = network(), network(), network()
    for model in (whole, first, second):
        attach_masks(model, PLANS, seed=4, shared={"0": ["1"]})
    train(whole, 40, schedule)
    train(first, 15, schedule)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(second, 25, schedule, first=15)
    for name, tensor in whole.state_dict().items():
        if isinstance(tensor, Tensor):
            assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (MaskPlan(granularity="weight", k=2, n=8), "6: the saved mask has k = 3, this one 2"),
        (MaskPlan(granularity="kernel", k=3, n=8), "6: the saved mask has granularity = weight, this one kernel"),
    ],
)
def test_resuming_with_another_plan_is_refused(plan: MaskPlan, message: str) -> None:
    saved, other = network(), network()
    attach_masks(saved, {"6": PLANS["6"]})
    attach_masks(other, {"6": plan})
    with pytest.raises(PruningError, match=message):
        other.load_state_dict(saved.state_dict())


def test_k_outside_its_range_is_refused() -> None:
    mask = KofNMask(torch.ones(2, 6), MaskPlan(granularity="weight", k=2, n=6), layer="fc")
    for k in (0, 7):
        with pytest.raises(PruningError, match=f"fc: k = {k} of n = 6"):
            mask.set_k(k)


def test_a_step_does_not_disturb_draws_whose_backward_is_to_come() -> None:
    """Memory of old draws is reused: never while a graph still needs it."""
    logits = torch.randn(30, 40, requires_grad=True)
    grad = torch.randn(30, 40)
    alone = [torch.autograd.grad(sample_mask(logits, 5, temperature=0.5, key=key), logits, grad)[0] for key in range(6)]
    open_graphs = [sample_mask(logits, 5, temperature=0.5, key=key) for key in range(6)]
    for mask, expected in zip(open_graphs, alone, strict=True):
        assert torch.equal(torch.autograd.grad(mask, logits, grad, retain_graph=True)[0], expected)
        assert torch.equal(torch.autograd.grad(mask, logits, grad)[0], expected)


# ---------------------------------------------------------------- metrics


def test_churn_is_the_share_of_kept_units_that_went() -> None:
    before, after = torch.tensor([1, 1, 1, 1, 0, 0]).bool(), torch.tensor([1, 1, 1, 0, 1, 0]).bool()
    assert churn(before, after) == 0.25
    assert churn(before, before) == 0.0


def test_a_history_records_every_layer_and_draws_its_figure(tmp_path: Path) -> None:
    model, history = network(), MaskHistory()
    masks = attach_masks(model, PLANS)
    history.record(model, 0)
    with torch.no_grad():
        masks["6"].logits.neg_()
    masks["3"].fix()
    history.record(model, 1)
    assert [(r.layer, r.moment) for r in history.records] == [(name, time) for time in (0, 1) for name in PLANS]
    last = history.of_layer("6")[-1]
    assert last.churn == pytest.approx(churn(KofNMask(network()[6].weight, PLANS["6"]).mask(), masks["6"].mask()))
    assert history.of_layer("0")[-1].churn == 0.0
    assert history.of_layer("3")[-1].settled == 1.0
    history.figure(tmp_path / "masks.png")
    assert (tmp_path / "masks.png").stat().st_size > 1000


def test_masked_networks_are_copied_in_the_middle_of_a_training() -> None:
    model = network()
    attach_masks(model, PLANS, shared={"0": ["1"]})
    model(IMAGES)
    twin = copy.deepcopy(model)
    assert find_masks(twin).keys() == find_masks(model).keys()
    assert torch.equal(model(IMAGES), twin(IMAGES))
    assert math.isfinite(float(dpp.entropy_penalty(twin).detach()))


def test_freezing_a_copy_leaves_the_network_as_it_is() -> None:
    model = network()
    attach_masks(model, PLANS, shared={"0": ["1"]})
    expected = model.eval()(IMAGES)
    for twin in (copy.deepcopy(model), copy.deepcopy(model), model):
        freeze_masks(twin)
        assert type(twin[0]) is nn.Conv2d
        assert torch.equal(twin(IMAGES), expected)
