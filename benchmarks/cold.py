"""`cosim simulate` as a user meets it: the first call ever (kernels compile) and later ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.registry import Row, benchmark

TOPOLOGY = """Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
Conv1,224,224,11,11,3,96,4,
Conv2,27,27,5,5,96,256,1,
Conv3,13,13,3,3,256,384,1,
Conv4,13,13,3,3,384,384,1,
Conv5,13,13,3,3,384,256,1,
"""


@benchmark("simulate_cold_s", "simulate_warm_s")
def simulate_times() -> list[Row]:
    """Five convolutions of AlexNet from a topology file, with an empty and with a filled kernel cache."""
    with tempfile.TemporaryDirectory() as folder:
        topology = Path(folder) / "alexnet.csv"
        topology.write_text(TOPOLOGY)
        environment = {**os.environ, "NUMBA_CACHE_DIR": f"{folder}/numba"}
        command = [sys.executable, "-m", "cosim", "simulate", "-a", "edge_os_16x16", "-w", str(topology)]
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
    return [
        Row(name="simulate_cold_s", value=seconds[0], unit="s", note="kernels compile"),
        Row(name="simulate_warm_s", value=min(seconds[1:]), unit="s"),
    ]
