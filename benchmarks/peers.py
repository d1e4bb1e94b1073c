"""Other simulators, each in an environment of its own, run on this machine in the same run as ours.

The environments lie below $COSIM_PEERS, by default ~/.cache/cosim/peers; pip makes one when it is first asked for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INSTALL_S = 1800


class PeerUnavailableError(Exception):
    """A peer cannot be installed or does not run here; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A simulator on the package index."""

    title: str
    requirements: tuple[str, ...]
    """The simulator first."""

    @property
    def folder(self) -> Path:
        root = Path(os.environ.get("COSIM_PEERS", Path.home() / ".cache" / "cosim" / "peers"))
        version = f"py{sys.version_info.major}.{sys.version_info.minor}"
        return root.resolve() / f"{self.requirements[0].replace('==', '-')}-{version}"


SCALESIM = Peer("SCALE-Sim 3.0.0", ("scalesim==3.0.0", "numpy<2"))
ZIGZAG = Peer("ZigZag 3.9.1", ("zigzag-dse==3.9.1", "six"))


@dataclass(frozen=True)
class Usage:
    """What a process took."""

    wall_s: float
    cpu_s: float
    """User and system time, of all threads."""
    peak_bytes: int
    """Largest resident set."""

    @property
    def peak_mib(self) -> float:
        return self.peak_bytes / 2**20

    @property
    def seconds(self) -> float:
        """The smaller of wall and processor time: other work on the machine does not lengthen it."""
        return min(self.wall_s, self.cpu_s)


def peer_python(peer: Peer) -> str:
    """The interpreter of a peer's environment, made first where it is missing.

    Raises
    ------
    PeerUnavailableError
        venv or pip failed, e.g. without a network.
    """
    python, finished = peer.folder / "bin" / "python", peer.folder / "installed.txt"
    if finished.exists():
        return str(python)
    print(f"setting up {peer.title} in {peer.folder} (once, about a minute)", file=sys.stderr)
    shutil.rmtree(peer.folder, ignore_errors=True)
    _install([sys.executable, "-m", "venv", str(peer.folder)], peer)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _install([*pip, *peer.requirements], peer)
    finished.write_text("\n".join(peer.requirements) + "\n")
    return str(python)


def _install(command: Sequence[str], peer: Peer) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailableError(f"{peer.title} cannot be installed: {error}") from error
    if done.returncode:
        raise PeerUnavailableError(f"{peer.title} cannot be installed: {_last_line(done.stderr or done.stdout)}")


def run_measured(command: Sequence[str], folder: Path) -> Usage:
    """Run a command in a folder; its output goes to output.txt there.

    Raises
    ------
    PeerUnavailableError
        It cannot be started or ended with an error.
    """
    output, took = folder / "output.txt", folder / "took.json"
    launcher = [sys.executable, str(Path(__file__).with_name("run_measured.py")), str(took)]
    with output.open("w") as file:
        done = subprocess.run([*launcher, *command], cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        last = _last_line(output.read_text(errors="replace"))
        raise PeerUnavailableError(f"{' '.join(command[:2])} ended with an error: {last}")
    return Usage(**json.loads(took.read_text()))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
