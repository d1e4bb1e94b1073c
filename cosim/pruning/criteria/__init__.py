"""Which filters matter: one score per output channel of each layer, higher = keep.

A criterion is a function with one contract (see `measure_scores`), registered in CRITERIA. `nuclear_norm` is
energy-aware pruning (Yeom, Shim, Hwang 2021, arXiv 2103.10858): the energy of the feature map that a filter produces,
after the activation. The others are its rivals, on equal terms: of weights (l1, l2, fpgm, bn_scale, random), of feature
maps (hrank, chip), of the loss (taylor, hessian).
"""

from cosim.pruning.criteria import gradients, maps, weights  # noqa: F401  they register their criteria
from cosim.pruning.criteria.combining import combine_scores, group_score, normalise, weigh_by_readers
from cosim.pruning.criteria.energy import channel_energies, nuclear_norms
from cosim.pruning.criteria.registry import (
    CRITERIA,
    LayerScore,
    ScoreOptions,
    criterion_names,
    measure_scores,
    score_layers,
)
from cosim.pruning.criteria.streaming import rank_correlation

__all__ = [
    "CRITERIA",
    "LayerScore",
    "ScoreOptions",
    "channel_energies",
    "combine_scores",
    "criterion_names",
    "group_score",
    "measure_scores",
    "normalise",
    "nuclear_norms",
    "rank_correlation",
    "score_layers",
    "weigh_by_readers",
]
