"""Widths on costs with stairs: near the best of all, never over the budget; scores in units of measured damage."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.counting import Budget, Widths
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.selection import Budget as SameBudget
from cosim.pruning.sensitivity import Sensitivity, calibrated_scores
from cosim.pruning.trading import Trade, trade_widths

SIZES = {"a": 8, "b": 12, "c": 16}


def stairs(edge: int, spikes: bool) -> dict[str, list[float]]:
    """Group -> cost at each width: whole edges are paid for; odd widths may cost more than the next even one."""
    return {
        name: [(i + 1) * (math.ceil(width / edge) * edge + 0.05 * width + (0.6 if spikes and width % 2 else 0.0))
               for width in range(size + 1)]
        for i, (name, size) in enumerate(SIZES.items())
    }  # fmt: skip


def trade(edge: int, spikes: bool, share: float, seed: int) -> Trade:
    generator = torch.Generator().manual_seed(seed)
    losses = {}
    for name, size in SIZES.items():
        scores = torch.sort(torch.rand(size, generator=generator, dtype=torch.float64)).values
        losses[name] = [0.0, *scores.cumsum(0).tolist()]
    table = stairs(edge, spikes)

    def cost(widths: Widths) -> float:
        return sum(table[name][widths[name]] for name in SIZES)

    dense = cost(SIZES)
    budget = Budget("energy_pj", share * dense, cost)
    allowed = {name: list(range(1, size + 1)) for name, size in SIZES.items()}
    return Trade(allowed, losses, [budget], [dense - budget.limit])


def lost(problem: Trade, widths: Widths) -> float:
    return sum(problem.lost(name, size, widths[name]) for name, size in SIZES.items())


def best(problem: Trade) -> float:
    """Of all widths."""
    every = (dict(zip(SIZES, widths, strict=True)) for widths in itertools.product(*problem.allowed.values()))
    return min(lost(problem, widths) for widths in every if problem.met(widths))


@pytest.mark.parametrize("share", [0.6, 0.8])
@pytest.mark.parametrize(("edge", "spikes"), [(1, False), (4, False), (4, True), (8, False)])
def test_widths_lose_little_more_than_the_best_of_all(edge: int, spikes: bool, share: float) -> None:
    ratios = []
    for seed in range(6):
        problem = trade(edge, spikes, share, seed)
        widths = trade_widths(problem)
        assert problem.met(widths)
        ratios.append(lost(problem, widths) / best(problem))
    assert min(ratios) >= 1 - 1e-9
    assert max(ratios) < 1.05


def test_a_step_goes_to_the_edge_that_pays() -> None:
    """A group that saves a little with every channel, and one that saves much at its half: the second is the better."""
    losses = {"smooth": [0.0, 1.0, 2.0, 3.0, 4.0], "stair": [0.0, 0.5, 1.0, 1.5, 2.0]}
    sizes = {"smooth": 4, "stair": 4}

    def cost(widths: Widths) -> float:
        return 1.0 * widths["smooth"] + (8.0 if widths["stair"] > 2 else 4.0) + 0.01 * widths["stair"]

    budget = Budget("energy_pj", cost(sizes) - 2.0, cost)
    allowed = {name: [1, 2, 3, 4] for name in sizes}
    found = trade_widths(Trade(allowed, losses, [budget], [2.0]))
    assert found == {"smooth": 4, "stair": 2}


def test_the_budget_has_one_home() -> None:
    assert SameBudget is Budget


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Sequential, list[ChannelGroup]]:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    return model, trace_channel_groups(model, torch.zeros(1, 3))


SCORES: dict[str, Tensor] = {"0": torch.tensor([3.0, 1, 4, 2, 8, 5, 7, 6]), "2": torch.tensor([1.0, 1, 1, 1])}


def test_calibrated_scores_add_up_to_what_was_measured(pair: tuple[nn.Sequential, list[ChannelGroup]]) -> None:
    measured = Sensitivity(0.9, (0.25, 0.5), {"0": (0.5, 0.8), "2": (0.9, 0.9)})
    found = calibrated_scores(pair[1], SCORES, measured)
    ordered = found["0"].sort().values
    assert float(ordered[:4].sum()) == pytest.approx(0.1)
    assert float(ordered[:6].sum()) == pytest.approx(0.4)
    assert float(ordered.sum()) == pytest.approx(0.7)  # beyond what was measured: the last slope
    assert found["0"].argsort().tolist() == SCORES["0"].argsort().tolist()
    assert float(found["2"].sum()) == pytest.approx(0.0, abs=1e-9)


def test_calibrated_scores_never_fall_and_are_convex(pair: tuple[nn.Sequential, list[ChannelGroup]]) -> None:
    """A group that gains, and one whose loss grows ever slower."""
    measured = Sensitivity(0.9, (0.25, 0.5, 0.75), {"0": (0.7, 0.92, 0.91), "2": (0.3, 0.4, 0.5)})
    found = calibrated_scores(pair[1], SCORES, measured)
    assert all(float(score.min()) >= 0 for score in found.values())
    assert float(found["0"].sort().values[:6].sum()) == pytest.approx(0.2)
    assert found["2"].tolist() == pytest.approx([0.2] * 4)


def test_a_group_that_was_not_measured_is_refused(pair: tuple[nn.Sequential, list[ChannelGroup]]) -> None:
    with pytest.raises(PruningError, match="group 2: its sensitivity was not measured"):
        calibrated_scores(pair[1], SCORES, Sensitivity(0.9, (0.5,), {"0": (0.8,)}))
