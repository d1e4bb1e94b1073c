"""The table of the front: one row per design, sortable by every column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

from cosim.report.axes import Axis, Quantity
from cosim.report.load import Point
from cosim.report.units import MM2, Scale, digits, percent, percent_sd, scale_for


@dataclass(frozen=True)
class Column:
    """One column: its title, the number to sort by, the text to show."""

    title: str
    value: Callable[[Point], float | None]
    text: Callable[[Point], str]
    first: str = "ascending"
    bar: bool = False


def columns_of(points: tuple[Point, ...], axes: Mapping[Quantity, Axis]) -> list[Column]:
    """The columns of numbers; a quantity that no point has gets none."""
    size = scale_for([point.weight_bytes for point in points], "B")
    traffic = scale_for([point.dram_bytes for point in points], "B")
    columns = [
        Column("test accuracy", lambda p: p.test_mean, lambda p: percent_sd(p.test_mean, p.test_sd), "descending"),
        Column("validation", lambda p: p.validation_accuracy, lambda p: percent(p.validation_accuracy), "descending"),
        *[_cost(axes[name]) for name in ("energy", "latency")],
        _scaled("area", MM2, lambda p: p.area_mm2),
        _scaled("weights", size, lambda p: p.weight_bytes),
        _scaled("DRAM", traffic, lambda p: p.dram_bytes),
        Column("utilization", lambda p: p.utilization, lambda p: percent(p.utilization), "descending"),
    ]
    return [column for column in columns if any(column.value(point) is not None for point in points)]


def front_table(points: tuple[Point, ...], axes: Mapping[Quantity, Axis]) -> str:
    """The table as HTML; sorting by a column is the page's script."""
    columns = columns_of(points, axes)
    largest = {c.title: max((c.value(point) or 0.0 for point in points), default=0.0) for c in columns if c.bar}
    sorted_now = columns[0].title if columns else ""
    numbers = [_head(c.title, "number", c.first, c.title == sorted_now) for c in columns]
    heads = [_head("design", "text", "ascending"), *numbers, _head("plan", "text", "ascending")]
    rows = "".join(_row(point, columns, largest) for point in points)
    caption = "Sorted by falling accuracy; select a column title to sort by it, a row to show the design."
    return (
        f'<div class="scroll"><table class="front"><caption>{caption}</caption>'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cost(axis: Axis) -> Column:
    unit = axis.scale.unit
    return Column(f"{axis.quantity} ({unit})", axis.of_point, lambda point: digits(axis.of_point(point)), bar=True)


def _scaled(title: str, scale: Scale, value: Callable[[Point], float | None]) -> Column:
    def text(point: Point) -> str:
        found = value(point)
        return "–" if found is None else digits(found * scale.factor)

    return Column(f"{title} ({scale.unit})", value, text, bar=True)


def _head(title: str, kind: str, first: str, sorted_now: bool = False) -> str:
    return (
        f'<th scope="col" aria-sort="{"descending" if sorted_now else "none"}" data-kind="{kind}" data-first="{first}">'
        f'<button type="button">{escape(title)}</button></th>'
    )


def _row(point: Point, columns: list[Column], largest: Mapping[str, float]) -> str:
    name = escape(point.id)
    cells = "".join(_cell(point, column, largest.get(column.title, 0.0)) for column in columns)
    plan = escape(point.plan_summary)
    return (
        f'<tr data-point="{name}"><th scope="row" data-value="{name}"><button type="button">{name}</button></th>{cells}'
        f'<td data-value="{plan}"><div class="clamp" title="{plan}">{plan}</div></td></tr>'
    )


def _cell(point: Point, column: Column, largest: float) -> str:
    value = column.value(point)
    known = "" if value is None else repr(float(value))
    bar = f' style="--share: {100 * (value or 0.0) / largest:.1f}%"' if largest else ""
    kind = "number bar" if largest else "number"
    return f'<td class="{kind}" data-value="{known}"{bar}>{escape(column.text(point))}</td>'
