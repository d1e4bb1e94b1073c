"""Slow plain twins of search.pareto: by definition, for small sets, everything minimized."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray


def dominates(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    return bool((a <= b).all() and (a < b).any())


def non_dominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Every pair compared; a point equal to an earlier one is left out."""
    return np.array(
        [
            not any(dominates(other, point) for other in points) and not any((e == point).all() for e in points[:i])
            for i, point in enumerate(points)
        ],
        dtype=bool,
    )


def hypervolume(points: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Volume of a union of boxes by inclusion and exclusion over all subsets (up to about 12 points)."""
    boxes = [point for point in points if (point < reference).all()]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for subset in combinations(boxes, size):
            total -= (-1) ** size * float(np.prod(reference - np.max(subset, axis=0)))
    return total


def hypervolume_on_grid(points: NDArray[np.int64], reference: NDArray[np.int64]) -> int:
    """Number of unit cells that a set of integer points >= 0 dominates below the reference: exact, for larger sets."""
    cells = np.indices(tuple(reference)).reshape(len(reference), -1).T
    return int(np.any([(cells >= point).all(axis=1) for point in points], axis=0).sum())
