"""Batch scores of designs equal one `simulate` each."""

from __future__ import annotations

import numpy as np
import pytest

from accel_models.accelerator import Accelerator, load_accelerator
from accel_models.designs import DATAFLOWS, designs_like, evaluate_designs
from accel_models.errors import InvalidInputError, NoMappingError
from accel_models.evaluate import simulate
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.sparsity import KofN
from accel_models.workload import Workload

WORKLOAD = Workload(
    name="w",
    layers=(
        Conv2d(name="a", k=24, c=16, p=14, q=14, r=3, s=3, padding=(1, 1)),
        Conv2d(name="b", k=24, c=16, p=14, q=14, r=3, s=3, padding=(1, 1)),
        Conv2d(name="dw", k=24, c=24, p=7, q=7, r=3, s=3, stride=(2, 2), padding=(1, 1), groups=24),
        VectorOp(name="add", kind="elementwise", input_elements=2000, output_elements=1000, operations=1000),
        Gemm(name="fc", m=1, n=100, k=960),
    ),
)
STRUCTURES = {"a": KofN(granularity="weight", k=2, n=8), "fc": KofN(granularity="weight", k=1, n=4)}


def random_designs(base: Accelerator, count: int):
    rng = np.random.default_rng(1)
    designs = designs_like(base, count)
    for field in ("rows", "cols"):
        designs[field] = rng.integers(1, 40, count)
    designs["dataflow"] = rng.integers(0, 3, count)
    for field in ("input_bytes", "weight_bytes", "output_bytes"):
        designs[field] = rng.integers(600, 60_000, count)
    designs["dram_bytes_per_cycle"] = rng.choice([1.5, 4.0, 16.0], count)
    designs["clock_mhz"] = rng.choice([200.0, 800.0], count)
    return designs


def one(base: Accelerator, row) -> Accelerator:
    sizes = {"input": row["input_bytes"], "weight": row["weight_bytes"], "output": row["output_bytes"]}
    memories = [base.dram.model_copy(update={"bandwidth_bytes_per_cycle": float(row["dram_bytes_per_cycle"])})]
    memories += [m.model_copy(update={"capacity_bytes": int(sizes[m.holds[0]])}) for m in base.memories[1:]]
    array = {"rows": int(row["rows"]), "cols": int(row["cols"]), "dataflow": DATAFLOWS[row["dataflow"]]}
    changes = {"memories": tuple(memories), "pe_array": base.pe_array.model_copy(update=array)}
    return base.model_copy(update={**changes, "clock_mhz": float(row["clock_mhz"])})


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["edge_os_16x16", "edge_skip_16x16"])
def test_every_score_equals_simulate(name: str, threads: int):
    base = load_accelerator(name)
    designs = random_designs(base, 60)
    scores = evaluate_designs(base, WORKLOAD, designs, STRUCTURES, threads)
    compared = 0
    for row, score in zip(designs, scores, strict=True):
        try:
            cost = simulate(one(base, row), WORKLOAD, STRUCTURES)
        except NoMappingError:
            assert score["unmapped_layers"] > 0
            continue
        assert score["unmapped_layers"] == 0
        assert score["latency_cycles"] == cost.latency_cycles
        assert score["latency_ms"] == pytest.approx(cost.latency_ms, rel=1e-12)
        assert score["energy_pj"] == pytest.approx(cost.energy_pj, rel=1e-12)
        assert score["area_mm2"] == pytest.approx(cost.area_mm2, rel=1e-12)
        compared += 1
    assert compared >= 30


def test_prices_that_the_base_replaces_hold_for_every_design():
    override = {"input_buffer.read_bit": {"value": 5.0, "source": "test"}, "leakage": {"value": 9.0, "source": "test"}}
    base = load_accelerator("edge_ws_16x16", {"energy": override})
    designs = random_designs(base, 10)
    designs["output_bytes"] = designs["input_bytes"] = 16_384
    for row, score in zip(designs, evaluate_designs(base, WORKLOAD, designs), strict=True):
        assert score["energy_pj"] == pytest.approx(simulate(one(base, row), WORKLOAD).energy_pj, rel=1e-12)


@pytest.mark.parametrize(
    ("field", "value"), [("rows", 0), ("dram_bytes_per_cycle", 0.0), ("clock_mhz", np.nan), ("dataflow", 3)]
)
def test_a_field_out_of_range_is_refused_with_its_row(field: str, value: float):
    base = load_accelerator("edge_os_16x16")
    designs = designs_like(base, 5)
    designs[field][2] = value
    with pytest.raises(InvalidInputError, match=rf"designs\[2\].{field}"):
        evaluate_designs(base, WORKLOAD, designs)


def test_the_base_itself_scores_as_it_is():
    base = load_accelerator("edge_os_16x16")
    score = evaluate_designs(base, WORKLOAD, designs_like(base, 1))[0]
    assert score["latency_cycles"] == simulate(base, WORKLOAD).latency_cycles
