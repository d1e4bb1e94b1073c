"""What a layer that hangs on many groups costs at least, as a sum over pairs of an input and an output group.

Its multiplications are a product of its inputs and its outputs, and both are sums over groups. No array does more than
one multiplication a PE and cycle, and none does one for less than its price.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from accel_models.accelerator import Accelerator
from accel_models.energy import energy_table
from accel_models.layers import Conv2d, Gemm
from cosim.codesign.plan_tables import Array, Decision, Factor, LayerModel

Part = tuple[int | None, Array]
"""Number of a group (None: what no group owns), and what each of its choices adds to a size."""


def layer_floors(
    layer: LayerModel, decisions: Sequence[Decision], accelerator: Accelerator, resources: int
) -> list[Factor]:
    """Lower bounds that add up to one of the layer; none for work without weights and grouped convolutions."""
    dense = layer.shape.layer
    if not isinstance(dense, Conv2d | Gemm) or dense.groups > 1:
        return []
    fields = ("c", "k") if isinstance(dense, Conv2d) else ("k", "n")
    if set(layer.shape.slopes) - set(fields):
        return []
    treatments = () if layer.treatment is None else decisions[layer.treatment].treatments
    share = min([1.0, *(t.mask.k / t.mask.n for t in treatments if t.mask is not None)])
    bits = min([dense.bits.weight, *(t.bits for t in treatments)])
    weights = share * dense.weight_elements / (getattr(dense, fields[0]) * getattr(dense, fields[1]))
    macs = weights * dense.macs / dense.weight_elements
    mac_pj = energy_table(accelerator).mac_pj(accelerator.multiplier_bits(bits))
    each = np.array([macs / accelerator.pe_array.pes, macs * mac_pj, *[weights * bits / 8] * (resources - 2)])
    inputs, outputs = (_parts(layer, name, decisions) for name in fields)
    return [_floor(a, b, each) for a, b in itertools.product(inputs, outputs)]


def _parts(layer: LayerModel, name: str, decisions: Sequence[Decision]) -> list[Part]:
    """A size of the layer as a sum over groups."""
    slope: Mapping[int, int] = layer.shape.slopes.get(name, {})
    parts: list[Part] = [(g, step * np.array(decisions[g].counts, float)) for g, step in sorted(slope.items())]
    rest = getattr(layer.shape.layer, name) - sum(step * decisions[g].counts[-1] for g, step in slope.items())
    return [*parts, (None, np.array([float(rest)]))]


def _floor(a: Part, b: Part, each: Array) -> Factor:
    """each [R] x a x b over the groups of both."""
    if a[0] is None or b[0] is None or a[0] == b[0]:
        work = a[1] * b[1]  # of one group, or of none: one of the two has a single choice
        scope: tuple[int, ...] = tuple({part[0] for part in (a, b) if part[0] is not None})
        work = work if scope else work.reshape(())
    else:
        first, second = sorted((a, b), key=lambda part: part[0] or 0)
        work, scope = np.outer(first[1], second[1]), (first[0] or 0, second[0] or 0)
    cost = each.reshape(-1, *[1] * work.ndim) * work
    return Factor(scope, np.zeros(work.shape), cost, cost)


__all__ = ["layer_floors"]
