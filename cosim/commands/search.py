"""cosim search."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from cosim.codesign.run import Phase, Progress, StudyResult, run_study
from cosim.codesign.study import load_study
from cosim.commands.show import count, energy, percent, save, table
from cosim.files import read_json
from cosim.report import write_report
from search import TrialRecord

_TITLES: dict[Phase, str] = {
    "dense": "dense network",
    "search": "search",
    "random": "random baseline",
    "repeats": "front, all seeds",
}


def run_search_command(
    study: Path, out: Path | None, resume: bool, workers: int, json_path: Path | None, console: Console
) -> None:
    """Run a study with a progress bar, then show the front and where the report is."""
    spec = load_study(study)
    out = out or Path("runs") / spec.name
    start = time.perf_counter()
    with _Screen(console) as screen:
        result = run_study(spec, out, resume=resume, workers=workers, on_progress=screen.show, where=str(study))
    report = write_report(out)
    _show_front(result, console)
    _show_totals(result, time.perf_counter() - start, console)
    console.print(f"report: {report}", markup=False, soft_wrap=True)
    if json_path is not None:
        save(json_path, read_json(out / "front.json"), console)


class _Screen:
    """A progress bar per phase: done, best so far, time left."""

    def __init__(self, console: Console) -> None:
        self.bars = Bars(
            TextColumn("{task.description:<17}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[best]}"),
            console=console,
        )
        self.tasks: dict[Phase, TaskID] = {}
        self.best: dict[Phase, tuple[float, float]] = {}

    def __enter__(self) -> _Screen:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def show(self, progress: Progress) -> None:
        if progress.phase not in self.tasks:
            self.tasks[progress.phase] = self.bars.add_task(_TITLES[progress.phase], total=progress.total, best="")
        best = self._best(progress.phase, progress.record)
        self.bars.update(self.tasks[progress.phase], completed=progress.done, total=progress.total, best=best)

    def _best(self, phase: Phase, record: TrialRecord | None) -> str:
        """Best accuracy and least energy seen so far, each of some feasible design."""
        if record is not None and record.state == "complete" and record.evaluation and record.evaluation.objectives:
            accuracy, picojoule = record.evaluation.objectives[:2]
            most, least = self.best.get(phase, (0.0, float("inf")))
            self.best[phase] = (max(most, accuracy), min(least, picojoule))
        if phase not in self.best:
            return ""
        most, least = self.best[phase]
        return f"best {percent(most)}, least {energy(least)}"


def _show_front(result: StudyResult, console: Console) -> None:
    rows = [
        [
            point["id"],
            point["array"],
            percent(point["validation_accuracy"]),
            f"{percent(point['test_accuracy_mean'])[:-2]} ± {100 * (point['test_accuracy_sd'] or 0):.1f}",
            energy(point["energy_pj"]),
            f"{1e3 * point['latency_ms']:.3g}",
            f"{point['area_mm2']:.3g}",
            f"{point['weight_bytes'] / 1e3:.1f}",
            count(point["macs"]),
        ]
        for point in result.points
    ]
    columns = ["id", "array", "validation", "test %", "energy", "latency us", "mm2", "weights kB", "MACs done"]
    console.print(table("Pareto front: accuracy, energy, latency", columns, rows, left=2))
    console.print("test: mean ± sd over seeds; which layer lost what: front.csv, plans/, report.html", soft_wrap=True)


def _show_totals(result: StudyResult, seconds: float, console: Console) -> None:
    counts = ", ".join(f"{number} {state}" for state, number in result.search.counts().items())
    console.print(f"{len(result.search.trials)} trials ({counts}), {len(result.points)} points, {seconds:.0f} s")
    crash = next((record for record in result.search.trials if record.state == "crashed"), None)
    if crash is not None:
        last = (crash.error or "").strip().splitlines()[-1:]
        console.print(
            f"first crash: trial {crash.number}: {''.join(last)} (tracebacks: report.html, trials.json)",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    volume = float(result.search.hypervolume_history()[-1])
    text = f"hypervolume: {result.search.sampler} {volume:.4f}"
    if result.random is not None:
        baseline = float(result.random.hypervolume_history()[-1])
        text += f", random search {baseline:.4f}"
        text += f", ratio {volume / baseline:.3f}" if baseline > 0 else ""
    console.print(text)
