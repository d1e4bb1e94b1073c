"""What layers cost on an accelerator, each distinct one priced once, many in one simulation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel_models.accelerator import Accelerator
from accel_models.cost import LayerCost
from accel_models.errors import NoMappingError
from accel_models.evaluate import simulate
from accel_models.layers import Layer
from accel_models.sparsity import KofN
from accel_models.workload import Workload

BATCH = 64
"""Layers in one simulation; its bookkeeping of tensors grows with the square."""
AT_LEAST = ("mac", "vector", "register", "gather")
"""Energy that a layer takes wherever its inputs and outputs lie."""


class Price(NamedTuple):
    """What one layer costs when its inputs come from DRAM and its outputs go there; infinite: nothing fits."""

    latency_cycles: float
    energy_pj: float
    weight_bytes: float
    least_cycles: float
    """Cycles of the array alone: less is not possible even when all tensors stay on chip."""
    least_pj: float


NO_PRICE = Price(*[np.inf] * len(Price._fields))
Request = tuple[Layer, KofN | None]


@dataclass(frozen=True)
class PriceList:
    """Prices on one accelerator, kept by the content of the layer."""

    accelerator: Accelerator
    known: dict[Request, Price] = field(default_factory=dict)

    def prices(self, requests: Sequence[Request]) -> NDArray[np.float64]:
        """Rows of `Price`, one a request."""
        plain = [(replace(layer, name="layer"), structure) for layer, structure in requests]
        missing = [request for request in dict.fromkeys(plain) if request not in self.known]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            self.known.update(zip(part, self._batch(part), strict=True))
        return np.array([self.known[request] for request in plain]).reshape(-1, len(Price._fields))

    def _batch(self, requests: Sequence[Request]) -> list[Price]:
        """A batch in which something does not fit is halved until it is found."""
        named = [(replace(layer, name=f"layer{i}"), structure) for i, (layer, structure) in enumerate(requests)]
        workload = Workload(name="prices", layers=tuple(layer for layer, _ in named))
        structures = {layer.name: structure for layer, structure in named if structure is not None}
        try:
            return list(map(_price, simulate(self.accelerator, workload, structures).layers))
        except NoMappingError:
            if len(requests) == 1:
                return [NO_PRICE]
            half = len(requests) // 2
            return self._batch(requests[:half]) + self._batch(requests[half:])


def _price(cost: LayerCost) -> Price:
    return Price(
        cost.activity.latency_cycles,
        cost.total_energy_pj,
        cost.activity.weight_bits / 8,
        cost.activity.compute_cycles,
        _least(cost.energy_pj.items()),
    )


def _least(parts: Iterable[tuple[str, float]]) -> float:
    return sum(value for name, value in parts if name in AT_LEAST)


__all__ = ["NO_PRICE", "Price", "PriceList"]
