"""Energy and latency of widths are those of the network that is made."""

import pytest
import torch
from torch import Tensor, nn

from accel_models.accelerator import load_accelerator
from accel_models.evaluate import simulate
from cosim.codesign.evaluator import extract_plan
from cosim.codesign.width_cost import Quantity, hardware_cost
from cosim.errors import PruningError
from cosim.pruning.apply import plan_of_groups
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.plan import LayerPlan, PruningPlan

EXAMPLE = torch.zeros(1, 3, 8, 8)
WIDTHS: tuple[dict[str, int], ...] = ({}, {"one": 7}, {"stem": 5, "one": 19, "hidden": 1})


class Small(nn.Module):
    """conv - (conv, conv +) - linear - linear: three groups that can lose channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.one, self.two = nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.hidden, self.head = nn.Linear(24 * 16, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.stem(x).relu()).relu()
        x = (self.two(x) + x).relu()
        return self.head(self.hidden(x.flatten(1)).relu())


@pytest.fixture(scope="module")
def network() -> Small:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def groups(network: Small) -> list[ChannelGroup]:
    return trace_channel_groups(network, EXAMPLE)


NARROW = PruningPlan(
    network="small",
    layers={name: LayerPlan(weight_bits=4, activation_bits=bits) for name, bits in (("one", 4), ("hidden", None))},
)


@pytest.mark.parametrize("quantity", ["energy_pj", "latency_cycles"])
@pytest.mark.parametrize("bits", [None, NARROW])
@pytest.mark.parametrize("name", ["edge_os_16x16", "tpu_like_128x128"])  # the second keeps outputs on chip
def test_costs_are_those_of_the_network_that_is_made(
    network: Small, groups: list[ChannelGroup], name: str, quantity: Quantity, bits: PruningPlan | None
) -> None:
    accelerator = load_accelerator(name)
    cost = hardware_cost(accelerator, network, EXAMPLE, groups, "small", quantity, bits)
    for widths in WIDTHS:
        plan = plan_of_groups("small", groups, widths)
        for layer, other in bits.layers.items() if bits else ():
            plan.layers[layer] = other.model_copy(update={"filters": plan[layer].filters})
        made = extract_plan(plan, network, EXAMPLE, groups)
        assert cost(widths) == pytest.approx(float(getattr(simulate(accelerator, *made), quantity)), rel=1e-12)


def test_what_is_not_known_is_refused(network: Small, groups: list[ChannelGroup]) -> None:
    accelerator = load_accelerator("edge_os_16x16")
    with pytest.raises(PruningError, match=r'quantity = "power" is not known; use "energy_pj"'):
        hardware_cost(accelerator, network, EXAMPLE, groups, "small", "power")  # type: ignore[arg-type]
    with pytest.raises(PruningError, match="width of two: not a group that can lose channels: stem, one, hidden"):
        hardware_cost(accelerator, network, EXAMPLE, groups, "small")({"two": 3})
