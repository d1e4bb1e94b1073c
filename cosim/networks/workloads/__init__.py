"""Workloads of the networks that ship, read from files beside this one: pricing a network on hardware needs no torch.

`python -m cosim.networks.workloads` extracts them anew after a change of a network or of `cosim.extract`.
"""

from __future__ import annotations

from pathlib import Path

from accel_models.workload import Workload, load_workload

FOLDER = Path(__file__).parent


def workload_names() -> tuple[str, ...]:
    """Names of the networks whose workload ships."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def network_workload(name: str) -> Workload | None:
    """The workload of a network that ships, for one input at 8 bits; None: no file, build and extract the network."""
    return load_workload(FOLDER / f"{name}.json") if name in workload_names() else None
