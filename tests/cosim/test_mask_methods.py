"""One contract for every way to find masks."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.dpp_layout import Plan, check_mask, magnitude_mask
from cosim.pruning.mask_methods import MaskMethod, build_method, method_names
from cosim.pruning.plan import MaskPlan
from tests.cosim.dpp_cases import one_thread  # noqa: F401  a fixture

PLANS: dict[str, Plan] = {
    "0": MaskPlan(granularity="weight", k=2, n=4),
    "2": MaskPlan(granularity="kernel", k=3, n=4),
    "5": MaskPlan(granularity="weight", k=3, n=8),
}
STEPS = 60


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)
    )


def train(name: str, seed: int = 0) -> tuple[nn.Module, MaskMethod, list[dict[str, Tensor]]]:
    """(network, method, masks after some steps)."""
    model, method = network(), build_method(name)
    method.attach(model, PLANS, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen = []
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        method.on_step(model, step / STEPS)
        images = torch.randn(16, 4, 5, 5, generator=generator)
        loss = nn.functional.cross_entropy(model(images), (images.mean((1, 2, 3)) > 0).long()) + method.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(method.masks(model))
    return model, method, seen


def planned(layer: str) -> int:
    """Weights that the plan keeps."""
    return int(magnitude_mask(network().get_submodule(layer).weight, PLANS[layer]).sum())


@pytest.mark.parametrize("name", method_names())
class TestEveryMethod:
    def test_finishing_bakes_masks_of_the_planned_size_into_plain_weights(self, name: str) -> None:
        model, method, _ = train(name)
        images = torch.randn(4, 4, 5, 5)
        masks = method.finish(model)
        assert list(masks) == list(PLANS)
        assert sorted(dict(model.named_parameters())) == [
            "0.bias",
            "0.weight",
            "2.bias",
            "2.weight",
            "5.bias",
            "5.weight",
        ]
        for layer, plan in PLANS.items():
            assert int(masks[layer].sum()) == planned(layer)
            assert not bool(model.get_submodule(layer).weight[~masks[layer]].any())
            if method.exact_rows:
                check_mask(masks[layer], plan, layer)
        assert bool(model(images).isfinite().all())

    def test_masks_of_exact_rows_keep_exactly_k_at_every_step_once_k_is_reached(self, name: str) -> None:
        _, method, seen = train(name)
        for masks in seen[-STEPS // 10 :]:
            for layer, plan in PLANS.items():
                assert int(masks[layer].sum()) == planned(layer)
                if method.exact_rows:
                    check_mask(masks[layer], plan, layer)

    def test_the_same_seed_gives_the_same_network(self, name: str) -> None:
        first, second = train(name)[0], train(name)[0]
        for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
            if isinstance(one, Tensor):
                assert torch.equal(one, other)

    def test_evaluation_uses_the_masks_that_finish_returns(self, name: str) -> None:
        model, method, _ = train(name)
        method.on_step(model, 1.0)
        images = torch.randn(4, 4, 5, 5)
        expected = copy.deepcopy(model).eval()(images)
        method.finish(model)
        torch.testing.assert_close(model.eval()(images), expected)

    def test_a_layer_that_cannot_have_its_mask_is_refused_before_anything_is_attached(self, name: str) -> None:
        model = network()
        for plans in (
            {"0": PLANS["0"], "9": PLANS["0"]},
            {"0": PLANS["0"], "2": MaskPlan(granularity="kernel", k=1, n=3)},
        ):
            with pytest.raises(PruningError):
                build_method(name).attach(model, plans, seed=0)
        assert "0.weight" in dict(model.named_parameters())


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(PruningError, match=r"'sr-ste' is unknown; did you mean 'sr_ste'"):
        build_method("sr-ste")


def test_rigl_moves_weights_and_keeps_their_number() -> None:
    seen = train("rigl")[2]
    assert not torch.equal(seen[0]["0"], seen[-1]["0"])
    assert len({int(masks["0"].sum()) for masks in seen}) == 1


def test_gradual_masks_only_shrink_and_reach_the_plan() -> None:
    seen = train("gradual")[2]
    for before, after in itertools.pairwise(seen):
        assert not bool((after["0"] & ~before["0"]).any())
    assert int(seen[0]["0"].sum()) > planned("0")


def test_sr_ste_brings_masked_weights_back_and_decays_them() -> None:
    model, method = network(), build_method("sr_ste")
    method.attach(model, {"5": PLANS["5"]}, seed=0)
    part = model[5].parametrizations.weight
    (model[5].weight * 0.0).sum().backward()
    expected = 2e-4 * part.original.detach() * ~part[0].kept
    torch.testing.assert_close(part.original.grad, expected)
