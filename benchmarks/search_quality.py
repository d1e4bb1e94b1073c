"""What the search is worth: hypervolume of co-search, random search and a search of the plan alone, equal trials."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.registry import Row, benchmark
from cosim.codesign.evaluator import Evaluator, one_thread
from cosim.codesign.problem import problem_of
from cosim.codesign.study import HardwareSpec, StudySpec, load_study
from search import run_search

SEEDS = (0, 1, 2)
STUDY = Path(__file__).parent.parent / "examples" / "digits.yaml"


def final_hypervolume(spec: StudySpec, sampler: str, seed: int, cache: Path) -> float:
    """Hypervolume after all trials of a study; `seed` is the sampler's, the networks stay the same."""
    result = run_search(
        problem_of(spec, cache),
        Evaluator(spec, cache),
        trials=spec.search.trials,
        seed=seed,
        sampler=sampler,
        population=spec.search.population,
        batch_size=spec.search.batch,
        workers=2,
        initialize=one_thread,
    )
    return float(result.hypervolume_history()[-1])


@benchmark("cosearch_over_random_hypervolume", "cosearch_over_plan_only_hypervolume")
def search_quality() -> list[Row]:
    """Median over three seeds of the study of examples/digits.yaml."""
    one_thread()
    spec = load_study(STUDY)
    fixed = spec.model_copy(update={"hardware": HardwareSpec(base=spec.hardware.base)})
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        ours = [final_hypervolume(spec, spec.search.sampler, seed, cache) for seed in SEEDS]
        random = [final_hypervolume(spec, "random", seed, cache) for seed in SEEDS]
        plan_only = [final_hypervolume(fixed, spec.search.sampler, seed, cache) for seed in SEEDS]
    return [
        _row("cosearch_over_random_hypervolume", ours, "random search", random),
        _row("cosearch_over_plan_only_hypervolume", ours, f"plan alone on {spec.hardware.base}", plan_only),
    ]


def _row(name: str, ours: list[float], peer: str, theirs: list[float]) -> Row:
    value, other = statistics.median(ours), statistics.median(theirs)
    shown = [", ".join(f"{volume:.3f}" for volume in volumes) for volumes in (ours, theirs)]
    return Row(
        name=name,
        value=value,
        unit="accuracy x decades^2",
        peer=peer,
        peer_value=other,
        ratio=value / other,
        note=f"seeds {SEEDS}: {shown[0]} against {shown[1]}",
    )
