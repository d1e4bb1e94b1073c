"""From a run directory to report.html and front.png."""

from __future__ import annotations

import os
from pathlib import Path

from cosim.report.html import page
from cosim.report.load import load_run
from cosim.report.png import front_png


def write_report(run_dir: Path) -> Path:
    """Write report.html and front.png into a run directory, from its front.json and trials.json.

    Each file appears whole or not at all; an older one is replaced.

    Parameters
    ----------
    run_dir : Path
        A directory that `cosim search` wrote.

    Returns
    -------
    Path
        The report.html; it needs no other file and no network.

    Raises
    ------
    ConfigError
        A file of the run is missing or broken; the message names file, field and remedy.
    """
    run = load_run(run_dir)
    _replace(run_dir / "front.png", front_png(run))
    report = run_dir / "report.html"
    _replace(report, page(run).encode("utf-8"))
    return report


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file first: a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
