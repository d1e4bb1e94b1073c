"""Row-stationary accelerators such as Eyeriss: mappings, exact counts, cycles, energy and the optimal mapping.

The dataflow is described in `kernels/row_stationary.py`. Mappings are written in the letters of the papers:

====  ==========================================================================================
m     filters whose partial sums the global buffer (GLB) keeps
n     images of a tile; the weights of a pass serve all of them
e     output rows of a tile: columns of a PE set; a set is R x e PEs
c     channels of the input tile in the GLB
p, q  filters and channels that one PE works on in turn
r, t  sets side by side that work on different channels (their sums add up) and filters
====  ==========================================================================================

Sources: Chen, Emer, Sze, "Eyeriss: A Spatial Architecture for Energy-Efficient Dataflow for CNNs", ISCA 2016; Chen,
Krishna, Emer, Sze, "Eyeriss: An Energy-Efficient Reconfigurable Accelerator for Deep CNNs", JSSC 52(1), 2017.
Left out: zero gating and compression, clock and control energy, pooling layers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError, NoMappingError
from accel_models.kernels import row_stationary as kernel
from accel_models.kernels import row_stationary_search as search
from accel_models.layers import Conv2d, Gemm
from accel_models.row_stationary_array import RowStationaryArray, RowStationaryPrices

Held = Literal["output", "input"]
Goal = Literal["energy", "latency", "edp"]

HELD: tuple[Held, ...] = ("output", "input")
GOALS: tuple[Goal, ...] = ("energy", "latency", "edp")


@dataclass(frozen=True, kw_only=True)
class RowStationarySpace:
    """Which mappings the optimiser may choose from; the default is what the papers describe.

    Parameters
    ----------
    narrow_strips : bool
        Any e that keeps as many PEs at work as folding and replication do, as on the chip, whose optimiser chooses it
        (JSSC 2017, IV.A); False: the set is folded only as far as the array is too small for it (ISCA 2016, V.B).
    input_held : bool
        Also the loop order that fetches an input tile once, for all filters, and may spill partial sums to DRAM;
        False: partial sums stay on chip until they are complete (JSSC 2017, IV.A).
    imperfect : bool
        Also factors that do not divide; the search takes seconds where channels are counted in thousands.
    """

    narrow_strips: bool = False
    input_held: bool = False
    imperfect: bool = False


@dataclass(frozen=True, kw_only=True)
class RowStationaryMapping:
    """A mapping of one group of a layer, in the letters of the papers; `held` stays on chip from tile to tile."""

    m: int
    n: int
    e: int
    c: int
    p: int
    q: int
    r: int
    t: int
    held: Held = "output"


@dataclass(frozen=True, kw_only=True)
class RowStationaryCounts:
    """MACs and words moved by a layer, all groups together; exact.

    RF: every MAC reads an input, a weight and a partial sum, and writes one (4 accesses); what PEs receive is written.
    """

    macs: int
    noc_input: int
    """Words that PEs receive, each counted as often as it is received."""
    noc_weight: int
    noc_output: int
    """Partial sums into the array, from PE to PE, and out of it."""
    glb_input_reads: int
    """Reads for the array; the fills of the GLB equal the reads of DRAM."""
    glb_weight_reads: int
    glb_output_reads: int
    """For the array; what is read to be written to DRAM equals the writes of DRAM."""
    glb_output_writes: int
    dram_input_reads: int
    dram_weight_reads: int
    dram_output_reads: int
    dram_output_writes: int

    @property
    def rf_accesses(self) -> int:
        return 4 * self.macs

    @property
    def rf_fills(self) -> int:
        return self.noc_input + self.noc_weight

    @property
    def noc_words(self) -> int:
        return self.noc_input + self.noc_weight + self.noc_output

    @property
    def glb_accesses(self) -> int:
        """Words exchanged with the array."""
        return self.glb_input_reads + self.glb_weight_reads + self.glb_output_reads + self.glb_output_writes

    @property
    def dram_accesses(self) -> int:
        """Words exchanged with DRAM; as many fill or drain the GLB."""
        return self.dram_input_reads + self.dram_weight_reads + self.dram_output_reads + self.dram_output_writes


@dataclass(frozen=True, kw_only=True)
class RowStationaryResult:
    """What a mapping of a layer costs."""

    mapping: RowStationaryMapping
    counts: RowStationaryCounts
    latency_cycles: int
    active_pes: int
    """PEs that a full pass uses."""
    energy: dict[str, float]
    """By component: mac, rf, noc, glb, dram, idle; in the unit of the prices."""
    evaluated: int = 1
    """Mappings that were compared."""

    @property
    def total_energy(self) -> float:
        return sum(self.energy.values())


def evaluate_mapping(
    layer: Conv2d | Gemm, array: RowStationaryArray, prices: RowStationaryPrices, mapping: RowStationaryMapping
) -> RowStationaryResult:
    """Counts, cycles and energy of a given mapping.

    Raises
    ------
    InvalidInputError
        A factor outside the layer, or a buffer or array that is too small: names it and by how much.
    """
    problem, numbers = _problem(layer), _array(array)
    _check_factors(layer, problem, mapping)
    pick = _pick(mapping)
    status = kernel.status(problem, numbers, pick)
    if status != kernel.FITS:
        need, have, what = _shortage(problem, numbers, pick, status)
        raise InvalidInputError(f"layer {layer.name!r} on {array.name!r}: {mapping} needs {need} {what}, has {have}")
    return _result(layer, problem, numbers, prices, mapping, 1)


def optimal_mapping(
    layer: Conv2d | Gemm,
    array: RowStationaryArray,
    prices: RowStationaryPrices,
    goal: Goal = "energy",
    space: RowStationarySpace | None = None,
) -> RowStationaryResult:
    """The cheapest mapping in the space, by exhaustive search.

    Where nothing in the space fits the buffers, narrower strips and idle PEs are allowed, too.

    Raises
    ------
    NoMappingError
        If not even one row of one filter and channel fits; names the buffer and the missing bytes.
    """
    if goal not in GOALS:
        raise InvalidInputError(f"goal {goal!r}: choose one of {', '.join(GOALS)}")
    problem, numbers, space = _problem(layer), _array(array), space or RowStationarySpace()
    tariff = _prices(prices)
    found = search.search(problem, numbers, tariff, _space(problem, array, space, goal))
    if not isfinite(found.cost):
        found = search.search(problem, numbers, tariff, _space(problem, array, space, goal, anything=True))
    if not isfinite(found.cost):
        raise _no_mapping(layer, array, problem, numbers)
    *factors, held = found.pick
    mapping = RowStationaryMapping(**dict(zip("mnecpqrt", map(int, factors), strict=True)), held=HELD[held])
    return _result(layer, problem, numbers, prices, mapping, found.evaluated)


def _result(
    layer: Conv2d | Gemm,
    problem: kernel.Problem,
    array: kernel.Array,
    prices: RowStationaryPrices,
    mapping: RowStationaryMapping,
    evaluated: int,
) -> RowStationaryResult:
    raw = kernel.count(problem, array.rows, _pick(mapping))
    counts = RowStationaryCounts(
        **{f.name: layer.groups * value for f, value in zip(fields(RowStationaryCounts), raw, strict=True)}
    )
    cycles = layer.groups * kernel.latency(problem, array, _pick(mapping), kernel.dram_words(raw))
    _, rows = kernel.filter_folds(problem, array.rows)
    sets = min(mapping.r, -(-mapping.c // mapping.q)) * min(mapping.t, -(-mapping.m // mapping.p))
    return RowStationaryResult(
        mapping=mapping,
        counts=counts,
        latency_cycles=cycles,
        active_pes=rows * mapping.e * sets,
        energy=_energy(counts, prices, cycles),
        evaluated=evaluated,
    )


def _energy(counts: RowStationaryCounts, prices: RowStationaryPrices, cycles: int) -> dict[str, float]:
    rf, glb = counts.rf_accesses, counts.glb_accesses
    if prices.fills:
        rf, glb = rf + counts.rf_fills, glb + counts.dram_accesses
    return {
        "mac": counts.macs * prices.mac,
        "rf": rf * prices.rf,
        "noc": counts.noc_words * prices.noc,
        "glb": glb * prices.glb,
        "dram": counts.dram_accesses * prices.dram,
        "idle": cycles * prices.idle,
    }


def _problem(layer: Conv2d | Gemm) -> kernel.Problem:
    if isinstance(layer, Gemm):
        return kernel.Problem(layer.m, layer.n, layer.k, 1, 1, 1, 1, 1, 1, 1, 1)
    filters, channels = layer.k // layer.groups, layer.c // layer.groups
    return kernel.Problem(
        layer.n, filters, channels, layer.p, layer.q, layer.r, layer.s, *layer.stride, *layer.dilation
    )


def _array(array: RowStationaryArray) -> kernel.Array:
    own = array.rf_bytes if isinstance(array.rf_bytes, tuple) else (None, None, None)
    rates = [float(rate) for rate in array.noc_words_per_cycle]
    return kernel.Array(
        rows=array.rows,
        cols=array.cols,
        rf_input=array.words(own[0]),
        rf_weight=array.words(own[1]),
        rf_output=array.words(own[2]),
        rf_total=-1 if isinstance(array.rf_bytes, tuple) else array.words(array.rf_bytes),
        glb=array.words(array.glb_bytes),
        filter_glb=array.words(array.filter_glb_bytes),
        bank=array.words(array.glb_bank_bytes, unlimited=1),
        input_rate=rates[0],
        weight_rate=rates[1],
        output_rate=rates[2],
        dram_rate=float(array.dram_words_per_cycle),
    )


def _prices(prices: RowStationaryPrices) -> kernel.Prices:
    amounts = {f.name: float(getattr(prices, f.name)) for f in fields(prices) if f.name != "fills"}
    return kernel.Prices(**amounts, fills=bool(prices.fills))


def _pick(mapping: RowStationaryMapping) -> kernel.Pick:
    return kernel.Pick(**{**asdict(mapping), "held": HELD.index(mapping.held)})


def _space(
    problem: kernel.Problem, array: RowStationaryArray, space: RowStationarySpace, goal: Goal, anything: bool = False
) -> search.Space:
    factors = _tile_sizes if space.imperfect else _divisors
    strips = _tile_sizes(problem.out_rows)
    if not (space.narrow_strips or anything):
        strips = np.array([search.folded_strip(problem, array.rows, array.cols)], np.int64)
    return search.Space(
        strips,
        factors(problem.images),
        factors(problem.filters),
        factors(problem.channels),
        space.imperfect,
        space.input_held,
        not anything,
        GOALS.index(goal),
    )


def _divisors(total: int) -> NDArray[np.int64]:
    return np.array([d for d in range(1, total + 1) if total % d == 0], np.int64)


def _tile_sizes(total: int) -> NDArray[np.int64]:
    """Of every number of tiles, the least size that covers `total`."""
    return np.unique(-(-total // np.arange(1, total + 1, dtype=np.int64)))


def _shortage(problem: kernel.Problem, array: kernel.Array, pick: kernel.Pick, status: int) -> tuple[int, int, str]:
    """(words or PE sets needed, there, of what)."""
    _, rows = kernel.filter_folds(problem, array.rows)
    inputs, outputs, weights = kernel.glb_words(problem, array, pick)
    window, held = pick.q * problem.filter_cols, pick.p * pick.q * problem.filter_cols
    sets = kernel.sets_that_fit(array.rows, array.cols, rows, pick.e)
    return {
        kernel.RF_INPUT: (window, array.rf_input, "words of rf_bytes for inputs"),
        kernel.RF_WEIGHT: (held, array.rf_weight, "words of rf_bytes for weights"),
        kernel.RF_OUTPUT: (pick.p, array.rf_output, "words of rf_bytes for partial sums"),
        kernel.RF_TOTAL: (window + held + pick.p, array.rf_total, "words of rf_bytes"),
        kernel.ARRAY: (pick.r * pick.t, sets, f"PE sets of {rows} x {pick.e}"),
        kernel.FILTER_GLB: (weights, array.filter_glb, "words of filter_glb_bytes"),
        kernel.GLB: (
            array.glb + kernel.glb_excess(problem, array, pick),
            array.glb,
            f"words of glb_bytes ({inputs} inputs, {outputs} partial sums, {weights} weights of a pass; whole banks)",
        ),
    }[status]


def _no_mapping(
    layer: Conv2d | Gemm, array: RowStationaryArray, problem: kernel.Problem, numbers: kernel.Array
) -> NoMappingError:
    """The mapping that needs least of everything does not fit: why."""
    least = kernel.Pick(1, 1, 1, 1, 1, 1, 1, 1, 0)
    need, have, what = _shortage(problem, numbers, least, kernel.status(problem, numbers, least))
    missing = (need - have) * array.word_bits // 8
    return NoMappingError(
        f"layer {layer.name!r} on {array.name!r}: the smallest mapping needs {need} {what}, has {have}: "
        f"{missing} bytes too few",
        missing,
    )


def _check_factors(layer: Conv2d | Gemm, problem: kernel.Problem, mapping: RowStationaryMapping) -> None:
    limits = {
        "m": problem.filters,
        "n": problem.images,
        "e": problem.out_rows,
        "c": problem.channels,
        "p": mapping.m,
        "q": mapping.c,
        "r": problem.channels,
        "t": problem.filters,
    }
    for name, most in limits.items():
        value = getattr(mapping, name)
        if not isinstance(value, int) or not 1 <= value <= most:
            raise InvalidInputError(f"layer {layer.name!r}: {name} = {value!r} must be an integer from 1 to {most}")
    if mapping.held not in HELD:
        raise InvalidInputError(f"layer {layer.name!r}: held = {mapping.held!r}; choose one of {', '.join(HELD)}")
