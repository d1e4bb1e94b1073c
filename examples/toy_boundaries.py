"""Decision boundaries of small networks that lose half of their units, one panel a criterion, without fine-tuning.

    python examples/toy_boundaries.py --out runs/toy --seeds 20

After the toy experiment of Yeom, Shim, Hwang (arXiv 2103.10858). Writes toy_boundaries.png, for one seed, and
toy_boundaries.json; prints two tables: on how much of the plane the pruned network decides as the dense one, mean ± sd
over seeds, as it is and with the means kept (what the lost units added on average goes into the biases, as recalibrated
batch normalisation would do it). A unit's feature map is a single number an image, so the nuclear norm is its mean
absolute activation (per image) or the norm of its activations (per batch), and HRank's rank is how often it is active.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.datasets import make_circles, make_moons
from torch import Tensor, nn

from cosim.files import write_json
from cosim.pruning.apply import remove_filters
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.criteria import ScoreOptions, score_layers, weigh_by_readers
from cosim.pruning.selection import select_plan, uniform_widths

POINTS, STEPS, KEEP, GRID, MARGIN = 600, 500, 0.5, 120, 0.3
PROBLEMS = ("moons", "circles", "spirals")
NETWORKS = {"one hidden layer": (32,), "two hidden layers": (16, 16)}
CRITERIA = {  # "read": times the norm of the weights that read the unit
    "nuclear norm": ("nuclear_norm", "per_image"),
    "nuclear norm, batch": ("nuclear_norm", "per_batch"),
    "nuclear norm, centred": ("nuclear_norm", "centred"),
    "centred, read": ("nuclear_norm", "centred"),
    "L1": ("l1", "per_image"),
    "L1, read": ("l1", "per_image"),
    "L2": ("l2", "per_image"),
    "FPGM": ("fpgm", "per_image"),
    "HRank": ("hrank", "per_image"),
    "CHIP": ("chip", "per_image"),
    "Taylor": ("taylor", "per_image"),
    "Hessian": ("hessian", "per_image"),
    "random": ("random", "per_image"),
}


def points_of(problem: str, seed: int) -> tuple[Tensor, Tensor]:
    """Points [POINTS, 2] of about unit scale, and their classes 0 and 1."""
    if problem == "spirals":
        x, y = _spirals(np.random.default_rng(seed))
    elif problem == "moons":
        x, y = make_moons(POINTS, noise=0.15, random_state=seed)
    else:
        x, y = make_circles(POINTS, noise=0.08, factor=0.5, random_state=seed)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64)


def _spirals(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two arms of three quarters of a turn."""
    classes = np.arange(POINTS) % 2
    turn = np.sqrt(rng.random(POINTS)) * 1.5 * np.pi
    radius = turn / (1.5 * np.pi) + 0.03 * rng.standard_normal(POINTS)
    angle = turn + np.pi * classes
    return np.column_stack((radius * np.cos(angle), radius * np.sin(angle))), classes


def train(widths: tuple[int, ...], points: Tensor, classes: Tensor, seed: int) -> nn.Sequential:
    """A network of linear layers and ReLUs, Adam on all points at once."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((2, *widths), widths, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Linear(widths[-1], 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(points), classes).backward()
        optimizer.step()
    return network.eval()


def prune(network: nn.Sequential, points: Tensor, classes: Tensor, criterion: str, seed: int) -> nn.Module:
    """The network without the half of each hidden layer's units that score lowest."""
    name, variant = CRITERIA[criterion]
    example = points[:1]
    groups = trace_channel_groups(network, example)
    layers = [layer for group in groups if group.locked is None for layer in group.producers]
    options = ScoreOptions(variant, seed=seed)  # type: ignore[arg-type]
    scores = score_layers(network, [(points, classes)], layers, name, options=options)
    if criterion.endswith("read"):
        scores = weigh_by_readers(network, groups, scores)
    plan = select_plan("toy", groups, scores, uniform_widths(groups, KEEP))
    return remove_filters(network, example, plan, groups)


@torch.no_grad()
def keep_means(dense: nn.Module, pruned: nn.Module, points: Tensor) -> nn.Module:
    """Move the biases so that every unit's mean over the points, before its ReLU, is that of the dense network.

    In place, layer by layer; the units of the dense network are found by their incoming weights.
    """
    before, after = points, points
    kept = torch.arange(points.shape[1])
    for old, new in zip(dense.children(), pruned.children(), strict=True):
        if isinstance(old, nn.Linear) and isinstance(new, nn.Linear):
            columns = old.weight[:, kept]
            kept = torch.stack([(columns - row).abs().sum(dim=1).argmin() for row in new.weight])
            new.bias.add_(old(before).mean(dim=0)[kept] - new(after).mean(dim=0))
        before, after = old(before), new(after)
    return pruned


def plane(points: Tensor) -> Tensor:
    """A grid [GRID², 2] over the points and a margin around them."""
    low, high = points.min(dim=0).values - MARGIN, points.max(dim=0).values + MARGIN
    axes = [torch.linspace(float(a), float(b), GRID) for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*axes)


@torch.no_grad()
def decide(network: nn.Module, points: Tensor) -> Tensor:
    return network(points).argmax(dim=1)


Agreement = dict[str, dict[str, list[float]]]
"""Network and problem -> criterion -> agreement of each seed, in [0, 1]."""


def run(seeds: int) -> tuple[Agreement, Agreement]:
    """As the networks are pruned, and with the means kept."""
    found: Agreement = {}
    kept: Agreement = {}
    for label, widths in NETWORKS.items():
        for problem in PROBLEMS:
            rows = found.setdefault(f"{problem}, {label}", {name: [] for name in CRITERIA})
            moved = kept.setdefault(f"{problem}, {label}", {name: [] for name in CRITERIA})
            for seed in range(seeds):
                points, classes = points_of(problem, seed)
                dense = train(widths, points, classes, seed)
                grid = plane(points)
                whole = decide(dense, grid)
                for name in CRITERIA:
                    pruned = prune(dense, points, classes, name, seed)
                    rows[name].append(_agreement(decide(pruned, grid), whole))
                    moved[name].append(_agreement(decide(keep_means(dense, pruned, points), grid), whole))
    return found, kept


def _agreement(one: Tensor, other: Tensor) -> float:
    return float((one == other).double().mean())


def show(title: str, found: Mapping[str, Mapping[str, list[float]]]) -> None:
    table = Table(
        title=f"Agreement with the dense network (%), half of the units pruned, {title}", title_justify="left"
    )
    table.add_column("criterion")
    for column in found:
        table.add_column(column, justify="right")
    table.add_column("all", justify="right")
    for name in CRITERIA:
        columns = [values[name] for values in found.values()]
        means = [statistics.mean(values) for values in zip(*columns, strict=True)]
        table.add_row(name, *map(_spread, columns), _spread(means))
    Console(width=150).print(table)


def _spread(values: list[float]) -> str:
    sd = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{sd}"


def draw(path: Path, seed: int = 0) -> None:
    """A row a problem, a panel a criterion: the decisions, the points, and the dense network's boundary in black."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    widths = NETWORKS["one hidden layer"]
    figure = Figure(figsize=(2.0 * (len(CRITERIA) + 1), 2.2 * len(PROBLEMS)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(PROBLEMS), len(CRITERIA) + 1)
    for row, problem in zip(panels, PROBLEMS, strict=True):
        points, classes = points_of(problem, seed)
        dense, grid = train(widths, points, classes, seed), plane(points)
        whole = decide(dense, grid)
        x, y = grid[:, 0].reshape(GRID, GRID), grid[:, 1].reshape(GRID, GRID)
        for panel, name in zip(row, ("dense", *CRITERIA), strict=True):
            network = dense if name == "dense" else prune(dense, points, classes, name, seed)
            own = decide(network, grid)
            panel.contourf(x, y, own.reshape(GRID, GRID), levels=[-0.5, 0.5, 1.5], colors=["#c6dbef", "#fdd0a2"])
            panel.contour(x, y, whole.reshape(GRID, GRID), levels=[0.5], colors="black", linewidths=1)
            panel.scatter(*points.T, c=classes, cmap="coolwarm", s=2)
            panel.set_title(f"{name}\n{100 * float((own == whole).double().mean()):.0f} %", fontsize=10)
            panel.set_xticks([])
            panel.set_yticks([])
    figure.suptitle(
        "Half of the units pruned, nothing trained after it. Colours: decisions of the pruned network; black line: "
        "boundary of the dense one; %: part of the plane where they agree",
        fontsize=12,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_figure(path, dpi=110)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/toy"))
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found, kept = run(options.seeds)
    write_json(options.out / "toy_boundaries.json", {"as pruned": found, "means kept": kept})
    draw(options.out / "toy_boundaries.png")
    show("as it is", found)
    show("means kept", kept)
    print(f"figure and numbers: {options.out}")


if __name__ == "__main__":
    main()
