"""Mappings evaluated per second: cycles and energy of random mappings of a ResNet layer on three storage levels.

Timed is `evaluate_mappings` with all its checks, after a first call that
compiles or loads its kernel; making the table is not.
"""

from __future__ import annotations

import time

import numpy as np

from accel_models.mapping import DIMS, OPERANDS, LoopShape, StorageLevel
from accel_models.mapping_cost import LevelPrices, MappingTable, evaluate_mappings
from accel_models.mapping_space import Hierarchy
from accel_models.mapping_sparse import Action, Zeros, evaluate_sparse_mappings
from benchmarks.registry import Row, benchmark

LAYER = LoopShape(K=64, C=64, P=56, Q=56, R=3, S=3)
"""conv2_x of ResNet-18."""

LEVELS = (
    StorageLevel(name="dram", holds=frozenset(OPERANDS)),
    StorageLevel(name="glb", holds=frozenset(OPERANDS)),
    StorageLevel(name="rf", holds=frozenset(OPERANDS)),
)
PRICES = tuple(
    LevelPrices(read_pj=dict.fromkeys(OPERANDS, pj), write_pj=dict.fromkeys(OPERANDS, pj), bandwidth=words)
    for pj, words in ((200.0, 8.0), (6.0, 64.0), (1.0, 8.0))
)
"""Relative energies of Eyeriss (ISCA'16, Table IV); no capacities: every mapping is scored in full."""


ZEROS = Zeros(
    density={"weight": 0.4, "input": 0.5},
    formats={
        ("dram", "weight"): "run_length",
        ("dram", "input"): "run_length",
        ("glb", "weight"): "bitmask",
        ("glb", "input"): "coordinates",
        ("rf", "weight"): "coordinates",
    },
    reads={
        ("glb", "weight"): Action(kind="skip", leaders=frozenset({"input"})),
        ("rf", "input"): Action(kind="gate", leaders=frozenset({"weight"})),
        ("rf", "output"): Action(kind="skip", leaders=frozenset({"weight", "input"})),
    },
    macs=Action(kind="skip", leaders=frozenset({"weight", "input"})),
)
"""A mix of formats and actions, to be timed; of no machine in particular."""


def random_table(shape: LoopShape, levels: int, rows: int, seed: int) -> MappingTable:
    """Every prime factor of every dimension at a random level, at the middle levels one in three spatial."""
    rng = np.random.default_rng(seed)
    factors = np.ones((2, rows, levels, 8), np.int32)
    every = np.arange(rows)
    for dim, name in enumerate(DIMS):
        for prime in _primes(shape.extents[name]):
            at = rng.integers(levels, size=rows)
            spatial = ((at > 0) & (at < levels - 1) & (rng.random(rows) < 1 / 3)).astype(int)
            factors[spatial, every, at, dim] *= prime
    order = rng.permuted(np.broadcast_to(np.arange(8, dtype=np.int8), (rows, levels, 8)), axis=2)
    return MappingTable(factors[0], factors[1], order)


def measure(rows: int, threads: int, repeats: int = 5, zeros: Zeros | None = None) -> float:
    """Mappings a second, the best of some runs."""
    table = random_table(LAYER, len(LEVELS), rows, seed=0)
    machine = Hierarchy(levels=LEVELS, prices=PRICES, mac_pj=1.0)

    def evaluate() -> None:
        if zeros is None:
            evaluate_mappings(LAYER, LEVELS, table, PRICES, 1.0, threads)
        else:
            evaluate_sparse_mappings(LAYER, machine, table, zeros, threads)

    evaluate()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        evaluate()
        best = min(best, time.perf_counter() - start)
    return rows / best


def _primes(n: int) -> list[int]:
    primes, p = [], 2
    while n > 1:
        while n % p == 0:
            primes.append(p)
            n //= p
        p += 1
    return primes


@benchmark("mapping_evaluations_per_s", "mapping_evaluations_sparse_per_s")
def mapping_speed() -> list[Row]:
    """400,000 random mappings on two threads; peers are figures of their own machines, so no ratio is given."""
    names: dict[str, Zeros | None] = {"": None, "sparse_": ZEROS}
    note = "three levels, 2 threads"
    return [
        Row(
            name=f"mapping_evaluations_{part}per_s",
            value=measure(rows=400_000, threads=2, zeros=zeros),
            unit="mappings/s",
            note=f"{note}, random zeros, formats, skipping" if part else note,
        )
        for part, zeros in names.items()
    ]
