"""What the numbers say, as plain sentences computed from the run."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from cosim.report import layers
from cosim.report.axes import Axis, Quantity
from cosim.report.load import Measured, Point, Run
from cosim.report.palette import label
from cosim.report.units import digits, percent, percent_sd

NEAR_DENSE = 0.01  # accuracy that a design may lose and still count as near the dense network
MEMORY_SUFFIXES = (".read", ".write")

Axes = Mapping[Quantity, Axis]


def headline(run: Run, axes: Axes) -> str:
    """The span of the front in one sentence."""
    points = run.front.points
    if not points:
        return "No feasible design was found: there is no front to show."
    best = max(points, key=axes["accuracy"].of_point)
    lean = min(points, key=axes["energy"].of_point)
    if best is lean:
        return f"One design, {best.id}, is both the most accurate and the leanest: {_measures(best, axes)}."
    ratio = axes["energy"].of_point(best) / axes["energy"].of_point(lean)
    return (
        f"From {_measures(best, axes)} ({best.id}) to {_measures(lean, axes)} ({lean.id}): "
        f"{len(points)} designs, {digits(ratio)} × less energy from end to end."
    )


def against_dense(run: Run, axes: Axes) -> str:
    """The leanest design near the dense network's accuracy; says so where there is none."""
    dense = run.front.dense
    if dense is None:
        return "The dense network was not evaluated, so there is nothing to compare the front with."
    where = f" on {dense.accelerator}" if dense.accelerator else ""
    start = f"The dense network{where} reaches {_measures(dense, axes)}."
    if dense.accuracy is None:
        return f"{start} Its accuracy is not known."
    lean = leanest_near_dense(run)
    if lean is None:
        return f"{start} No design of the front comes within 1 percentage point of its accuracy."
    found = f"{lean.id}: {_measures(lean, axes)}{_savings(lean, dense)}"
    return f"{start} The leanest design within 1 percentage point of it is {found}."


def leanest_near_dense(run: Run) -> Point | None:
    """The design of least energy that loses at most `NEAR_DENSE` against the dense network; None where none does."""
    dense = run.front.dense.accuracy if run.front.dense is not None else None
    if dense is None:
        return None
    near = [point for point in run.front.points if (point.accuracy or 0.0) >= dense - NEAR_DENSE]
    return min(near, key=lambda point: point.energy_pj, default=None)


def search_gain(run: Run) -> str:
    """The sampler against random search after equally many trials."""
    curves = run.front.hypervolume
    own, random = curves.get(run.front.sampler, ()), curves.get("random", ())
    if not own:
        return "No hypervolume was recorded."
    if not random:
        return (
            f"After {len(own)} trials the hypervolume is {digits(own[-1])}; no random search was run to compare with."
        )
    count = min(len(own), len(random))
    if random[count - 1] == 0:
        return f"After {count} trials {run.front.sampler} stands at {digits(own[count - 1])}, random search at 0."
    change = 100 * (own[count - 1] / random[count - 1] - 1)
    words = f"{abs(change):.1f} % {'more' if change >= 0 else 'less'} hypervolume than"
    caught = next((i + 1 for i, value in enumerate(own) if value >= random[count - 1]), None)
    sooner = f", and passed random search's final value at trial {caught}" if caught and caught < count else ""
    return f"After {count} trials {run.front.sampler} covers {words} random search{sooner}. One seed each."


def where_it_goes(point: Point) -> str:
    """The largest shares of the energy and of the cycles of one design."""
    energy = _by_memory(layers.totals(point, layers.energy_parts))
    cycles = layers.totals(point, layers.cycle_parts)
    if not sum(energy.values()) or not sum(cycles.values()):
        return "No breakdown by layer was recorded for this design."
    stalls = {name: value for name, value in cycles.items() if name != "compute"}
    stalled = sum(stalls.values()) / sum(cycles.values())
    worst = f", most of it {label(max(stalls, key=lambda name: stalls[name]))}" if stalled > 0 else ""
    return f"Energy: {_shares(energy)}. Latency: {percent(1 - stalled)} computing, {percent(stalled)} stalled{worst}."


def unexplained(point: Point) -> str:
    """Energy that no layer accounts for, or an empty text below 0.5 %."""
    found = sum(layers.totals(point, layers.energy_parts).values())
    missing = 1 - found / point.energy_pj
    return (
        f"The layers add up to {percent(found / point.energy_pj)} of the energy."
        if found and abs(missing) > 5e-3
        else ""
    )


def noise(run: Run) -> str:
    """How large a gap between two points must be before it means anything."""
    spread = [point.test_sd for point in run.front.points if point.test_sd is not None]
    if not spread:
        return "No design was tested over several seeds: how much of a gap in accuracy is noise is not known."
    return (
        f"Error bars are one standard deviation over seeds (median of the front: {100 * median(spread):.1f} points). "
        "Gaps between designs that are no larger than their error bars are noise at this size of network and data set: "
        "do not choose between two designs by them."
    )


def _measures(design: Measured, axes: Axes) -> str:
    accuracy = percent_sd(design.test_mean, design.test_sd) if design.test_mean is not None else None
    parts = [accuracy or f"{percent(design.validation_accuracy)} (validation)"]
    costs = [(axes[name], axes[name].of(design)) for name in ("energy", "latency")]
    parts += [f"{digits(value)} {axis.scale.unit}" for axis, value in costs if value is not None]
    return f"{parts[0]} at {' and '.join(parts[1:])}"


def _savings(point: Point, dense: Measured) -> str:
    gains = [_ratio(dense.energy_pj / point.energy_pj, "energy")]
    if dense.latency_ms:
        gains.append(_ratio(dense.latency_ms / point.latency_ms, "latency"))
    return f" ({', '.join(gains)})"


def _ratio(gain: float, quantity: str) -> str:
    return f"{digits(gain)} × less {quantity}" if gain >= 1 else f"{digits(1 / gain)} × more {quantity}"


def _by_memory(parts: layers.Parts) -> dict[str, float]:
    """Reads and writes of a memory taken together."""
    sums: dict[str, float] = {}
    for name, value in parts.items():
        memory = next((name.removesuffix(end) for end in MEMORY_SUFFIXES if name.endswith(end)), name)
        sums[memory] = sums.get(memory, 0.0) + value
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _shares(parts: Mapping[str, float]) -> str:
    whole = sum(parts.values())
    return ", ".join(f"{label(name)} {100 * value / whole:.0f} %" for name, value in list(parts.items())[:3])
