"""Local search over the hardware of a design: for a given plan it needs the cost model alone, no training.

A child of the search comes with the hardware of its parents, which suited other plans. Before it is trained, its
hardware is improved one parameter at a time for a random weighting of energy and latency, within the limits. The
accuracy stays what it is: only the plan decides it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from accel_models.accelerator import Accelerator
from accel_models.energy import area_mm2
from accel_models.errors import NoMappingError
from accel_models.evaluate import simulate
from accel_models.sparsity import WeightStructure
from accel_models.workload import Workload
from cosim.codesign.design import NetworkFacts, build_accelerator, build_plan, choice_label
from cosim.codesign.evaluator import plan_workload
from cosim.codesign.study import StudySpec

KEYS_TRIED = 4
"""Hardware parameters that a child may change."""

Improve = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]


def hardware_refiner(spec: StudySpec, network: NetworkFacts, cache: Path) -> Improve | None:
    """`Problem.improve` of a study; None where the hardware is fixed."""
    if not spec.hardware.vary:
        return None

    def improve(params: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        plan = build_plan(spec, network, params)
        workload, structures = plan_workload(plan, spec, cache)
        weight = rng.uniform()
        best, least = params, _merit(spec, params, workload, structures, weight)
        for key in rng.permutation(list(spec.hardware.vary))[:KEYS_TRIED]:
            for choice in spec.hardware.vary[key]:
                other = best | {str(key): choice_label(choice)}
                merit = _merit(spec, other, workload, structures, weight) if other != best else least
                if merit < least:
                    best, least = other, merit
        return best

    return improve


def _merit(
    spec: StudySpec, params: dict[str, Any], workload: Workload, structures: WeightStructure, weight: float
) -> float:
    """Weighted logarithms of energy and latency; infinite where the chip is too large or a layer does not fit."""
    accelerator: Accelerator = build_accelerator(spec, params)
    if area_mm2(accelerator) > spec.limits.area_mm2:
        return math.inf
    try:
        cost = simulate(accelerator, workload, structures)
    except NoMappingError:
        return math.inf
    return weight * math.log(cost.energy_pj) + (1 - weight) * math.log(cost.latency_ms)
