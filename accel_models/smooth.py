"""Extents that divide well, which prime ones do not: what a mapper pads a dimension to."""

from __future__ import annotations

from itertools import count

SMOOTH = 7
"""Largest prime factor of an extent that is not padded for its divisors' sake: an assumption; 7 is common in layers."""


def next_smooth(extent: int) -> int:
    """The least number that is no smaller and has no prime factor above `SMOOTH`."""
    return next(n for n in count(extent) if is_smooth(n))


def is_smooth(n: int) -> bool:
    """No prime factor is above `SMOOTH`."""
    for prime in (2, 3, 5, SMOOTH):
        while n % prime == 0:
            n //= prime
    return n == 1
