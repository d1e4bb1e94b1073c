"""The workload files as the networks say them now; needs torch."""

from __future__ import annotations

from pathlib import Path

from accel_models.workload import Workload
from cosim.errors import UntraceableError
from cosim.extract import extract_workload
from cosim.networks.registry import build_network, network_example, network_names
from cosim.networks.workloads import FOLDER


def extract_network(name: str) -> Workload:
    """Build a network and run it once on one input of zeros.

    Raises
    ------
    ConfigError
        The name is unknown.
    UntraceableError
        The network holds an operator without a cost model; the message names the network.
    """
    try:
        return extract_workload(build_network(name), network_example(name), name)
    except UntraceableError as error:
        raise UntraceableError(f"network {name!r}: {error}") from error


def write_workloads(folder: Path = FOLDER) -> list[Path]:
    """Write the file of every network that ships and remove those of networks that no longer do."""
    paths = [folder / f"{name}.json" for name in network_names()]
    texts = [extract_network(name).to_json() for name in network_names()]  # all or nothing
    for old in set(folder.glob("*.json")) - set(paths):
        old.unlink()
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
