"""Entries of run-length codes, counted on packed masks. Numbers in, numbers out."""

from __future__ import annotations

from numba import njit

from accel_models.kernels.masks import ONE, Words, popcount


@njit(cache=True)
def run_entries(words: Words, row_bits: int, span: int, stream: bool) -> int:
    """Entries of a run-length code, all rows.

    A gap of g zeros before a non-zero takes g // span entries without a non-zero and the entry of the non-zero; t
    zeros at the end take ceil(t / span) entries. `stream`: rows follow each other without an end in between.
    """
    entries = 0
    gap_start = 0  # position after the last non-zero, of the row or of the stream
    for row in range(words.shape[0]):
        base = row * row_bits if stream else 0
        if not stream:
            gap_start = 0
        for j in range(words.shape[1]):
            word = words[row, j]
            while word != 0:
                low = word & (~word + ONE)
                position = base + 64 * j + popcount(low - ONE)
                entries += (position - gap_start) // span + 1
                gap_start = position + 1
                word ^= low
        if not stream:
            entries += -(-(row_bits - gap_start) // span)
    if stream:
        entries += -(-(words.shape[0] * row_bits - gap_start) // span)
    return entries
