"""Time to trace a network and group its channels, against Torch-Pruning 1.6.1 on the same networks in the same run.

Ours is `trace_channel_groups`, the peer's is building its dependency graph and listing all groups. Torch-Pruning lives
in a virtual environment of its own under the user's cache folder, which borrows this interpreter's torch; where it
cannot be installed the rows have no peer and say why. Both are timed in fresh processes of one thread, the best of
some runs after a first one; `cold` is that first one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.registry import Row, benchmark

PEER = "torch-pruning 1.6.1"
NETWORKS = {"resnet50": "resnet50", "densenet": "densenet100", "vit": "vit_tiny"}
RUNS = 5


def build(network: str) -> tuple[Any, Any]:
    """The network and an example; DenseNet-100 is the zoo's DenseNet-40 with 32 layers a block."""
    import torch

    from cosim.networks import build_network, network_example
    from cosim.networks.densenet import CifarDenseNet

    if network == "densenet100":
        return CifarDenseNet(depth=100).eval(), torch.zeros(1, 3, 32, 32)
    return build_network(network).eval(), network_example(network)


def time_ours(network: str) -> list[float]:
    """Seconds of each run, the first included."""
    from cosim.pruning import trace_channel_groups

    model, example = build(network)
    return _times(lambda: trace_channel_groups(model, example))


def time_peer(network: str) -> list[float]:
    """Seconds of each run of Torch-Pruning, the first included."""
    import torch
    import torch_pruning  # type: ignore[import-not-found, unused-ignore]
    from torch import nn

    model, example = build(network)
    plain = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    example = example + torch.randn(example.shape)

    def run() -> None:
        graph = torch_pruning.DependencyGraph().build_dependency(model, example)
        list(graph.get_all_groups(ignored_layers=plain[-1:], root_module_types=[nn.Conv2d, nn.Linear]))

    return _times(run)


def _times(run: Any) -> list[float]:
    import torch

    torch.set_num_threads(1)
    seconds = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def _measure(python: str, who: str, network: str) -> list[float]:
    command = [python, "-m", "benchmarks.coupling_speed", who, network]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])
    return list(json.loads(done.stdout.strip().splitlines()[-1]))


@lru_cache(maxsize=1)
def peer_python() -> str:
    """The interpreter of the peer's environment, which is made if it is missing.

    Raises
    ------
    RuntimeError
        It cannot be installed.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cosim-bench" / PEER.replace(" ", "-")
    python = home / "bin" / "python"
    packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if not (packages / "torch_pruning").exists():
        venv.create(home, with_pip=True, clear=True)
        (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", PEER.replace(" ", "==")]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{PEER} cannot be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return str(python)


@benchmark(*(f"coupling_{name}_s" for name in NETWORKS))
def coupling_speed() -> list[Row]:
    """ResNet-50 and ViT-Ti at 224x224, DenseNet-100 at 32x32; one thread."""
    return [_row(f"coupling_{name}_s", network) for name, network in NETWORKS.items()]


def _row(name: str, network: str) -> Row:
    cold, *ours = _measure(sys.executable, "ours", network)
    note = f"{network}; cold {cold:.2f} s"
    try:
        best = min(_measure(peer_python(), "peer", network)[1:])
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Row(name=name, value=min(ours), unit="s", note=f"{note}; no peer: {error}")
    ratio = best / min(ours)
    return Row(name=name, value=min(ours), unit="s", peer=PEER, peer_value=best, ratio=ratio, note=note)


if __name__ == "__main__":
    print(json.dumps((time_ours if sys.argv[1] == "ours" else time_peer)(sys.argv[2])))
