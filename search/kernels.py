"""Numba kernels of the Pareto arithmetic: numbers in, numbers out, everything minimized.

Sources: non-dominated filter by lexicographic order, Kung, Luccio, Preparata 1975 (J. ACM 22, 4), without the divide
step; hypervolume in three dimensions by a sweep over the last one, Beume, Fonseca, López-Ibáñez, Paquete, Vahrenhold
2009 (IEEE Trans. Evolutionary Computation 13, 5), with a sorted array where they use a balanced tree.
"""

import numpy as np
from numba import njit


@njit(cache=True)
def first_non_dominated(points: np.ndarray, order: np.ndarray, mask: np.ndarray) -> None:
    """Mark the non-dominated points; of equal points the first in ``order`` is marked.

    Parameters
    ----------
    points : float64 array [n, d]
        Objective values, minimized.
    order : int64 array [n]
        Lexicographic ascending order of the points (stable): no point is dominated by a later one.
    mask : bool array [n]
        Filled: True where the point is kept.
    """
    n, d = points.shape
    front = np.empty(n, np.int64)
    size = 0
    for i in range(n):
        candidate = order[i]
        covered = False
        for j in range(size):
            member = front[j]
            covered = True
            for axis in range(d):
                if points[member, axis] > points[candidate, axis]:
                    covered = False
                    break
            if covered:
                break
        mask[candidate] = not covered
        if not covered:
            front[size] = candidate
            size += 1


@njit(cache=True)
def area(points: np.ndarray, reference: np.ndarray) -> float:
    """Area dominated by points [n, 2] in ascending order of the first axis, all below ``reference`` [2]."""
    total = 0.0
    ceiling = reference[1]
    for i in range(points.shape[0]):
        if points[i, 1] < ceiling:
            total += (reference[0] - points[i, 0]) * (ceiling - points[i, 1])
            ceiling = points[i, 1]
    return total


@njit(cache=True)
def volume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume dominated by points [n, 3] in ascending order of the last axis, all below ``reference`` [3].

    The staircase of the points met so far is kept sorted by x (y descends); a new point adds an area, which lasts from
    its z to the next. Each point enters and leaves the staircase once.
    """
    n = points.shape[0]
    xs = np.empty(n + 1)
    ys = np.empty(n + 1)
    size = 0
    total = 0.0
    stair_area = 0.0
    for i in range(n):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        start = np.searchsorted(xs[:size], x, side="right")
        if start == 0 or ys[start - 1] > y:
            first = start
            while first > 0 and xs[first - 1] == x:
                first -= 1
            ceiling = reference[1] if first == 0 else ys[first - 1]
            left = x
            last = first
            while last < size and ys[last] >= y:
                stair_area += (xs[last] - left) * (ceiling - y)
                left = xs[last]
                ceiling = ys[last]
                last += 1
            right = reference[0] if last == size else xs[last]
            stair_area += (right - left) * (ceiling - y)
            _replace(xs, size, first, last, x)
            _replace(ys, size, first, last, y)
            size += 1 - (last - first)
        next_z = reference[2] if i == n - 1 else points[i + 1, 2]
        total += stair_area * (next_z - z)
    return total


@njit(cache=True)
def _replace(values: np.ndarray, size: int, first: int, last: int, value: float) -> None:
    """Put one value in the place of ``values[first:last]`` and move the tail."""
    if last == first:
        for i in range(size, first, -1):
            values[i] = values[i - 1]
    else:
        for i in range(last, size):
            values[first + 1 + i - last] = values[i]
    values[first] = value
