"""Non-dominated points and exact hypervolume.

Public functions take directions or a reference point and check their input; the loops are in ``search.kernels``.
Inside, everything is minimized.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search import kernels
from search.errors import InvalidProblemError

DIRECTIONS = ("minimize", "maximize")


def non_dominated(points: ArrayLike, directions: Sequence[str] | None = None) -> NDArray[np.bool_]:
    """Mask of the non-dominated points; of equal points only the first is kept.

    Parameters
    ----------
    points : array [n, d]
        Objective values, finite.
    directions : sequence of d "minimize" or "maximize"
        Default: all minimized.

    Returns
    -------
    bool array [n]

    Raises
    ------
    InvalidProblemError
        Points that are not finite or not [n, d]; unknown directions or another number of them than d.
    """
    values = _minimized(_matrix(points), directions)
    mask = np.zeros(len(values), dtype=np.bool_)
    if len(values):
        kernels.first_non_dominated(values, _lexicographic(values), mask)
    return mask


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the points dominate below the reference point, exactly; every objective minimized.

    Points that are not better than the reference in every objective add nothing. Two and three objectives: one sweep.
    More: inclusion and exclusion of limited sets, one dimension less per level.

    Parameters
    ----------
    points : array [n, d]
        Objective values, minimized, finite; negate those to be maximized (`search.problem.Problem.minimized`).
    reference : array [d]
        Reference point.

    Returns
    -------
    float
        In the product of the objectives' units; 0 without points.

    Raises
    ------
    InvalidProblemError
        Shapes that do not fit, values that are not finite.

    Notes
    -----
    While, Bradstreet, Barone 2012, "A fast way of calculating exact hypervolumes", IEEE Trans. Evolutionary Computation
    16, 1 (WFG), with its slicing: in ascending order of the last objective, the points that limit a point share its
    last value.
    """
    values = _matrix(points)
    limit = np.ascontiguousarray(reference, dtype=np.float64)
    if limit.ndim != 1 or not np.isfinite(limit).all() or (len(values) and values.shape[1] != len(limit)):
        raise InvalidProblemError(
            f"reference has shape {limit.shape} and values {limit.tolist()}, points have shape {values.shape}: "
            "pass one finite reference value per objective"
        )
    inside = values[(values < limit).all(axis=1)] if len(values) else values
    if not len(inside):
        return 0.0
    return _volume(inside[non_dominated(inside)], limit)


def hypervolume_history(points: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Hypervolume after each point; a row of NaN stands for a trial that adds nothing.

    Parameters
    ----------
    points : array [n, d]
        Objective values in the order of the trials, minimized; rows with NaN are skipped.
    reference : array [d]
        Reference point.

    Returns
    -------
    float64 array [n]
        Never falls; computed anew only where a point enters the front.
    """
    rows = np.ascontiguousarray(points, dtype=np.float64)
    limit = np.ascontiguousarray(reference, dtype=np.float64)
    history = np.zeros(len(rows))
    front = np.empty((0, len(limit)))
    current = 0.0
    for index, row in enumerate(rows):
        if (row < limit).all() and not (front <= row).all(axis=1).any():
            front = np.vstack([front[~(row <= front).all(axis=1)], row])
            current = max(current, _volume(front, limit))
        history[index] = current
    return history


def _volume(front: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Hypervolume of a non-dominated set [n, d] inside the reference [d]."""
    dimensions = len(reference)
    if dimensions == 1:
        return float(reference[0] - front[:, 0].min())
    if dimensions == 2:
        return float(kernels.area(np.ascontiguousarray(front[_lexicographic(front)]), reference))
    ordered = np.ascontiguousarray(front[np.argsort(front[:, -1], kind="stable")])
    if dimensions == 3:
        return float(kernels.volume(ordered, reference))
    below = np.ascontiguousarray(ordered[:, :-1])
    return float(
        sum(
            (reference[-1] - ordered[i, -1]) * _exclusive(below[i], below[:i], reference[:-1])
            for i in range(len(ordered))
        )
    )


def _exclusive(point: NDArray[np.float64], others: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Volume that ``point`` dominates and no point of ``others`` does."""
    box = float(np.prod(reference - point))
    if not len(others):
        return box
    limited = np.maximum(others, point)
    return box - _volume(limited[non_dominated(limited)], reference)


def _matrix(points: ArrayLike) -> NDArray[np.float64]:
    values = np.ascontiguousarray(points, dtype=np.float64)
    if values.size == 0:
        return values.reshape(len(values), values.shape[-1] if values.ndim == 2 else 0)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise InvalidProblemError(f"points have shape {values.shape}: pass finite values of shape [points, objectives]")
    return values


def _minimized(values: NDArray[np.float64], directions: Sequence[str] | None) -> NDArray[np.float64]:
    if directions is None or not len(values):
        return values
    unknown = [direction for direction in directions if direction not in DIRECTIONS]
    if unknown or len(directions) != values.shape[1]:
        raise InvalidProblemError(
            f"directions are {list(directions)} for {values.shape[1]} objectives: pass one of {DIRECTIONS} for each"
        )
    return values * np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])


def _lexicographic(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.lexsort(values.T[::-1]).astype(np.int64)
