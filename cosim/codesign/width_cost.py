"""What a network of other widths costs on an accelerator: the cost function that `cosim.pruning.selection` is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from accel_models.accelerator import Accelerator
from accel_models.evaluate import simulate
from cosim.codesign.plan_prices import Price, PriceList
from cosim.codesign.plan_shapes import NetworkShapes, network_shapes
from cosim.errors import PruningError
from cosim.pruning.counting import Cost, Widths
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.plan import PruningPlan

Quantity = Literal["energy_pj", "latency_cycles"]


def hardware_cost(
    accelerator: Accelerator,
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    groups: Sequence[ChannelGroup],
    network: str,
    quantity: Quantity = "energy_pj",
    bits: PruningPlan | None = None,
) -> Cost:
    """Energy or latency of one inference as a function of the widths, equal to simulating the removed network.

    Nothing is removed: the sizes of the layers are straight lines in the widths (`network_shapes`). Every layer of
    other sizes is priced once; where an accelerator keeps outputs on chip, which couples the layers, all of them are
    simulated for every new set of widths.

    Parameters
    ----------
    groups : of `trace_channel_groups(model, example)`
    network : name for messages
    quantity : "energy_pj" or "latency_cycles"
    bits : a plan whose weight and activation bits the layers have; None: 8

    Returns
    -------
    Cost
        Widths -> pJ or cycles; infinite where a layer does not fit the accelerator. Not always less for smaller
        widths: a layer of other sizes may get another mapping, and arrays pay for whole folds.

    Raises
    ------
    PruningError
        Unknown quantity; a layer's sizes are no straight lines in the widths. When called: a width of an unknown group.
    NoMappingError
        When called, where outputs are kept on chip: a layer does not fit.
    """
    if quantity not in ("energy_pj", "latency_cycles"):
        raise PruningError(f'quantity = "{quantity}" is not known; use "energy_pj" or "latency_cycles"')
    return _WidthCost(accelerator, network_shapes(network, model, example, groups, bits), quantity)


class _WidthCost:
    """The sum over layers, each kept by the widths that it hangs on."""

    def __init__(self, accelerator: Accelerator, shapes: NetworkShapes, quantity: Quantity) -> None:
        self.accelerator, self.shapes, self.quantity = accelerator, shapes, quantity
        self.numbers = {group.name: number for number, group in enumerate(shapes.groups)}
        self.prices = PriceList(accelerator)
        self.column = Price._fields.index(quantity)
        self.known: dict[tuple[int, tuple[int, ...]], float] = {}
        self.whole: dict[tuple[int, ...], float] = {}

    def __call__(self, widths: Widths) -> float:
        sizes = [group.size for group in self.shapes.groups]
        for name, width in widths.items():
            if name not in self.numbers:
                raise PruningError(f"width of {name}: not a group that can lose channels: {', '.join(self.numbers)}")
            sizes[self.numbers[name]] = width
        return self._whole(tuple(sizes)) if self.accelerator.keep_outputs else self._sum(sizes)

    def _whole(self, widths: tuple[int, ...]) -> float:
        if widths not in self.whole:
            cost = simulate(self.accelerator, self.shapes.workload(widths))
            self.whole[widths] = float(getattr(cost, self.quantity))
        return self.whole[widths]

    def _sum(self, widths: Sequence[int]) -> float:
        keys = [
            (place, tuple(widths[group] for group in shape.groups)) for place, shape in enumerate(self.shapes.layers)
        ]
        missing = [key for key in keys if key not in self.known]
        if missing:
            lost = {number: group.size - widths[number] for number, group in enumerate(self.shapes.groups)}
            found = self.prices.prices([(self.shapes.layers[place].at(lost), None) for place, _ in missing])
            self.known.update(zip(missing, found[:, self.column].tolist(), strict=True))
        return sum(self.known[key] for key in keys)


__all__ = ["Quantity", "hardware_cost"]
