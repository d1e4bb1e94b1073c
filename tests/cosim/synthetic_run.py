"""A run directory's content as a search writes it, without a search: for the tests of the report."""

from typing import Any

import numpy as np

LAYERS = (
    "stem.conv",
    *(f"stage{s}.{name}" for s in (1, 2, 3) for name in ("conv1", "conv2", "shortcut")),
    "head.linear",
)
MEMORIES = ("dram", "input_buffer", "weight_buffer", "output_buffer")
CLOCK_MHZ = 500
DENSE_PJ = 31e6


def synthetic_run(seed: int = 0, trials: int = 220, limit: int = 20) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """front.json and trials.json of a search that never ran: 25 parameters, 10 layers, accuracy bought with energy."""
    rng = np.random.default_rng(seed)
    records = [_trial(number, rng) for number in range(trials)]
    front = _front(records, limit, rng)
    counts = {
        state: sum(r["state"] == state for r in records) for state in ("complete", "duplicate", "infeasible", "crashed")
    }
    own = np.maximum.accumulate(1.32 - np.exp(-np.arange(trials) / 55) + rng.normal(0, 0.01, trials))
    random = np.maximum.accumulate(1.19 - np.exp(-np.arange(trials) / 70) + rng.normal(0, 0.01, trials))
    data = {
        "version": 1, "name": "digits", "network": "digits_resnet", "dataset": "digits", "sampler": "nsga2",
        "seed": seed, "counts": counts,
        "objectives": [
            {"name": "accuracy", "direction": "maximize", "unit": ""},
            {"name": "energy_pj", "direction": "minimize", "unit": "pJ"},
            {"name": "latency_ms", "direction": "minimize", "unit": "ms"},
        ],
        "constraints": [{"name": "area_mm2", "limit": 0.8, "unit": "mm2"}],
        "reference": [0.1, 6e7, 5.0],
        "hypervolume": {"nsga2": own.tolist(), "random": random.tolist()},
        "dense": {
            "validation_accuracy": 0.978, "test_accuracy_mean": 0.971, "test_accuracy_sd": 0.004,
            "energy_pj": DENSE_PJ, "latency_ms": 0.93, "accelerator": "edge_ws_16x16",
        },
        "points": front,
        "notes": ["Energies leave out the host, the clock tree and the input/output pads."],
    }  # fmt: skip
    return data, records


def _trial(number: int, rng: np.random.Generator) -> dict[str, Any]:
    keep = float(rng.beta(1.3, 1.2)) if number < 60 else float(rng.beta(1.0, 1.0))
    rows, columns = int(rng.choice([4, 8, 16, 32])), int(rng.choice([4, 8, 16, 32]))
    bits = int(rng.choice([4, 8]))
    size = 0.06 + 0.94 * keep
    energy = DENSE_PJ * size * (0.45 + 0.55 * bits / 8) * float(rng.lognormal(-0.1, 0.28))
    latency = 0.9 * size * (256 / (rows * columns)) ** 0.45 * float(rng.lognormal(0, 0.2))
    accuracy = 0.98 - 0.5 * np.exp(-size * 7.5) - (0.012 if bits == 4 else 0) - abs(float(rng.normal(0, 0.02)))
    states = ["complete", "duplicate", "infeasible", "crashed"]
    state = str(rng.choice(states, p=[0.85, 0.05, 0.08, 0.02]))
    params: dict[str, Any] = {
        "pe_array.rows": rows, "pe_array.cols": columns, "pe_array.dataflow": str(rng.choice(["ws", "os"])),
        "memories.input_buffer.kib": int(rng.choice([8, 16, 32])),
        "memories.weight_buffer.kib": int(rng.choice([8, 16, 32])),
        "memories.output_buffer.kib": int(rng.choice([8, 16])),
        "memories.dram.bytes_per_cycle": int(rng.choice([4, 8])),
        "memories.input_buffer.banks": int(rng.choice([2, 4, 8])), "clock_mhz": CLOCK_MHZ,
        "weight_sparsity": '{"action": "skip", "format": "k_of_n"}',
    }  # fmt: skip
    for stage in range(1, 6):
        params |= {
            f"mask.stage{stage}": str(rng.choice(["dense", "kernel 0.5", "weight 4:8"])),
            f"keep.stage{stage}": round(keep * float(rng.uniform(0.7, 1.0)), 3),
            f"bits.stage{stage}": bits,
        }
    crash = f"Traceback (most recent call last):\n  line 7\nNoMappingError: buffer too small: {rows} rows"
    return {
        "number": number, "state": state, "params": params,
        "evaluation": None if state == "crashed" else {
            "objectives": [float(np.clip(accuracy, 0.1, 1)), energy, latency], "info": {},
            "violations": [0.11 if state == "infeasible" else -0.2],
        },
        "error": crash if state == "crashed" else None, "seconds": 0.4,
    }  # fmt: skip


def _front(records: list[dict[str, Any]], limit: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    complete = [record for record in records if record["state"] == "complete"]
    values = np.array([record["evaluation"]["objectives"] for record in complete]) * (-1, 1, 1)
    beaten = [bool(((values <= v).all(1) & (values < v).any(1)).any()) for v in values]
    kept = [record for record, lost in zip(complete, beaten, strict=True) if not lost]
    points = [_point(record, rng) for record in kept[:limit]]
    points.sort(key=lambda point: -point["test_accuracy_mean"])
    return [point | _named(index) for index, point in enumerate(points)]


def _named(index: int) -> dict[str, str]:
    name = f"p{index:02d}"
    return {
        "id": name, "plan": f"plans/{name}.json", "accelerator": f"accelerators/{name}.yaml",
        "weights": f"weights/{name}.safetensors",
    }  # fmt: skip


def _point(record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    accuracy, energy, latency = record["evaluation"]["objectives"]
    seeds = np.clip(accuracy - 0.008 + rng.normal(0, 0.006, 5), 0, 1)
    cycles = max(1000, int(latency * 1000 * CLOCK_MHZ))
    return {
        "trial": record["number"], "validation_accuracy": accuracy, "test_accuracy": seeds.tolist(),
        "test_accuracy_mean": float(seeds.mean()), "test_accuracy_sd": float(seeds.std(ddof=1)),
        "energy_pj": energy, "latency_cycles": cycles, "latency_ms": cycles / (1000 * CLOCK_MHZ),
        "area_mm2": float(rng.uniform(0.2, 0.79)), "dram_bytes": int(energy / 90), "macs": int(energy / 4),
        "weight_bytes": int(energy / 400), "utilization": float(rng.uniform(0.2, 0.9)), "design": record["params"],
        "plan_summary": "stage1: filter 12/16; stage2: kernel 4/8, 4 bit; stage3: weight 2/4, 4 bit; head: dense",
        "layers": _layers(energy, cycles, rng), "notices": ["stage2.conv1: kernel masks are gated, not skipped."],
    }  # fmt: skip


def _layers(energy: float, cycles: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    components = [
        "mac",
        "register",
        "leakage",
        "metadata",
        *(f"{m}.{way}" for m in MEMORIES for way in ("read", "write")),
    ]
    weights = {name: 4.0 if name.startswith("dram") else 1.0 for name in components}
    shares = rng.dirichlet(np.full(len(LAYERS), 4.0))
    layers = []
    for name, share in zip(LAYERS, shares, strict=True):
        parts = rng.dirichlet([3 * weights[c] for c in components])
        total = int(cycles * share)
        waits = (total * rng.dirichlet([1, 4, 1, 1]) * 0.4).astype(int).tolist()
        stalls = dict(zip(("dram_fill", "dram_bandwidth", "buffer_bandwidth", "dram_drain"), waits, strict=True))
        energies = (energy * share * parts).tolist()
        layers.append({
            "name": name, "latency_cycles": total, "compute_cycles": total - sum(waits), "stall_cycles": stalls,
            "energy_pj": dict(zip(components, energies, strict=True)), "utilization": 0.5,
        })  # fmt: skip
    return layers
