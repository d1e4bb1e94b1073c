"""Removal of units with the others refitted: exact against least squares, and what it leaves of a layer's output."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning import refit as module
from cosim.pruning.dpp import attach_masks, freeze_masks
from cosim.pruning.dpp_layout import Plan, check_mask, magnitude_mask
from cosim.pruning.plan import FilterPlan, MaskPlan
from cosim.pruning.refit import refit
from cosim.pruning.refit_kernels import thin_row

PLANS: dict[str, Plan] = {
    "0": MaskPlan(granularity="weight", k=2, n=5),  # 27 inputs: a last tile of 2
    "2": MaskPlan(granularity="kernel", k=2, n=4),
    "4": MaskPlan(granularity="weight", k=3, n=18),
    "7": MaskPlan(granularity="weight", k=40, n=150),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2, stride=2, padding="valid", bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 6, 3, padding=(2, 1), dilation=(2, 1), padding_mode="reflect", bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(150, 4),
    )


def images(count: int = 96) -> Tensor:
    """Smooth ones, so that inputs are correlated."""
    rough = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(rough, size=(12, 12), mode="bilinear")


def outputs(model: nn.Module, layer: str) -> Tensor:
    """Of one layer, behind the layers that come before it in the dense network."""
    found: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda *call: found.append(call[2]))
    with torch.no_grad():
        model.eval()(images())
    hook.remove()
    return found[0].double()


def error(found: Tensor, expected: Tensor) -> float:
    """Squared, of each channel around its mean."""
    gap = (found - expected).transpose(0, 1).flatten(1)
    return float((gap - gap.mean(1, keepdim=True)).square().sum())


def greedy(
    weight: np.ndarray, covariance: np.ndarray, groups: list[list[int]], count: int
) -> tuple[set[int], np.ndarray]:
    """By brute force: each time the unit without which least squares over all inputs leaves the smallest error."""

    def fitted(units: set[int]) -> tuple[float, np.ndarray]:
        columns = [i for unit in sorted(units) for i in groups[unit]]
        new = np.zeros_like(weight)
        new[columns] = np.linalg.solve(covariance[np.ix_(columns, columns)], covariance[columns] @ weight)
        return float((weight - new) @ covariance @ (weight - new)), new

    left = set(range(len(groups)))
    for _ in range(count):
        left.remove(min(left, key=lambda unit: fitted(left - {unit})[0]))
    return left, fitted(left)[1]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_a_row_loses_what_brute_force_removes_and_is_left_as_least_squares_fits_it(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(60, 12)) @ rng.normal(size=(12, 12))
    covariance, weight = inputs.T @ inputs / 60, rng.normal(size=12)
    units = 12 // size
    groups = [list(range(u * size, (u + 1) * size)) for u in range(units)]
    left, expected = greedy(weight, covariance, groups, units // 2)
    found, tiles = weight[None].copy(), np.zeros((1, units), np.int64)
    thin_row(found, np.linalg.inv(covariance)[None], size, tiles, np.array([units // 2]))
    assert {int(u) for u in np.flatnonzero(tiles[0] >= 0)} == left
    np.testing.assert_allclose(found[0], expected, rtol=1e-8, atol=1e-10)


def test_every_row_and_tile_keeps_exactly_k_and_zeros_are_where_the_masks_are() -> None:
    model = network()
    masks = refit(model, PLANS, images())
    for name, plan in PLANS.items():
        check_mask(masks[name], plan, name)
        assert torch.equal(model.get_submodule(name).weight != 0, masks[name])
    attach_masks(model, PLANS)
    assert all(torch.equal(mask, masks[name]) for name, mask in freeze_masks(model).items())  # as masks start from them


@pytest.mark.parametrize("layer", PLANS)
def test_a_layer_keeps_more_of_its_output_than_the_largest_weights_do(layer: str) -> None:
    dense, by_size = network(), network()
    weight = by_size.get_submodule(layer).weight
    weight.data *= magnitude_mask(weight.data, PLANS[layer])
    fitted = copy.deepcopy(dense)
    refit(fitted, {layer: PLANS[layer]}, images())
    expected = outputs(dense, layer)
    assert error(outputs(fitted, layer), expected) < 0.6 * error(outputs(by_size, layer), expected)


def test_biases_make_up_for_means() -> None:
    dense, fitted = network(), network()
    refit(fitted, {"7": PLANS["7"]}, images())
    before, after = outputs(dense, "7").mean(0), outputs(fitted, "7").mean(0)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_means_are_fitted_where_nothing_makes_up_for_them() -> None:
    """A linear layer without a bias, whose inputs all have a mean of 3: the outputs keep theirs."""
    model = nn.Sequential(nn.Linear(16, 5, bias=False))
    inputs = 3.0 + 0.1 * torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    expected = model(inputs).mean(0).detach()
    refit(model, {"0": MaskPlan(granularity="weight", k=4, n=16)}, inputs)
    gap = model(inputs).mean(0).detach() - expected
    assert float(gap.abs().max()) < 0.05 * float(expected.abs().max())


def test_blocks_of_inputs_keep_k_of_all_and_less_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, whole, parts = network(), network(), network()
    refit(whole, {"7": PLANS["7"]}, images())
    monkeypatch.setattr(module, "BLOCK", 40)
    masks = refit(parts, {"7": PLANS["7"], "2": PLANS["2"]}, images())
    assert masks["7"].sum(1).tolist() == [40] * 4
    assert masks["2"].flatten(1).sum(1).tolist() == [18] * 8
    expected, by_size = outputs(dense, "7"), network()
    weight = by_size.get_submodule("7").weight
    weight.data *= magnitude_mask(weight.data, PLANS["7"])
    errors = [error(outputs(model, "7"), expected) for model in (whole, by_size)]
    assert errors[0] < error(outputs(_only(dense, parts, "7"), "7"), expected) < errors[1]


def _only(dense: nn.Module, fitted: nn.Module, layer: str) -> nn.Module:
    """The dense network with one layer of another one."""
    found = copy.deepcopy(dense)
    found.get_submodule(layer).load_state_dict(fitted.get_submodule(layer).state_dict())
    return found


def test_the_same_seed_gives_the_same_weights_and_the_mode_stays() -> None:
    models = [network().train() for _ in range(2)]
    for model in models:
        refit(model, PLANS, images(), seed=3)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert models[0].training
    assert not models[0][0]._forward_pre_hooks


def test_inputs_that_are_always_0_go_first() -> None:
    model = nn.Sequential(nn.Linear(6, 3))
    inputs = torch.randn(50, 6) * torch.tensor([1.0, 0, 1, 0, 1, 0])
    masks = refit(model, {"0": MaskPlan(granularity="weight", k=3, n=6)}, inputs)
    assert masks["0"].tolist() == [[True, False] * 3] * 3


class Idle(nn.Sequential):
    """Does not run its second layer."""

    def forward(self, x: Tensor) -> Tensor:
        return self[0](x)


REFUSED: dict[str, tuple[dict[str, Plan], str]] = {
    "no such layer": ({"9": PLANS["0"]}, "9: mask: the network has no such layer"),
    "filters": ({"0": FilterPlan(k=4, n=8)}, "0: filters cannot be refitted"),
    "n": ({"0": MaskPlan(granularity="weight", k=2, n=28)}, "0: mask.n = 28 is more than the fan-in 27"),
    "no weight": ({"1": PLANS["0"]}, "1: mask: ReLU has no k-of-n mask"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_refitted_is_refused_and_nothing_changes(case: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    plans, message = REFUSED[case]
    with pytest.raises(PruningError, match=message.replace(".", r"\.")):
        refit(model, {"4": PLANS["4"], **plans}, images())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_masked_layers_and_layers_that_do_not_run_are_refused() -> None:
    model = network()
    attach_masks(model, {"0": PLANS["0"]})
    with pytest.raises(PruningError, match="0: the weight is already masked"):
        refit(model, PLANS, images())
    idle = Idle(nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(PruningError, match="1: the network does not run this layer"):
        refit(idle, {"1": MaskPlan(granularity="weight", k=2, n=8)}, torch.randn(4, 8))
