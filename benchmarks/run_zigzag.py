"""Run by ZigZag's own Python: ACCELERATOR MAPPING OUT -> out.json with seconds and layers, for the ResNet-18 it ships.

Only the call of its API is timed, not the import.
"""

import json
import logging
import sys
import time
from pathlib import Path

import zigzag  # type: ignore[import-not-found]  # lives in an environment of its own
from zigzag.api import get_hardware_performance_zigzag  # type: ignore[import-not-found]

accelerator, mapping, out = sys.argv[1:]
inputs = Path(zigzag.__file__).parent / "inputs"
logging.disable(logging.INFO)
wall, processor = time.perf_counter(), time.process_time()
energy, latency, results = get_hardware_performance_zigzag(
    str(inputs / "workload" / "resnet18.onnx"),
    str(inputs / "hardware" / f"{accelerator}.yaml"),
    str(inputs / "mapping" / f"{mapping}.yaml"),
    dump_folder=f"{out}/dump",
    loma_show_progress_bar=False,
)
data = {
    "wall_s": time.perf_counter() - wall,
    "cpu_s": time.process_time() - processor,
    "energy_pj": energy,
    "latency_cycles": latency,
    "layers": [result.layer.name for result, _ in results[0][1]],
}
Path(out, "out.json").write_text(json.dumps(data))
