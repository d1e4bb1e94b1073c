"""Score many systolic designs on many layers: latency and energy of a network, one row a design."""

from __future__ import annotations

import numpy as np
from numba import njit

from accel_models.kernels.schedules import cheapest_schedule
from accel_models.kernels.systolic import EDP, FITS, Machine, Prices, Product


@njit(cache=True, nogil=True)
def score_designs(
    products: np.ndarray,
    fixed_pj: np.ndarray,
    repeats: np.ndarray,
    machines: np.ndarray,
    dram_bits_per_cycle: np.ndarray,
    prices: np.ndarray,
    start: int,
    stop: int,
    out: np.ndarray,
) -> None:
    """Fill rows start..stop of `out` with (latency in cycles, energy in pJ, layers without a schedule).

    products: int64[layers, 16], fixed_pj: float64[layers] (multiply-accumulates and registers), repeats:
    int64[layers] (equal layers), machines: int64[designs, 9], prices: float64[designs, 9] (`Prices` after fixed_pj).
    """
    for d in range(start, stop):
        w = machines[d]
        machine = Machine(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], dram_bits_per_cycle[d])
        p = prices[d]
        cycles, energy, unmapped = 0, 0.0, 0
        for i in range(products.shape[0]):
            x = products[i]
            product = Product(
                x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12], x[13], x[14], x[15]
            )
            price = Prices(fixed_pj[i], p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], EDP)
            traffic = cheapest_schedule(product, machine, price)
            if traffic.status != FITS:
                unmapped += repeats[i]
                continue
            cycles += repeats[i] * traffic.latency_cycles
            energy += repeats[i] * traffic.energy_pj
        out[d, 0] = cycles
        out[d, 1] = energy
        out[d, 2] = unmapped
