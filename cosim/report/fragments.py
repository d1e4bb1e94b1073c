"""The parts of the page that are plain HTML; every text from the run is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from urllib.parse import quote

from cosim.report import palette, sentences
from cosim.report.axes import Axis, Quantity
from cosim.report.design import PLAN, grouped
from cosim.report.load import Front, Point, Run, Trial
from cosim.report.units import MM2, digits, percent, percent_sd, scale_for

Axes = Mapping[Quantity, Axis]
STATE_WORDS = {
    "complete": "evaluated",
    "duplicate": "asked again, answered from the cache",
    "infeasible": "infeasible (over a limit)",
    "crashed": "crashed",
}


CRASHED = ' class="bad"'


def kicker(front: Front) -> str:
    """What ran, in one line."""
    limits = [
        f"{c.name.replace('_mm2', '')} ≤ {digits(c.limit)} {c.unit.replace('mm2', 'mm²')}" for c in front.constraints
    ]
    goals = [f"{'↑' if o.direction == 'maximize' else '↓'} {_plain(o.name)}" for o in front.objectives]
    parts = [f"sampler {front.sampler}, seed {front.seed}", " ".join(goals), *limits]
    return escape(" · ".join(parts))


def _plain(objective: str) -> str:
    return objective.removesuffix("_pj").removesuffix("_ms").removesuffix("_cycles")


def counts(run: Run) -> str:
    """Trials by state, and the errors of the crashed ones in a list to open."""
    items = [
        f"<li{CRASHED if state == 'crashed' and number else ''}><strong>{number}</strong> {STATE_WORDS[state]}</li>"
        for state, number in run.front.counts.items()
    ]
    whole = f"<li><strong>{sum(run.front.counts.values())}</strong> trials</li>"
    return f'<ul class="counts" aria-label="Trials by state">{whole}{"".join(items)}</ul>{_errors(run)}'


def _errors(run: Run) -> str:
    crashed = [trial for trial in run.trials if trial.state == "crashed"]
    groups: dict[str, list[Trial]] = {}
    for trial in crashed:
        groups.setdefault(_last_line(trial.error), []).append(trial)
    if not groups:
        return ""
    items = "".join(
        f"<li><strong>{escape(line)}</strong>: trial {escape(', '.join(str(t.number) for t in trials))}"
        f"<pre>{escape(trials[0].error or '')}</pre></li>"
        for line, trials in groups.items()
    )
    return f"<details><summary>Errors of crashed trials ({len(crashed)})</summary><ul>{items}</ul></details>"


def _last_line(error: str | None) -> str:
    lines = (error or "").strip().splitlines()
    return lines[-1][:200] if lines else "no message"


def chooser(run: Run, axes: Axes) -> str:
    """The bar that stays on top: which design the page shows."""
    options = "".join(
        f'<option value="{escape(point.id)}">{escape(_option(point, axes))}</option>' for point in run.front.points
    )
    if not options:
        return ""
    return (
        '<div class="chooser needs-script"><label for="design-select"><span class="ring" aria-hidden="true"></span>'
        f'Design</label><select id="design-select">{options}</select>'
        '<button type="button" id="previous-design">← more accurate</button>'
        '<button type="button" id="next-design">less accurate →</button>'
        '<span class="soft">or click a point or a table row · '
        '<a href="#design-heading">see its layers</a></span></div>'
    )


def _option(point: Point, axes: Axes) -> str:
    costs = [f"{digits(axes[name].of_point(point))} {axes[name].scale.unit}" for name in ("energy", "latency")]
    tested = point.test_mean is not None
    accuracy = percent_sd(point.test_mean, point.test_sd) if tested else f"{percent(point.validation_accuracy)} (val.)"
    return " · ".join([point.id, accuracy, *costs])


def legend(run: Run) -> str:
    """Symbols of the charts over the run, with switches."""
    seeds = sorted({len(point.test_accuracy) for point in run.front.points if point.test_accuracy})
    over = f", {'–'.join(str(s) for s in seeds)} seeds" if seeds else ""
    tested = (
        f"front: test accuracy ± sd of the retrained network{over}" if run.tested else "front (validation accuracy)"
    )
    rows = [("trials", _dot(palette.TRIAL, 4), f"{len(run.scored('complete'))} trials (validation accuracy)")]
    if run.tested:
        seen = "front: validation accuracy, as the search saw it"
        rows.insert(0, ("validation", _dot(palette.ACCENT, 4.5, hollow=True), seen))
    if run.front.points:
        rows.insert(0, ("front best", _dot(palette.ACCENT, 6), tested))
    if infeasible := len(run.scored("infeasible")):
        cross = f'<path d="M4 4l8 8M12 4l-8 8" stroke="{palette.INFEASIBLE}" stroke-width="2"/>'
        rows.append(("infeasible", cross, f"{infeasible} infeasible trials"))
    if run.front.dense is not None:
        rows.append(("dense", f'<path d="M8 1l7 7-7 7-7-7z" fill="{palette.DENSE}"/>', "dense network"))
    items = "".join(
        f'<label><input type="checkbox" value="{roles}" checked>'
        f'<svg width="16" height="16" aria-hidden="true">{symbol}</svg>{escape(text)}</label>'
        for roles, symbol, text in rows
    )
    return f'<div class="legend needs-script" role="group" aria-label="What the charts show">{items}</div>'


def _dot(colour: str, radius: float, hollow: bool = False) -> str:
    paint = f'fill="none" stroke="{colour}" stroke-width="1.5"' if hollow else f'fill="{colour}"'
    return f'<circle cx="8" cy="8" r="{radius}" {paint}/>'


def figure(chart: str, title: str, description: str, kind: str = "", keys: Iterable[tuple[str, str]] = ()) -> str:
    """The place of a chart, with its title, its colours and a description for screen readers."""
    title, description = escape(title), escape(description)
    items = "".join(f'<li><i style="background: {colour}"></i>{escape(name)}</li>' for name, colour in keys)
    return (
        f'<figure class="needs-script"><h3>{title}</h3><div class="chart {kind}" id="{chart}" role="img" '
        f'aria-label="{title}: {description}"></div>{f"<ul class=keys>{items}</ul>" if items else ""}'
        f"<figcaption>{description}</figcaption></figure>"
    )


def designs(run: Run, axes: Axes) -> str:
    """What each point reaches and where its energy and time go; the page shows the chosen one."""
    return "".join(
        _article(point, f"<h3>{escape(point.id)} (trial {point.trial})</h3>{_measures(point, axes)}{_told(point)}")
        for point in run.front.points
    )


def parameters(run: Run) -> str:
    """Files and parameters of each point; the page shows the chosen one."""
    return "".join(
        _article(point, f'{_links(run, point)}<div class="tables">{_tables(point)}</div>') for point in run.front.points
    )


def _article(point: Point, content: str) -> str:
    return f'<article class="design" data-point="{escape(point.id)}" hidden>{content}</article>'


def _told(point: Point) -> str:
    seeds = " · ".join(f"{100 * value:.1f}" for value in point.test_accuracy)
    texts = [
        sentences.where_it_goes(point),
        sentences.unexplained(point),
        f"Test accuracy seed by seed: {seeds} %." if seeds else "",
        *point.notices,
        *(f"A seed failed: {_last_line(error)}" for error in point.errors),
    ]
    plan = f'<p class="soft">{escape(point.plan_summary)}</p>' if point.plan_summary else ""
    return plan + "".join(f"<p>{escape(text)}</p>" for text in texts if text)


def _measures(point: Point, axes: Axes) -> str:
    seeds = len(point.test_accuracy)
    size = scale_for([point.weight_bytes], "B")
    traffic, macs = scale_for([point.dram_bytes], "B"), scale_for([point.macs], "MAC")
    rows = [
        ("test accuracy", percent_sd(point.test_mean, point.test_sd), f"{seeds} seeds" if seeds else ""),
        ("validation", percent(point.validation_accuracy), "as the search saw it"),
        ("energy", f"{digits(axes['energy'].of_point(point))} {axes['energy'].scale.unit}", "per inference"),
        (
            "latency",
            scale_for([point.latency_ms], "ms").text(point.latency_ms),
            f"{digits(point.latency_cycles)} cycles",
        ),
        ("area", MM2.text(point.area_mm2), ""),
        ("DRAM traffic", traffic.text(point.dram_bytes), "per inference"),
        ("weights", size.text(point.weight_bytes), "stored"),
        ("utilization", percent(point.utilization), f"{macs.text(point.macs)} MACs"),
    ]
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}<small>{escape(extra)}</small></dd></div>"
        for name, value, extra in rows
    )
    return f'<dl class="measures">{cells}</dl>'


def _links(run: Run, point: Point) -> str:
    files = {"pruning plan": point.plan, "accelerator": point.accelerator, "weights": point.weights}
    items = [_link(run, name, path) for name, path in files.items() if path is not None]
    return f'<p class="links">{" ".join(items)}</p>' if items else ""


def _link(run: Run, name: str, path: str) -> str:
    if not (run.folder / path).is_file():
        return f"<span>{name}: {escape(path)} (not in the run directory)</span>"
    return f'<span>{name}: <a href="./{escape(quote(path))}">{escape(path)}</a></span>'


def _tables(point: Point) -> str:
    """The accelerator's parameters as a list, those of the plan as one row per layer or stage."""
    groups = grouped(point.design)
    hardware = {
        f"{group}.{name}".rstrip("."): value
        for group, parameters in groups.items()
        if group not in PLAN
        for name, value in parameters.items()
    }
    rows = "".join(f'<tr><th scope="row">{escape(n)}</th><td>{escape(v)}</td></tr>' for n, v in hardware.items())
    first = f"<table><caption>Accelerator</caption><tbody>{rows}</tbody></table>" if hardware else ""
    plan = {kind: groups[kind] for kind in PLAN if kind in groups}
    return first + (_plan_table(plan) if plan else "")


def _plan_table(plan: Mapping[str, Mapping[str, str]]) -> str:
    layers = list(dict.fromkeys(layer for parameters in plan.values() for layer in parameters))
    head = "".join(f'<th scope="col">{escape(kind)}</th>' for kind in plan)
    rows = "".join(
        f'<tr><th scope="row">{escape(layer)}</th>'
        + "".join(f"<td>{escape(parameters.get(layer, ''))}</td>" for parameters in plan.values())
        + "</tr>"
        for layer in layers
    )
    return (
        f'<table><caption>Pruning plan</caption><thead><tr><th scope="col">layers</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def footnotes(run: Run, axes: Axes) -> str:
    """What the accuracies mean, what is noise, what the energies leave out."""
    notes = [
        "Validation accuracy is what the search saw: the short training of one trial, measured on the validation data. "
        "It tends to be too high for the designs of the front, because they were chosen by it.",
        "Test accuracy is measured once, after the search: each design of the front is pruned and trained again with "
        "several seeds; shown are mean and standard deviation. The two are not the same quantity: do not compare one "
        "with the other.",
        sentences.noise(run),
        "A design is on the front if no other trial beat it in all objectives by its validation accuracy; after "
        "retraining two neighbours may change places. The dotted steps join the best designs of one projection alone.",
        *run.front.notes,
    ]
    if unscored := sum(trial.state == "infeasible" and trial.objectives is None for trial in run.trials):
        notes.append(f"{unscored} infeasible trials were not scored, so the charts do not show them.")
    if run.front.reference:
        notes.append(
            f"Hypervolume: the volume of objective space that the front beats, measured from {_reference(run, axes)}."
        )
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"


def _reference(run: Run, axes: Axes) -> str:
    by_objective = {axis.objective: axis for axis in axes.values()}
    parts = []
    for index, value in enumerate(run.front.reference[: len(run.front.objectives)]):
        axis = by_objective.get(index)
        factor = axis.trial_factor * axis.scale.factor if axis else 1.0
        name = f"{axis.quantity} " if axis else f"{run.front.objectives[index].name} "
        parts.append(name + digits(value * factor) + (f" {axis.scale.unit}" if axis else ""))
    return ", ".join(parts)
