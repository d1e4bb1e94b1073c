"""Samplers by name, each a pure function of the finished trials, the seed and the trial number.

A search that was killed continues exactly only if nothing lives in the sampler object: a fresh one is made for every
trial, seeded with (seed, trial number), and what a genetic algorithm must remember is derived from trial numbers or
stored in the study.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.errors import InvalidProblemError
from search.problem import Problem

if TYPE_CHECKING:
    from optuna.samplers._ga import BaseGASampler as _GeneticBase
else:
    _GeneticBase = object

RECORD_ATTRIBUTE = "record"
"""User attribute of a finished trial: key, state, evaluation, error, seconds."""

SamplerFactory = Callable[[Problem, int, tuple[int, int]], BaseSampler]
"""(problem, population, two independent seeds < 2**32) → a sampler for one trial."""


class _Generations(_GeneticBase):
    """What NSGA-II and NSGA-III change here against Optuna's classes.

    - The generation is trial number // population, so that crashed trials do not hold a generation open and the sampled
      values do not depend on the batch size (batches end with a generation, see `search.study`).
    - The space is known and static: Optuna would intersect the spaces of all trials for every new one.
    - Parents are selected among different designs: repeated designs would crowd out the others.
    - Mutated values come from a stream of their own: Optuna seeds both streams equally, and with a fresh seed for every
      trial the first mutated value would follow the draw that decided the crossover.
    """

    _problem: Problem
    _independent: RandomSampler
    _improve_rng: np.random.Generator

    def configure(self, problem: Problem, independent_seed: int) -> None:
        self._problem = problem
        self._independent = RandomSampler(seed=independent_seed)
        self._improve_rng = np.random.default_rng([independent_seed, 1])

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        return trial.number // _population(self)

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        first = generation * _population(self)
        trials = study.get_trials(deepcopy=False)[first : first + _population(self)]
        return [trial for trial in trials if trial.state == TrialState.COMPLETE]

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        candidates = self.get_parent_population(study, generation - 1) + self.get_population(study, generation - 1)
        distinct: dict[str, FrozenTrial] = {}
        for trial in sorted(candidates, key=lambda trial: trial.number):
            distinct.setdefault(trial.user_attrs[RECORD_ATTRIBUTE]["key"], trial)
        selected = self._elite_population_selection_strategy(study, list(distinct.values()))  # type: ignore[attr-defined]
        return sorted(selected, key=lambda trial: trial.number)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: each for name, each in self._problem.space.distributions.items() if not each.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        parents = self.get_parent_population(study, self.get_trial_generation(study, trial))
        if len(parents) < 2:
            return {}
        child: dict[str, Any] = self._child_generation_strategy(study, search_space, parents)  # type: ignore[attr-defined]
        return child if self._problem.improve is None else self._improved(study, trial, search_space, child)

    def _improved(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution], child: dict[str, Any]
    ) -> dict[str, Any]:
        """The child, its mutated values drawn now and not later, after the problem's own local search."""
        assert self._problem.improve is not None
        params = {
            name: child[name] if name in child else self.sample_independent(study, trial, name, distribution)
            for name, distribution in self._problem.space.distributions.items()
        }
        improved = self._problem.improve(params, self._improve_rng)
        self._problem.space.validate(improved)
        return {name: improved[name] for name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


class _NSGA2(_Generations, NSGAIISampler):
    """NSGA-II (Deb et al. 2002) with generations by trial number."""


class _NSGA3(_Generations, NSGAIIISampler):
    """NSGA-III (Deb, Jain 2014) with generations by trial number."""


def _population(sampler: _Generations) -> int:
    size: int | None = sampler.population_size
    if size is None:
        raise AssertionError("a genetic sampler without population size")
    return size


class _Given(RandomSampler):
    """Given values for some parameters, random ones for the others."""

    def __init__(self, given: Mapping[str, Any], seed: int) -> None:
        super().__init__(seed=seed)
        self._given = given

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self._given:
            return self._given[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


def _nsga2(problem: Problem, population: int, seeds: tuple[int, int]) -> BaseSampler:
    sampler = _NSGA2(population_size=population, seed=seeds[0])
    sampler.configure(problem, seeds[1])
    return sampler


def _nsga3(problem: Problem, population: int, seeds: tuple[int, int]) -> BaseSampler:
    sampler = _NSGA3(population_size=population, seed=seeds[0])
    sampler.configure(problem, seeds[1])
    return sampler


def _tpe(problem: Problem, population: int, seeds: tuple[int, int]) -> BaseSampler:
    """Optuna's default for several objectives (univariate); the first ``population`` trials are random."""
    return TPESampler(seed=seeds[0], n_startup_trials=population)


def _random(problem: Problem, population: int, seeds: tuple[int, int]) -> BaseSampler:
    return RandomSampler(seed=seeds[0])


SAMPLERS: Mapping[str, SamplerFactory] = {"nsga2": _nsga2, "nsga3": _nsga3, "tpe": _tpe, "random": _random}
"""Name → factory."""


def check_sampler(name: str) -> None:
    """Raise InvalidProblemError, naming the nearest sampler, unless ``name`` is one."""
    if name not in SAMPLERS:
        nearest = (difflib.get_close_matches(name, SAMPLERS, 1, 0.0) or list(SAMPLERS))[0]
        raise InvalidProblemError(f"no sampler {name!r}; nearest: {nearest!r}, there are {sorted(SAMPLERS)}")


def make_sampler(name: str, problem: Problem, population: int, seed: int, number: int) -> BaseSampler:
    """Make the sampler of one trial.

    Parameters
    ----------
    name : str
        Key of `SAMPLERS`.
    population : int
        Designs per generation, >= 2; for "tpe" the number of random trials at the start.
    seed, number : int
        >= 0; seed of the search and number of the trial.
    """
    first, second = np.random.SeedSequence([seed, number]).generate_state(2)
    if name != "random" and number < len(problem.initial):
        return _Given(problem.initial[number], int(first))
    return SAMPLERS[name](problem, population, (int(first), int(second)))
