"""The search problem of a study: space, objectives, constraints, where to start, how children are improved."""

from __future__ import annotations

import hashlib
from pathlib import Path

from accel_models.accelerator import load_accelerator
from cosim.codesign.design import build_design, initial_designs, search_space
from cosim.codesign.evaluator import facts
from cosim.codesign.refine import hardware_refiner
from cosim.codesign.study import StudySpec
from search import Constraint, Objective, Problem


def problem_of(spec: StudySpec, cache: Path) -> Problem:
    """Space, objectives and constraints of a study."""
    network = facts(spec, cache)
    objectives = [
        Objective("accuracy", "maximize", "", worst=spec.worst.accuracy),
        Objective("energy_pj", "minimize", "pJ", worst=spec.worst.energy_pj, log=True),
        Objective("latency_ms", "minimize", "ms", worst=spec.worst.latency_ms, log=True),
    ]
    constraints = [Constraint("area_mm2", "mm2"), Constraint("unmapped_bytes", "bytes")]
    return Problem(
        search_space(spec, network),
        objectives,
        constraints,
        canonical=lambda params: build_design(spec, network, params).digest(),
        identity=_identity(spec),
        initial=initial_designs(spec, network),
        improve=hardware_refiner(spec, network, cache),
    )


def _identity(spec: StudySpec) -> str:
    """Digest of what an evaluation hangs on besides its parameters: the study and the base accelerator's content."""
    text = spec.model_dump_json(exclude={"search", "name", "repeats"})
    text += load_accelerator(spec.hardware.base).model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]
