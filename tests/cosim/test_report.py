"""The report shows what the run directory says: every number, no network, no foreign markup."""

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from cosim.errors import ConfigError
from cosim.report import write_report
from cosim.report.axes import axes_of
from cosim.report.figures import staircase
from cosim.report.html import page
from cosim.report.layers import cycle_parts
from cosim.report.load import Layer, load_run
from cosim.report.sentences import leanest_near_dense
from cosim.report.units import digits, scale_for

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
        "array_rows": rows, "array_cols": columns, "dataflow": str(rng.choice(["ws", "os"])),
        "input_buffer_kib": int(rng.choice([8, 16, 32])), "weight_buffer_kib": int(rng.choice([8, 16, 32])),
        "output_buffer_kib": int(rng.choice([8, 16])), "dram_bytes_per_cycle": int(rng.choice([4, 8, 16])),
        "clock_mhz": CLOCK_MHZ, "sparse_skip": bool(rng.integers(2)), "banks": int(rng.choice([2, 4, 8])),
    }  # fmt: skip
    for stage in range(1, 6):
        params |= {
            f"block{stage}.granularity": str(rng.choice(["dense", "filter", "kernel", "weight"])),
            f"block{stage}.keep": round(keep * float(rng.uniform(0.7, 1.0)), 3),
            f"block{stage}.weight_bits": bits,
        }
    crash = f"Traceback (most recent call last):\n  line 7\nNoMappingError: buffer too small: {rows} rows"
    return {
        "number": number, "state": state, "params": params,
        "objectives": None if state == "crashed" else [float(np.clip(accuracy, 0.1, 1)), energy, latency],
        "violations": [0.11 if state == "infeasible" else -0.2], "info": {},
        "error": crash if state == "crashed" else None, "seconds": 0.4,
    }  # fmt: skip


def _front(records: list[dict[str, Any]], limit: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    complete = [record for record in records if record["state"] == "complete"]
    values = np.array([record["objectives"] for record in complete]) * (-1, 1, 1)
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
    accuracy, energy, latency = record["objectives"]
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


def written(folder: Path, front: Any, trials: Any) -> Path:
    """The run directory, with the files that the report links to."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "front.json").write_text(json.dumps(front), encoding="utf-8")
    (folder / "trials.json").write_text(json.dumps(trials), encoding="utf-8")
    for point in front["points"] if isinstance(front, dict) else ():
        for name in (point.get("plan"), point.get("accelerator"), point.get("weights")):
            if name and ".." not in name and not name.startswith("/"):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text("{}", encoding="utf-8")
    return folder
