"""Selection: widths that meet budgets, and what is said where none does; counts against the network that is made."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cosim.errors import PruningError
from cosim.pruning.apply import remove_filters
from cosim.pruning.counting import macs_cost, parameters_cost
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.criteria import score_layers
from cosim.pruning.selection import (
    Budget,
    WidthRules,
    allowed_widths,
    global_widths,
    least_costs,
    local_widths,
    select_plan,
    uniform_widths,
    worth_widths,
)
from cosim.pruning.sensitivity import Sensitivity, measure_sensitivity, write_sensitivity_figure


class Small(nn.Module):
    """conv - (conv conv +) - depthwise - pool - linear linear: three groups that can lose channels, one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.one, self.two = nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, groups=24, padding=1)
        self.hidden, self.head = nn.Linear(24 * 16, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.bn(self.stem(x)).relu()).relu()
        x = self.depthwise((self.two(x) + x).relu()).relu()
        return self.head(self.hidden(x.flatten(1)).relu())


EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.fixture(scope="module")
def network() -> Small:
    torch.manual_seed(1)
    return Small().eval()


@pytest.fixture(scope="module")
def groups(network: Small) -> list[ChannelGroup]:
    return trace_channel_groups(network, EXAMPLE)


@pytest.fixture(scope="module")
def scores(network: Small) -> dict[str, Tensor]:
    return score_layers(network, (), ("stem", "one", "two", "depthwise", "hidden", "head"), "l1")


@pytest.fixture(scope="module")
def costs(network: Small, groups: list[ChannelGroup]) -> tuple[Budget, Budget]:
    macs, parameters = macs_cost(network, EXAMPLE, groups), parameters_cost(network, groups)
    return Budget("MACs", 0.6 * macs({}), macs), Budget("parameters", 0.55 * parameters({}), parameters)


def flops(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(EXAMPLE)
    return counter.get_total_flops()


@pytest.mark.parametrize("keep", [1.0, 0.7, 0.25])
def test_counts_are_those_of_the_network_that_is_made(
    network: Small, groups: list[ChannelGroup], scores: dict[str, Tensor], keep: float
) -> None:
    widths = uniform_widths(groups, keep)
    smaller = remove_filters(network, EXAMPLE, select_plan("small", groups, scores, widths), groups)
    assert macs_cost(network, EXAMPLE, groups)(widths) == flops(smaller) / 2
    assert parameters_cost(network, groups)(widths) == sum(p.numel() for p in smaller.parameters())


def test_uniform_widths_are_the_nearest_allowed_ones(groups: list[ChannelGroup]) -> None:
    assert uniform_widths(groups, 0.5) == {"stem": 8, "one": 12, "hidden": 16}
    assert uniform_widths(groups, 0.4, WidthRules(multiple=8)) == {"stem": 8, "one": 8, "hidden": 16}
    assert uniform_widths(groups, {"one": 0.1}, WidthRules(min_width=4)) == {"stem": 16, "one": 4, "hidden": 32}


def test_allowed_widths_keep_the_rules(groups: list[ChannelGroup]) -> None:
    rules = WidthRules(min_width=3, min_share=0.3, multiple=4, exclude=("two",))
    assert allowed_widths(groups, rules) == {"stem": [8, 12, 16], "one": [24], "hidden": [12, 16, 20, 24, 28, 32]}


@pytest.mark.parametrize("scope", ["local", "global", "worth"])
def test_budgets_are_met_and_a_step_more_would_break_one(
    groups: list[ChannelGroup], scores: dict[str, Tensor], costs: tuple[Budget, Budget], scope: str
) -> None:
    widths = {
        "local": lambda: local_widths(groups, costs),
        "global": lambda: global_widths(groups, scores, costs),
        "worth": lambda: worth_widths(groups, scores, costs),
    }[scope]()
    assert all(budget.cost(widths) <= budget.limit for budget in costs)
    if scope == "worth":
        sizes = {group.name: group.size for group in groups}
        wider = [widths | {name: width + 1} for name, width in widths.items() if width < sizes[name]]
        assert wider
        assert all(any(budget.cost(more) > budget.limit for budget in costs) for more in wider)
    else:
        assert max(budget.cost(widths) / budget.limit for budget in costs) > 0.9


def test_global_widths_cut_all_groups_at_one_threshold(
    groups: list[ChannelGroup], costs: tuple[Budget, Budget]
) -> None:
    flat = {name: torch.ones(size) for name, size in (("stem", 16), ("one", 24), ("two", 24), ("depthwise", 24))}
    low = torch.cat((torch.full((20,), 0.01), torch.ones(12)))
    widths = global_widths(
        groups, flat | {"hidden": low}, [Budget("parameters", costs[1].cost({"hidden": 12}), costs[1].cost)], how="none"
    )
    assert widths == {"stem": 16, "one": 24, "hidden": 12}


def test_worth_goes_to_the_group_that_saves_most_for_its_score(groups: list[ChannelGroup]) -> None:
    """Equal scores everywhere; only one group costs anything, and that in folds of eight."""
    flat = {name: torch.ones(size) for name, size in (("stem", 16), ("one", 24), ("two", 24), ("hidden", 32))}
    folds = Budget("cycles", 16.0, lambda widths: 8.0 * math.ceil(widths.get("one", 24) / 8))
    assert worth_widths(groups, flat, [folds], how="none") == {"stem": 16, "one": 16, "hidden": 32}


def test_a_budget_out_of_reach_says_what_is_the_least(
    groups: list[ChannelGroup], scores: dict[str, Tensor], costs: tuple[Budget, Budget]
) -> None:
    rules = WidthRules(min_share=0.9)
    least = least_costs(groups, costs, rules)["MACs"]
    for select in (
        local_widths,
        lambda *a: global_widths(a[0], scores, *a[1:]),
        lambda *a: worth_widths(a[0], scores, *a[1:]),
    ):
        with pytest.raises(PruningError, match=f"budget MACs = .* cannot be met: .* {least:g}"):
            select(groups, costs, rules)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: uniform_widths(g, 0.0), r"keep: 0.0 for stem"),
        (lambda g: uniform_widths(g, {"two": 0.5}), "two is no group"),
        (lambda g: allowed_widths(g, WidthRules(exclude=("tow",))), "tow is neither a group nor a layer"),
        (lambda g: WidthRules(multiple=0), "multiple = 0"),
        (lambda g: WidthRules(min_share=1.5), "min_share = 1.5"),
        (lambda g: select_plan("small", g, {}, {"stem": 4}), "group stem: none of its layers has scores"),
    ],
)
def test_what_cannot_be_selected_is_refused(groups: list[ChannelGroup], call: object, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        call(groups)  # type: ignore[operator]


def test_a_plan_keeps_the_highest_scores(groups: list[ChannelGroup]) -> None:
    scores = {"stem": torch.arange(16.0), "one": torch.ones(24), "two": torch.ones(24), "hidden": torch.arange(32.0)}
    plan = select_plan("small", groups, scores, {"stem": 3, "one": 24, "hidden": 31})
    kept = plan["stem"].filters
    assert kept is not None
    assert kept.keep == (13, 14, 15)
    assert plan["one"].filters is None


def test_sensitivity_removes_one_group_at_a_time(
    network: Small, groups: list[ChannelGroup], scores: dict[str, Tensor], tmp_path: object
) -> None:
    whole = sum(p.numel() for p in network.parameters())
    result = measure_sensitivity(
        network, EXAMPLE, groups, scores, lambda m: sum(p.numel() for p in m.parameters()) / whole, keep=(1.0, 0.5)
    )
    cost = parameters_cost(network, groups)
    assert result.dense == 1.0
    assert result.keep == (0.5, 1.0)
    assert result.accuracy["hidden"] == (cost({"hidden": 16}) / whole, 1.0)
    assert result.drop("hidden") == pytest.approx((1 - cost({"hidden": 16}) / whole) / 2)
    figure = tmp_path / "figures" / "sensitivity.png"  # type: ignore[operator]
    write_sensitivity_figure(Sensitivity(0.9, (0.5,), {"a$b": (0.4,)}), figure)
    assert figure.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PruningError, match="names no share"):
        measure_sensitivity(network, EXAMPLE, groups, scores, lambda m: 1.0, keep=())
