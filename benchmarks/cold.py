"""`cosim` as a user meets it: the first call ever (kernels compile), later ones, screens that need no kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from accel_models.accelerator import library_names
from benchmarks.registry import Row, benchmark

TOPOLOGY = """Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
Conv1,224,224,11,11,3,96,4,
Conv2,27,27,5,5,96,256,1,
Conv3,13,13,3,3,256,384,1,
Conv4,13,13,3,3,384,384,1,
Conv5,13,13,3,3,384,256,1,
"""
BASE, NETWORK = "edge_os_16x16", "resnet20_cifar"
LATER_RUNS = 3


def _seconds(arguments: list[str], cache: str) -> float:
    """Wall time of one `cosim` process whose compiled kernels lie in `cache`."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cosim", *arguments],
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def _first_and_later(arguments: list[str]) -> tuple[float, float]:
    """Seconds with an empty kernel cache, and the best of some runs that find it filled."""
    with tempfile.TemporaryDirectory() as cache:
        first = _seconds(arguments, cache)
        return first, min(_seconds(arguments, cache) for _ in range(LATER_RUNS))


@benchmark("simulate_cold_s", "simulate_warm_s", "simulate_network_warm_s")
def simulate_times() -> list[Row]:
    """Five convolutions of AlexNet from a topology file, then a network by its name."""
    with tempfile.TemporaryDirectory() as folder:
        topology = Path(folder) / "alexnet.csv"
        topology.write_text(TOPOLOGY)
        first, later = _first_and_later(["simulate", "-a", BASE, "-w", str(topology)])
    _, network = _first_and_later(["simulate", "-a", BASE, "-w", NETWORK])
    return [
        Row(name="simulate_cold_s", value=first, unit="s", note="kernels compile"),
        Row(name="simulate_warm_s", value=later, unit="s"),
        Row(name="simulate_network_warm_s", value=network, unit="s", note=f"{NETWORK}, its workload read from a file"),
    ]


@benchmark("simulate_cold_slowest_s", "simulate_warm_slowest_s")
def simulate_slowest() -> list[Row]:
    """A network on every accelerator of the library; the slowest of the first calls, and of the later ones."""
    times = {name: _first_and_later(["simulate", "-a", name, "-w", NETWORK]) for name in library_names()}
    cold, warm = (max(times, key=lambda name: times[name][i]) for i in (0, 1))
    return [
        Row(name="simulate_cold_slowest_s", value=times[cold][0], unit="s", note=f"{NETWORK} on {cold}"),
        Row(name="simulate_warm_slowest_s", value=times[warm][1], unit="s", note=f"{NETWORK} on {warm}"),
    ]


@benchmark("help_s", "accelerators_s")
def screen_times() -> list[Row]:
    """`cosim --help` and `cosim accelerators`."""
    commands = {"help_s": "--help", "accelerators_s": "accelerators"}
    return [Row(name=name, value=_first_and_later([word])[1], unit="s") for name, word in commands.items()]
