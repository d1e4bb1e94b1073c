"""Random masks with k of n in every tile."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def select_k_of_n(uniform: NDArray[np.float32], k: int, n: int, out: NDArray[np.bool_]) -> None:
    """Keep exactly k of n neighbouring elements, all choices alike (Knuth, TAOCP vol. 2, algorithm 3.4.2S).

    uniform: float32 [rows, elements] in [0, 1); out: bool of the same shape. A shorter last tile keeps min(k, length).
    """
    elements = uniform.shape[1]
    for row in range(uniform.shape[0]):
        for start in range(0, elements, n):
            stop = min(start + n, elements)
            needed = min(k, stop - start)
            for i in range(start, stop):
                out[row, i] = uniform[row, i] * (stop - i) < needed
                needed -= out[row, i]
