"""Kernels of the k-of-n sampler for rows on the CPU: numbers in, numbers out; the tensors are in dpp_sampler.

Shapes: rows = constraint rows, n = units of a row, k = units that stay. Rows of at most `TILE` units have kernels of
their own in dpp_tiles.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cosim.pruning.dpp_vector import exp_float32, fill_gumbel

_BUCKETS = 256
_FEW = 16
"""Up to so many values a plain sum is faster than a folded one."""


@njit(cache=True)
def _range(row):  # type: ignore[no-untyped-def]
    """(largest, smallest) value; of float32 by integers of the same order, whose maximum the compiler vectorises."""
    if row.itemsize == 4:
        bits = row.view(np.int32)
        high, low = np.int32(-(2**31)), np.int32(2**31 - 1)
        for i in range(bits.size):
            key = np.int32(bits[i] ^ ((bits[i] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            high, low = max(high, key), min(low, key)
        ends = np.array([high, low], np.int32)
        for i in range(2):
            ends[i] = ends[i] ^ ((ends[i] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        both = ends.view(row.dtype)[:2]
        return both[0], both[1]
    largest, smallest = row[0], row[0]
    for i in range(row.size):
        largest, smallest = max(largest, row[i]), min(smallest, row[i])
    return largest, smallest


@njit(cache=True)
def _count_buckets(row, k, bucket, start, fill):  # type: ignore[no-untyped-def]
    """Spread a row over buckets of equal width from its largest value down.

    Fills the bucket of every unit and the place where each bucket starts; returns the last bucket that is needed.
    """
    high, low = _range(row)
    width = high - low
    scale = (_BUCKETS - 0.1) / width if 0.0 < width < np.inf else 0.0
    factor = row.dtype.type(scale)
    bucket[:] = 0
    if scale > 0.0:
        for i in range(row.size):
            bucket[i] = np.int32((high - row[i]) * factor)
    fill[:] = 0
    start[:] = 0
    half = row.size // 2
    first, second = bucket[:half], bucket[half:]
    for i in range(half):  # two counters: neighbours often fall into one bucket and would wait for each other
        fill[np.uint32(first[i])] += 1
        start[np.uint32(second[i])] += 1
    if row.size % 2:
        fill[bucket[row.size - 1]] += 1
    total = 0
    for b in range(_BUCKETS):
        count = fill[b] + start[b]
        start[b] = fill[b] = total
        total += count
        if total >= k:
            return b
    return _BUCKETS - 1


@njit(cache=True)
def _sort_bucket(values, units):  # type: ignore[no-untyped-def]
    """Descending values, equal ones in ascending order of their units.

    Shell's sort: short to compile, and as fast as any for the few values of a bucket. Gaps: Ciura 2001.
    """
    gap = 1750
    while gap > 1 and gap * 2 > values.size:
        gap = _smaller_gap(gap)
    while gap > 0:
        for i in range(gap, values.size):
            value, unit, place = values[i], units[i], i
            while place >= gap:
                other = values[place - gap]
                if other > value or (other == value and units[place - gap] < unit):
                    break
                values[place], units[place] = other, units[place - gap]
                place -= gap
            values[place], units[place] = value, unit
        gap = _smaller_gap(gap)


@njit(cache=True)
def _smaller_gap(gap):  # type: ignore[no-untyped-def]
    if gap > 701:
        return 701
    if gap > 301:
        return 301
    if gap > 132:
        return 132
    if gap > 57:
        return 57
    if gap > 23:
        return 23
    if gap > 10:
        return 10
    if gap > 4:
        return 4
    return 1 if gap > 1 else 0


@njit(cache=True)
def _pick_row(row, picks, integers, values):  # type: ignore[no-untyped-def]
    """Indices of the k largest of one row; integers int32 [5, max(n + 1, 256)] and values [n] are scratch."""
    n, k = row.size, picks.size
    bucket, units, start, fill = integers[0, :n], integers[1], integers[2, :_BUCKETS], integers[3, :_BUCKETS]
    last = _count_buckets(row, k, bucket, start, fill)
    chosen = integers[4]
    count = 0
    for i in range(n):
        chosen[count] = i
        count += 1 if bucket[i] <= last else 0
    for j in range(count):
        i = chosen[j]
        place = fill[bucket[i]]
        fill[bucket[i]] = place + 1
        values[place], units[place] = row[i], i
    for b in range(last + 1):
        if fill[b] - start[b] > 1:
            _sort_bucket(values[start[b] : fill[b]], units[start[b] : fill[b]])
    for j in range(k):
        picks[j] = units[j]


@njit(cache=True)
def pick_top(scores, picks):  # type: ignore[no-untyped-def]
    """Indices of the k largest of each row, largest first, equal ones in index order.

    Parameters
    ----------
    scores : float [rows, n], no NaN
    picks : int32 [rows, k], filled
    """
    n = scores.shape[1]
    integers, values = np.empty((5, max(n + 1, _BUCKETS)), np.int32), np.empty(n, scores.dtype)
    for r in range(scores.shape[0]):
        _pick_row(scores[r], picks[r], integers, values)


@njit(cache=True)
def draw_rows(logits, key, noise, values, scores, picks, out):  # type: ignore[no-untyped-def]
    """One draw of every row while it is in the first cache: scores = Φ + c·g, their picks, out = A ⊙ values.

    Parameters
    ----------
    logits, values, scores, out : float [rows, n]
    key : uint64
    noise : float32
    picks : int32 [rows, k]
    """
    rows, n = logits.shape
    integers, sorted_values = np.empty((5, max(n + 1, _BUCKETS)), np.int32), np.empty(n, scores.dtype)
    drawn, work = np.empty(n, np.float32), np.empty((3, n + 2), np.int32)
    for r in range(rows):
        if noise > 0.0:
            fill_gumbel(key, r * n, drawn, work)
            for i in range(n):
                scores[r, i] = logits[r, i] - noise * drawn[i]
        else:
            scores[r] = logits[r]
        _pick_row(scores[r], picks[r], integers, sorted_values)
        out[r] = 0
        for j in range(picks.shape[1]):
            out[r, picks[r, j]] = values[r, picks[r, j]]


@njit(cache=True)
def keep_picks(values, picks, out):  # type: ignore[no-untyped-def]
    """out = values at the picks int32 [rows, k], 0 elsewhere; values and out [rows, n]."""
    out[:] = 0
    for r in range(picks.shape[0]):
        for j in range(picks.shape[1]):
            out[r, picks[r, j]] = values[r, picks[r, j]]


@njit(cache=True)
def _weighted_sums(weights, values, folds):  # type: ignore[no-untyped-def]
    """Σ weights and Σ weights · values by folding the row on itself, which the compiler vectorises.

    folds [2, n] is scratch. Errors grow with log n, as in pairwise summation.
    """
    n = weights.size
    half = (n + 1) // 2
    pairs = n - half
    first, second, upper, other = folds[0], folds[1], weights[half:], values[half:]
    for i in range(pairs):
        first[i] = weights[i] + upper[i]
        second[i] = weights[i] * values[i] + upper[i] * other[i]
    if pairs < half:
        first[pairs], second[pairs] = weights[pairs], weights[pairs] * values[pairs]
    while half > 1:
        n, half = half, (half + 1) // 2
        upper, other = first[half:n], second[half:n]
        for i in range(upper.size):
            first[i] += upper[i]
        for i in range(upper.size):
            second[i] += other[i]
    return np.float64(first[0]), np.float64(second[0])


@njit(cache=True)
def follow_rows(values, gain, seen, logits):  # type: ignore[no-untyped-def]
    """Move Φ by how far gain · |value| / row mean has moved since it was seen; a row of zeros falls to 0.

    Parameters
    ----------
    values, seen, logits : float [rows, n]
        `seen` and `logits` are changed.
    gain : float
    """
    n, real = values.shape[1], values.dtype.type
    size, folds = np.empty_like(values[0]), np.empty((2, n), values.dtype)
    for r in range(values.shape[0]):
        total = 0.0
        for i in range(n):
            size[i] = abs(values[r, i])
        if n <= _FEW:
            for i in range(n):
                total += size[i]
        else:
            total, _ = _weighted_sums(size, size, folds)
        scale = real(gain * n / total) if total > 0.0 else real(0.0)
        for i in range(n):
            now = size[i] * scale
            logits[r, i] += now - seen[r, i]
            seen[r, i] = now


@njit(cache=True)
def _exp(x, out, power):  # type: ignore[no-untyped-def]
    """exp of float32 by our vector code, of float64 by the library."""
    if x.itemsize == 4:
        exp_float32(x, out, power)
    else:
        for i in range(x.size):
            out[i] = np.exp(x[i])


@njit(cache=True)
def _scratch(scores, picks):  # type: ignore[no-untyped-def]
    """(floats [6, n], sums [3, k], powers [n]) for `_row_vjp`."""
    n, k = scores.shape[1], picks.shape[1]
    return np.empty((6, n), scores.dtype), np.empty((3, k)), np.empty(n, np.int32)


@njit(cache=True)
def _row_vjp(scores, order, temperature, h, weights, floats, sums, power):  # type: ignore[no-untyped-def]
    """weights = gradient of Σ h ⊙ S with respect to one row of Φ.

    Along the picks, with d_j = exp(x_j+1 - x_j) <= 1 and the pick's share p_j = exp(x_j) / Z_j of its own softmax:
    p_j = p_j+1 / (p_j+1 + d_j) from the last to the first, S_j = S_j-1 d_j-1 + p_j from the first to the last; D and
    D̄ are running means. No exponent is positive and no sum has mixed signs, so nothing can leave the range.
    """
    n, k, real = scores.size, order.size, scores.dtype.type
    x, folds, gaps, decay = floats[0], floats[1:3], floats[3, :k], floats[4, :k]
    share, mean, soft = sums[0], sums[1], sums[2]
    inverse, lowest = real(1.0 / temperature), scores[order[k - 1]]
    for i in range(n):
        x[i] = min(scores[i] - lowest, real(0.0)) * inverse
    _exp(x, weights, power)
    for j in range(k):
        weights[order[j]] = 0
        gaps[j] = (scores[order[min(j + 1, k - 1)]] - scores[order[j]]) * inverse
    _exp(gaps, decay, power[:k])
    rest, rest_grad = _weighted_sums(weights, h, folds)
    share[k - 1] = 1.0 / (1.0 + rest)
    mean[k - 1] = (h[order[k - 1]] + rest_grad) * share[k - 1]
    for j in range(k - 2, -1, -1):
        share[j] = share[j + 1] / (share[j + 1] + decay[j])
        mean[j] = mean[j + 1] + (h[order[j]] - mean[j + 1]) * share[j]
    soft[0] = share[0]
    for j in range(1, k):
        soft[j] = soft[j - 1] * decay[j - 1] + share[j]
        mean[j] = mean[j - 1] + (mean[j] - mean[j - 1]) * (share[j] / soft[j])
    factor, middle = real(soft[k - 1] / temperature), real(mean[k - 1])
    for i in range(n):
        weights[i] *= (h[i] - middle) * factor
    for j in range(k):
        weights[order[j]] = soft[j] * (h[order[j]] - mean[j]) / temperature


@njit(cache=True)
def soft_mask_vjp(perturbed, picks, temperature, grad, values, out):  # type: ignore[no-untyped-def]
    """Gradient of Σ h ⊙ S with respect to Φ with h = grad ⊙ values, for picks in score order.

    Parameters
    ----------
    perturbed, grad, values : float [rows, n]
    picks : int32 [rows, k]
        Indices of the k largest, largest first.
    temperature : float
    out : float [rows, n], filled
    """
    floats, sums, power = _scratch(perturbed, picks)
    h = floats[5]
    for r in range(perturbed.shape[0]):
        for i in range(h.size):
            h[i] = grad[r, i] * values[r, i]
        _row_vjp(perturbed[r], picks[r], temperature, h, out[r], floats, sums, power)


@njit(cache=True)
def learn_rows(perturbed, picks, temperature, grad, values, entropy_weight, rate, logits):  # type: ignore[no-untyped-def]
    """Φ -= rate · gradient, that of `soft_mask_vjp` and of entropy_weight · Σ_rows H(softmax(Φ)), while a row is near.

    Returns Σ gradient².

    Parameters
    ----------
    perturbed, picks, temperature, grad, values
        As in `soft_mask_vjp`.
    entropy_weight, rate : float
    logits : float [rows, n], changed
    """
    floats, sums, power = _scratch(perturbed, picks)
    h, row, below, weights = floats[5], np.empty_like(logits[0]), np.empty_like(logits[0]), np.empty_like(logits[0])
    factor, folds, total = logits.dtype.type(rate), floats[1:3], 0.0
    for r in range(perturbed.shape[0]):
        for i in range(h.size):
            h[i] = grad[r, i] * values[r, i]
        _row_vjp(perturbed[r], picks[r], temperature, h, row, floats, sums, power)
        if entropy_weight > 0.0:
            _row_entropy(logits[r], entropy_weight, below, weights, power, folds)
            for i in range(h.size):
                row[i] += weights[i]
        for i in range(h.size):
            logits[r, i] -= factor * row[i]
        total += _weighted_sums(row, row, folds)[1]
    return total


@njit(cache=True)
def _partition(row, below, weights, power, folds):  # type: ignore[no-untyped-def]
    """Fill below = Φ - max Φ and weights = exp(below); their sum, and the mean of `below` under softmax(Φ)."""
    high, _ = _range(row)
    for i in range(row.size):
        below[i] = row[i] - high
    _exp(below, weights, power)
    partition, first = _weighted_sums(weights, below, folds)
    return partition, first / partition


@njit(cache=True)
def _row_entropy(row, factor, below, weights, power, folds):  # type: ignore[no-untyped-def]
    """H(softmax(Φ)) of one row in nats; weights = factor times its gradient -p (log p + H)."""
    partition, mean = _partition(row, below, weights, power, folds)
    scale, middle = row.dtype.type(-factor / partition), row.dtype.type(mean)
    for i in range(row.size):
        weights[i] *= (below[i] - middle) * scale
    return np.log(partition) - mean


@njit(cache=True)
def entropy(logits, factor, out):  # type: ignore[no-untyped-def]
    """Σ_rows H(softmax(Φ)) in nats; out = factor times its gradient. Φ and out float [rows, n]."""
    below, power = np.empty_like(logits[0]), np.empty(logits.shape[1], np.int32)
    folds, total = np.empty((2, logits.shape[1]), logits.dtype), 0.0
    for r in range(logits.shape[0]):
        total += _row_entropy(logits[r], factor, below, out[r], power, folds)
    return total
