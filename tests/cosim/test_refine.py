"""A child's hardware is improved by the cost model alone: never worse, within the limits, and only the hardware."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from accel_models.energy import area_mm2
from accel_models.evaluate import simulate
from cosim.codesign.design import build_design, build_plan
from cosim.codesign.evaluator import facts, plan_workload
from cosim.codesign.problem import problem_of
from cosim.codesign.refine import hardware_refiner
from cosim.codesign.study import HardwareSpec, StudySpec, load_study

STUDY = Path(__file__).parents[2] / "examples" / "digits.yaml"


@pytest.fixture(scope="module")
def spec() -> StudySpec:
    study = load_study(STUDY)
    return study.model_copy(update={"training": study.training.model_copy(update={"dense_epochs": 1})})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_improved_hardware_is_never_worse_for_some_weighting_and_keeps_plan_and_limits(spec: StudySpec, cache: Path):
    problem, network = problem_of(spec, cache), facts(spec, cache)
    assert problem.improve is not None
    rng, better = np.random.default_rng(0), 0
    for seed in range(6):
        params = problem.space.sample(rng)
        improved = problem.improve(params, np.random.default_rng(seed))
        problem.space.validate(improved)
        assert build_plan(spec, network, improved) == build_plan(spec, network, params)
        before, after = (build_design(spec, network, p).accelerator for p in (params, improved))
        workload, structures = plan_workload(build_plan(spec, network, params), spec, cache)
        if area_mm2(before) > spec.limits.area_mm2 and improved == params:
            continue
        assert area_mm2(after) <= spec.limits.area_mm2
        if area_mm2(before) <= spec.limits.area_mm2:
            old, new = (simulate(a, workload, structures) for a in (before, after))
            weight = np.random.default_rng(seed).uniform()
            change = weight * math.log(new.energy_pj / old.energy_pj)
            change += (1 - weight) * math.log(new.latency_ms / old.latency_ms)
            assert change <= 1e-12
            better += change < -1e-3
    assert better >= 2


def test_the_same_random_stream_gives_the_same_hardware(spec: StudySpec, cache: Path):
    problem = problem_of(spec, cache)
    assert problem.improve is not None
    params = problem.space.sample(np.random.default_rng(3))
    twice = [problem.improve(params, np.random.default_rng(5)) for _ in range(2)]
    assert twice[0] == twice[1]


def test_fixed_hardware_has_nothing_to_improve(spec: StudySpec, cache: Path):
    fixed = spec.model_copy(update={"hardware": HardwareSpec(base=spec.hardware.base)})
    assert hardware_refiner(fixed, facts(fixed, cache), cache) is None


def test_the_first_designs_are_the_base_accelerator(spec: StudySpec, cache: Path):
    problem, network = problem_of(spec, cache), facts(spec, cache)
    params = problem.space.sample(np.random.default_rng(0)) | dict(problem.initial[0])
    design = build_design(spec, network, params)
    from accel_models import load_accelerator

    assert design.accelerator.model_dump(exclude={"name"}) == load_accelerator(spec.hardware.base).model_dump(
        exclude={"name"}
    )
    assert not any(layer.filters or layer.mask for layer in design.plan.layers.values())
