"""Multi-objective search over any function: parameters in, objectives and constraint violations out."""

from search.errors import InvalidProblemError, ResumeError, SearchError
from search.pareto import hypervolume, hypervolume_history, non_dominated
from search.problem import Constraint, Evaluation, Objective, Problem
from search.results import SearchResult, TrialRecord
from search.samplers import SAMPLERS
from search.space import Categorical, Integer, Real, SearchSpace
from search.study import run_search

__all__ = [
    "SAMPLERS",
    "Categorical",
    "Constraint",
    "Evaluation",
    "Integer",
    "InvalidProblemError",
    "Objective",
    "Problem",
    "Real",
    "ResumeError",
    "SearchError",
    "SearchResult",
    "SearchSpace",
    "TrialRecord",
    "hypervolume",
    "hypervolume_history",
    "non_dominated",
    "run_search",
]
