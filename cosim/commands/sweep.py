"""cosim sweep."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bars

from cosim.commands.show import count, energy, save, table
from cosim.commands.simulate import load_any_workload
from cosim.sweep import load_sweep, run_sweep

SHOWN = 20


def run_sweep_command(sweep: Path, out: Path | None, resume: bool, json_path: Path | None, console: Console) -> None:
    """Score a grid or a sample of designs with a progress bar, then show the front."""
    spec = load_sweep(sweep)
    workload, _ = load_any_workload(spec.workload, None)
    out = out or Path("runs") / spec.name
    start = time.perf_counter()
    with Bars(console=console) as bars:
        bar = bars.add_task("designs", total=spec.designs)
        points = run_sweep(
            spec,
            workload,
            out,
            resume=resume,
            on_done=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    seconds = time.perf_counter() - start
    rows = [
        [
            f"{point['rows']} x {point['cols']}",
            point["dataflow"].replace("_", " "),
            " / ".join(f"{point[f'{name}_bytes'] / 1024:g}" for name in ("input", "weight", "output")),
            f"{point['dram_bytes_per_cycle']:g}",
            f"{point['latency_ms']:.4g}",
            energy(point["energy_pj"]),
            f"{point['area_mm2']:.3g}",
        ]
        for point in points[:SHOWN]
    ]
    columns = ["array", "dataflow", "buffers in, weight, out KiB", "DRAM B/cycle", "latency ms", "energy", "mm2"]
    console.print(table(f"front of {spec.name}: latency, energy, area", columns, rows, left=3))
    if len(points) > SHOWN:
        console.print(f"{len(points) - SHOWN} more points in {out / 'front.csv'}", markup=False)
    console.print(f"{count(spec.designs)} designs in {seconds:.1f} s; {out}", markup=False, soft_wrap=True)
    save(json_path, points, console)
