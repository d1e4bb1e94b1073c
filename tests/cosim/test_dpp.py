"""Masks on networks: attaching, training, freezing, penalty, metrics."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.pruning import dpp, mask_metrics
from cosim.pruning.dpp import KofNMask, attach_masks, check_mask, freeze_masks
from cosim.pruning.dpp_schedules import MaskSchedule
from cosim.pruning.plan import MaskPlan
from tests.cosim.dpp_cases import kernels, one_thread, weights  # noqa: F401  a fixture


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)
    )


PLANS = {"0": weights(4, 9), "2": kernels(2, 4), "5": weights(3, 8)}


def test_starting_logits_are_twice_the_magnitude_over_the_tile_mean_or_the_papers_normals() -> None:
    weight = torch.tensor([[1.0, -3.0, 0.0, 0.0, 5.0]])
    assert KofNMask(weight, weights(1, 2)).logits.detach().tolist() == [[1.0, 3.0, 0.0, 0.0, 2.0]]
    big = torch.ones(200, 100, 1, 1)
    for plan, std in ((weights(1, 100), 0.5), (kernels(1, 100), 1.0)):
        assert float(KofNMask(big, plan, init="random").logits.detach().std()) == pytest.approx(std, rel=0.03)


def test_evaluation_is_deterministic_and_training_draws_once_per_access() -> None:
    model = network()
    masks = attach_masks(model, PLANS, seed=1)
    images = torch.randn(2, 3, 5, 5)
    model.train()
    assert not torch.equal(model(images), model(images))
    with parametrize.cached():
        assert torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
    for name, mask in masks.items():
        layer = model.get_submodule(name)
        assert torch.equal(layer.weight != 0, mask.mask())


def test_a_seed_gives_the_same_masks_whatever_else_is_masked() -> None:
    def draws(plans: dict[str, MaskPlan], seed: int) -> Tensor:
        model = network()
        mask = attach_masks(model, plans, seed=seed, init="random")["5"]
        return torch.stack([mask.sample() for _ in range(3)])

    both = draws(PLANS, 7)
    assert torch.equal(both, draws({"5": PLANS["5"]}, 7))
    assert not torch.equal(both, draws(PLANS, 8))


def test_a_copied_network_continues_with_the_same_draws() -> None:
    model = network()
    attach_masks(model, PLANS)
    images = torch.randn(2, 3, 5, 5)
    model(images)
    twin = copy.deepcopy(model)
    assert torch.equal(model(images), twin(images))
    dpp.set_temperature(twin, 0.7)
    assert next(iter(dpp.find_masks(model).values())).temperature == 5.0


def test_training_finds_the_inputs_that_matter() -> None:
    """Only 4 of 16 inputs carry the target; from a cold start most rows settle on them (1 of 1,820 by chance)."""
    found = sum(rows_found(seed) for seed in range(4))
    assert found >= 8  # of 12


def rows_found(seed: int) -> int:
    torch.manual_seed(1)
    layer = nn.Linear(16, 3, bias=False)
    model = nn.Sequential(layer)
    mask = attach_masks(model, {"0": weights(4, 16)}, seed=seed, init="random")["0"]
    useful = [1, 6, 8, 13]
    truth = torch.zeros(3, 16)
    truth[:, useful] = torch.randn(3, 4).sign()
    optimizer = torch.optim.Adam(
        [
            {"params": [layer.parametrizations.weight.original], "lr": 0.02},
            {"params": dpp.logit_parameters(model), "lr": 0.1},
        ]
    )
    schedule = MaskSchedule(noise=(1.0, 0.0), travel=None, finish=0.0)
    for step in range(300):
        schedule.apply(model, step / 300)
        x = torch.randn(64, 16)
        loss = (model(x) - x @ truth.T).square().mean() + dpp.entropy_penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sum(row.nonzero().flatten().tolist() == useful for row in mask.mask())


def test_freezing_bakes_the_masks_and_changes_no_output() -> None:
    model = network()
    attach_masks(model, PLANS)
    images = torch.randn(2, 3, 5, 5)
    expected = model.eval()(images)
    model.train()
    masks = freeze_masks(model)
    assert list(masks) == list(PLANS)
    assert model.training
    assert dpp.find_masks(model) == {}
    assert type(model[0]) is nn.Conv2d
    assert isinstance(model[0].weight, nn.Parameter)
    torch.testing.assert_close(model(images), expected, rtol=0.0, atol=0.0)
    for name, plan in PLANS.items():
        check_mask(masks[name], plan)
        assert torch.equal(model.get_submodule(name).weight != 0, masks[name])


def test_a_state_dict_restores_masks() -> None:
    model, other = network(0), network(1)
    attach_masks(model, PLANS, seed=0, init="random")
    attach_masks(other, PLANS, seed=1, init="random")
    other.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 5, 5)
    assert torch.equal(other.eval()(images), model.eval()(images))


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ({"2": weights(1, 37)}, r"2: mask\.n = 37 is more than the fan-in 36; use n <= 36"),
        ({"2": kernels(2, 8)}, r"2: mask\.n = 8 is not the 4 input channels per group; use n = 4"),
        ({"5": MaskPlan.model_construct(granularity="weight", k=9, n=8)}, r"5: mask\.k = 9 is more than mask\.n = 8"),
        ({"1": weights(1, 2)}, "1: mask: ReLU has no k-of-n mask"),
        ({"7": weights(1, 2)}, "7: mask: the network has no such layer"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_anything_is_attached(plans: dict, message: str) -> None:
    model = network()
    with pytest.raises(PruningError, match=message):
        attach_masks(model, {"0": PLANS["0"], **plans})
    assert dpp.find_masks(model) == {}


def test_a_second_mask_and_wrong_options_are_refused() -> None:
    model = network()
    attach_masks(model, PLANS)
    with pytest.raises(PruningError, match="0: the weight is already masked"):
        attach_masks(model, {"0": PLANS["0"]})
    with pytest.raises(PruningError, match="temperature = 0"):
        dpp.set_temperature(model, 0.0)
    with pytest.raises(PruningError, match="noise = -1"):
        dpp.set_temperature(model, 1.0, -1.0)
    with pytest.raises(PruningError, match='init = "warm"'):
        attach_masks(network(), PLANS, init="warm")  # type: ignore[arg-type]


# ---------------------------------------------------------------- penalty, metrics


def entropy_by_hand(logits: Tensor) -> Tensor:
    p = logits.softmax(1)
    return -(p * p.log()).sum(1)


def test_entropy_penalty_sums_rows_with_the_weight_of_their_granularity() -> None:
    model = network()
    masks = attach_masks(model, PLANS, init="random")
    expected = 5e-5 * entropy_by_hand(masks["0"].logits.reshape(-1, 9)).sum()
    expected = (
        expected + 1e-5 * entropy_by_hand(masks["2"].logits).sum() + 5e-5 * entropy_by_hand(masks["5"].logits).sum()
    )
    torch.testing.assert_close(dpp.entropy_penalty(model), expected)
    torch.testing.assert_close(dpp.entropy_penalty(masks.values()), expected)
    gradients = torch.autograd.grad(expected, dpp.logit_parameters(model))
    for got, want in zip(
        torch.autograd.grad(dpp.entropy_penalty(model), dpp.logit_parameters(model)), gradients, strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-10)
    mean = dpp.entropy_penalty([masks["0"]], mu={"weight": 1.0}, reduction="mean")
    torch.testing.assert_close(mean, entropy_by_hand(masks["0"].logits.reshape(-1, 9)).mean())
    assert float(dpp.entropy_penalty(nn.Linear(2, 2))) == 0.0


def mask_of(logits: Tensor, plan: MaskPlan) -> KofNMask:
    mask = KofNMask(torch.ones(logits.shape), plan)
    with torch.no_grad():
        mask.logits.copy_(logits)
    return mask


def test_confidence_and_diversity_at_their_ends() -> None:
    uniform = mask_of(torch.zeros(4, 4), weights(1, 4))
    same = mask_of(50.0 * torch.eye(4)[[0, 0, 0, 0]], weights(1, 4))
    different = mask_of(50.0 * torch.eye(4), weights(1, 4))
    single = mask_of(torch.zeros(4, 1), weights(1, 1))
    for mask, expected in ((uniform, (0.0, 0.0)), (same, (1.0, 0.0)), (different, (1.0, 1.0)), (single, (1.0, 0.0))):
        assert (mask_metrics.confidence(mask), mask_metrics.diversity(mask)) == pytest.approx(expected, abs=1e-6)


def test_metrics_weight_the_shorter_tiles_by_their_rows() -> None:
    logits = torch.cat([50.0 * torch.eye(3, 4), torch.zeros(3, 2)], dim=1)  # sure tiles of 4, unsure tiles of 2
    assert mask_metrics.confidence(mask_of(logits, weights(1, 4))) == pytest.approx(0.5, abs=1e-6)
