from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from math import ceil, inf

import pytest

from accel_models.errors import InvalidInputError, NoMappingError
from accel_models.layers import Conv2d, Gemm
from accel_models.row_stationary import (
    RowStationaryArray,
    RowStationaryCounts,
    RowStationaryMapping,
    RowStationaryPrices,
    RowStationarySpace,
    evaluate_mapping,
    optimal_mapping,
)
from tests.reference.row_stationary import Shape, walk

ROOMY = RowStationaryArray(name="roomy", rows=6, cols=6, rf_bytes=2**12, glb_bytes=2**24, noc_words_per_cycle=(1, 4, 2))
SMALL = RowStationaryArray(
    name="small", rows=4, cols=5, rf_bytes=(8, 48, 8), glb_bytes=400, filter_glb_bytes=96, glb_bank_bytes=16
)
PRICES = RowStationaryPrices(mac=1, rf=1, noc=2, glb=6, dram=200, idle=3)


def random_layer(rng: random.Random) -> Conv2d:
    return Conv2d(
        name="random",
        n=rng.randint(1, 3),
        k=rng.randint(1, 5),
        c=rng.randint(1, 5),
        p=rng.randint(1, 5),
        q=rng.randint(1, 4),
        r=rng.choice([1, 2, 3, 5, 7, 8]),
        s=rng.randint(1, 3),
        stride=(rng.randint(1, 3), rng.randint(1, 3)),
        dilation=(rng.randint(1, 2), rng.randint(1, 2)),
    )


def random_mapping(rng: random.Random, layer: Conv2d, array: RowStationaryArray) -> RowStationaryMapping | None:
    m, c = rng.randint(1, layer.k), rng.randint(1, layer.c)
    mapping = RowStationaryMapping(
        m=m,
        n=rng.randint(1, layer.n),
        e=rng.randint(1, layer.p),
        c=c,
        p=rng.randint(1, m),
        q=rng.randint(1, c),
        r=rng.randint(1, layer.c),
        t=rng.randint(1, layer.k),
        held=rng.choice(["output", "input"]),
    )
    try:
        evaluate_mapping(layer, array, PRICES, mapping)
    except InvalidInputError:
        return None
    return mapping


def walked(layer: Conv2d, array: RowStationaryArray, mapping: RowStationaryMapping):
    shape = Shape(layer.n, layer.k, layer.c, layer.p, layer.q, layer.r, layer.s, layer.stride, layer.dilation)
    return walk(shape, vars(mapping), array.rows, array.noc_words_per_cycle)


def test_counts_and_cycles_equal_the_walk_of_every_pass():
    rng, compared, kinds = random.Random(1), 0, set()
    while compared < 300:
        layer = random_layer(rng)
        mapping = random_mapping(rng, layer, ROOMY)
        if layer.macs > 4000 or mapping is None:
            continue
        result, truth = evaluate_mapping(layer, ROOMY, PRICES, mapping), walked(layer, ROOMY, mapping)
        assert set(truth.macs.values()) == {1}
        assert len(truth.macs) == layer.macs
        for field, value in vars(result.counts).items():
            expected = layer.macs if field == "macs" else truth.counts[field]
            assert value == expected, (field, layer, mapping)
        assert result.counts.rf_accesses == truth.counts["rf"]
        assert result.latency_cycles == truth.cycles, (layer, mapping)
        compared += 1
        kinds.add((mapping.held, layer.r > ROOMY.rows, layer.p % mapping.e > 0, truth.counts["dram_output_reads"] > 0))
    assert len(kinds) >= 10


def every_mapping(layer: Conv2d, array: RowStationaryArray, held: tuple[str, ...]):
    """All factors that divide, whatever they need."""

    def divisors(total: int) -> list[int]:
        return [d for d in range(1, total + 1) if total % d == 0]

    strips = sorted({ceil(layer.p / i) for i in range(1, layer.p + 1)})
    for m, c, n, e, order in product(divisors(layer.k), divisors(layer.c), divisors(layer.n), strips, held):
        for p, q in product(divisors(m), divisors(c)):
            for t, r in product(divisors(m // p), divisors(c // q)):
                yield RowStationaryMapping(m=m, n=n, e=e, c=c, p=p, q=q, r=r, t=t, held=order)


def cheapest(layer: Conv2d, array: RowStationaryArray, space: RowStationarySpace) -> tuple[float, int]:
    """Least energy and how many mappings are legal, one by one; the rule on PEs as the paper words it."""
    width = array.cols * (array.rows // min(layer.r, array.rows))
    folded = ceil(layer.p / ceil(layer.p / width))
    legal = []
    for mapping in every_mapping(layer, array, ("output", "input") if space.input_held else ("output",)):
        if mapping.e != folded and not space.narrow_strips:
            continue
        try:
            legal.append(evaluate_mapping(layer, array, PRICES, mapping))
        except InvalidInputError:
            continue
    roomy = replace(array, rf_bytes=2**12, glb_bytes=2**24, filter_glb_bytes=None, glb_bank_bytes=None)
    replicated = 0
    for mapping in every_mapping(layer, array, ("output",)):
        if mapping.e == folded and (mapping.m, mapping.c, mapping.n) == (layer.k, layer.c, 1):
            try:
                replicated = max(replicated, evaluate_mapping(layer, roomy, PRICES, mapping).active_pes)
            except InvalidInputError:
                continue
    full = [result for result in legal if result.active_pes >= replicated]
    return min((result.total_energy for result in full), default=inf), len(full)


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_equals_trying_every_mapping(seed):
    rng, compared = random.Random(seed), 0
    while compared < 50:
        layer = replace(
            random_layer(rng), k=rng.choice([2, 4, 6]), c=rng.choice([2, 3, 4]), r=rng.randint(1, 5), dilation=(1, 1)
        )
        space = RowStationarySpace(narrow_strips=rng.random() < 0.5, input_held=rng.random() < 0.5)
        truth, legal = cheapest(layer, SMALL, space)
        if legal == 0:
            continue
        found = optimal_mapping(layer, SMALL, PRICES, space=space)
        assert found.total_energy == pytest.approx(truth, rel=1e-12)
        compared += 1


CONV = Conv2d(name="conv", n=4, k=24, c=18, p=13, q=13, r=3, s=3)
CHIP = RowStationaryArray(
    name="chip",
    rows=12,
    cols=14,
    rf_bytes=(24, 448, 48),
    glb_bytes=100 * 1024,
    filter_glb_bytes=8 * 1024,
    noc_words_per_cycle=(1, 4, 4),
)

SQUARE = replace(CHIP, name="square", rows=16, cols=16, rf_bytes=512, glb_bytes=128 * 1024, filter_glb_bytes=None)


def test_a_pass_fills_streams_and_drains():
    layer = Conv2d(name="conv4", n=4, k=192, c=192, p=13, q=13, r=3, s=3)
    mapping = RowStationaryMapping(m=64, n=4, e=13, c=6, p=16, q=3, r=2, t=2)
    weights, window = 3 * 3 * 32 * 6 // 4, 15 * 3 * 6
    per_output = 3 * 16 * 3
    cycles = max(weights, window) + 4 * 13 * per_output + 3 * (window - per_output) + 13 * 32 // 4
    result = evaluate_mapping(layer, CHIP, PRICES, mapping)
    assert result.latency_cycles == (192 // 32) * (192 // 6) * cycles
    assert result.active_pes == 156


def test_dram_bounds_the_latency_when_it_is_slow():
    fast, slow = CHIP, replace(CHIP, dram_words_per_cycle=0.01)
    mapping = optimal_mapping(CONV, fast, PRICES).mapping
    counts = evaluate_mapping(CONV, fast, PRICES, mapping).counts
    assert evaluate_mapping(CONV, slow, PRICES, mapping).latency_cycles == ceil(counts.dram_accesses / 0.01)


@pytest.mark.parametrize("freedom", ["narrow_strips", "input_held", "imperfect"])
@pytest.mark.parametrize("goal", ["energy", "latency", "edp"])
@pytest.mark.parametrize("array", [CHIP, SQUARE], ids=["four sets", "five sets"])
def test_a_larger_space_never_has_a_worse_optimum(freedom, goal, array):
    def cost(space: RowStationarySpace) -> float:
        result = optimal_mapping(CONV, array, PRICES, goal, space)
        values = {"energy": result.total_energy, "latency": result.latency_cycles}
        return values.get(goal, result.total_energy * result.latency_cycles)

    assert cost(RowStationarySpace(**{freedom: True})) <= cost(RowStationarySpace())


def test_goals_win_at_what_they_ask_for():
    space = RowStationarySpace(narrow_strips=True, input_held=True, imperfect=True)
    by_energy, by_latency = (optimal_mapping(CONV, CHIP, PRICES, goal, space) for goal in ("energy", "latency"))
    assert by_energy.total_energy < by_latency.total_energy
    assert by_latency.latency_cycles < by_energy.latency_cycles


def test_a_larger_buffer_never_makes_the_optimum_worse():
    energies = [
        optimal_mapping(CONV, replace(CHIP, glb_bytes=size), PRICES).total_energy for size in (16384, 32768, 2**20)
    ]
    assert energies == sorted(energies, reverse=True)
    assert energies[0] > energies[-1]


def test_groups_multiply_everything_but_the_pes():
    one, two = (replace(CONV, k=24 * g, c=18 * g, groups=g) for g in (1, 2))
    a, b = optimal_mapping(one, CHIP, PRICES), optimal_mapping(two, CHIP, PRICES)
    assert {f: 2 * v for f, v in vars(a.counts).items()} == vars(b.counts)
    assert 2 * a.latency_cycles == b.latency_cycles
    assert a.active_pes == b.active_pes


def test_a_gemm_is_a_pointwise_convolution_on_one_pixel():
    gemm = Gemm(name="fc", m=4, n=60, k=32)
    conv = Conv2d(name="fc", n=4, k=60, c=32, p=1, q=1, r=1, s=1)
    assert optimal_mapping(gemm, CHIP, PRICES) == optimal_mapping(conv, CHIP, PRICES)


def test_prices_times_counts_are_the_energy():
    result = optimal_mapping(CONV, CHIP, PRICES)
    counts: RowStationaryCounts = result.counts
    assert result.energy == {
        "mac": counts.macs,
        "rf": 4 * counts.macs + counts.noc_input + counts.noc_weight,
        "noc": 2 * counts.noc_words,
        "glb": 6 * (counts.glb_accesses + counts.dram_accesses),
        "dram": 200 * counts.dram_accesses,
        "idle": 3 * result.latency_cycles,
    }
    bare = evaluate_mapping(CONV, CHIP, replace(PRICES, fills=False), result.mapping).energy
    assert (bare["rf"], bare["glb"]) == (4 * counts.macs, 6 * counts.glb_accesses)


def test_strips_narrow_when_the_folded_one_does_not_fit():
    tall = Conv2d(name="tall", k=4, c=2, p=14, q=50, r=3, s=3)
    tight = replace(CHIP, glb_bytes=2 * 1500)
    assert optimal_mapping(tall, tight, PRICES).mapping.e < 14


@pytest.mark.parametrize(
    ("change", "named", "missing"),
    [
        ({"rf_bytes": (4, 448, 48)}, "inputs", 2),
        ({"rf_bytes": (24, 4, 48)}, "weights", 2),
        ({"rf_bytes": 12}, "rf_bytes", 2),
        ({"filter_glb_bytes": 16}, "filter_glb_bytes", 2),
        ({"glb_bytes": 90}, "glb_bytes", 26),
    ],
)
def test_no_mapping_names_the_buffer_and_the_bytes(change, named, missing):
    with pytest.raises(NoMappingError, match=named) as error:
        optimal_mapping(CONV, replace(CHIP, **change), PRICES)
    assert error.value.missing_bytes == missing


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rows": 0}, "rows"),
        ({"glb_bytes": 1}, "glb_bytes"),
        ({"rf_bytes": (2, 2)}, "rf_bytes"),
        ({"rf_bytes": (24, 448, 0)}, "rf_bytes"),
        ({"noc_words_per_cycle": (1, 0, 1)}, "rate of 0"),
        ({"dram_words_per_cycle": float("nan")}, "rate of nan"),
        ({"filter_glb_bytes": -1}, "filter_glb_bytes"),
    ],
)
def test_an_array_refuses_what_cannot_be(change, named):
    with pytest.raises(InvalidInputError, match=named):
        replace(CHIP, **change)


@pytest.mark.parametrize("value", [-1.0, float("nan"), inf])
def test_prices_are_finite_and_not_negative(value):
    with pytest.raises(InvalidInputError, match="glb"):
        replace(PRICES, glb=value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"m": 25}, "m = 25"),
        ({"e": 0}, "e = 0"),
        ({"q": 7}, "q = 7"),
        ({"held": "weight"}, "held"),
        ({"p": 24, "m": 24, "q": 4, "c": 18}, "weights"),
        ({"r": 18}, "PE sets of 3 x 13"),
        ({"m": 24, "p": 24, "n": 4, "c": 18}, "glb_bytes"),
    ],
)
def test_an_illegal_mapping_says_what_is_wrong(change, named):
    array = replace(CHIP, glb_bytes=40 * 1024)
    legal = RowStationaryMapping(m=12, n=2, e=13, c=6, p=12, q=3, r=2, t=1)
    evaluate_mapping(CONV, array, PRICES, legal)
    with pytest.raises(InvalidInputError, match=named):
        evaluate_mapping(CONV, array, PRICES, replace(legal, **change))


def test_an_unknown_goal_is_refused():
    with pytest.raises(InvalidInputError, match="speed"):
        optimal_mapping(CONV, CHIP, PRICES, "speed")  # type: ignore[arg-type]
