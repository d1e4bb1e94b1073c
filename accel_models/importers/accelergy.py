"""Accelergy's energy and area reference tables (ERT, ART) become prices and areas of an accelerator.

Format (Accelergy-Project/accelergy, versions 0.3 and 0.4, `accelergy/ERT_generator.py` and `ART_generator.py`)::

    ERT: {version, tables: [{name: system.glb[1..1], actions: [{name: read, arguments, energy}]}]}
    ART: {version, tables: [{name: system.glb[1..1], area}]}

and the summaries `ERT_summary` and `ART_summary` with `table_summary`. Energies are pJ an action, areas um2 of one
instance. An action listed for several arguments counts with its dearest, as in Timeloop (`UpdateOpEnergyViaERT`).

A component belongs to the memory of the same name, or to what `names` says: a memory, `mac` (multiplier and adder of a
PE) or None (left out). Left out are leakage, whose time base a table does not say, and gated and metadata actions.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel_models.accelerator import Accelerator, EnergyOverride, Memory
from accel_models.config_files import read_yaml
from accel_models.energy import energy_table
from accel_models.errors import InvalidInputError

MAC = "mac"
VERSIONS = ("0.3", "0.4")
Names = Mapping[str, str | None]

_WRITES = ("write", "update", "fill")
"""Names of a write, the first one that a component has."""
_COMPUTE = ("compute", "mac_random", "mac")
_COUNT = re.compile(r"\[(\d+)\.\.(\d+)\]")


@dataclass(frozen=True)
class Component:
    """One component of a table: its name without counts, how often it is there (None: not said), and its figures."""

    file: Path
    name: str
    instances: int | None
    entry: Mapping[str, Any]

    @property
    def short(self) -> str:
        """The last part of the name."""
        return self.name.rsplit(".", 1)[-1]

    @property
    def where(self) -> str:
        """For errors."""
        return f"{self.file}: {self.name}"

    @property
    def origin(self) -> str:
        """For sources."""
        return f"{self.file.name}, {self.name}"


def read_ert(
    path: str | Path, accelerator: Accelerator, names: Names | None = None, widths: Mapping[str, int] | None = None
) -> dict[str, EnergyOverride]:
    """Prices per bit, and of a multiplication, from an ERT.

    Parameters
    ----------
    path : str or Path
        An ERT or ERT_summary in YAML.
    accelerator : Accelerator
        Whose memories the components are.
    names : mapping of str to str or None, optional
        Component (in full or its last part) -> memory, `mac` or None.
    widths : mapping of str to int, optional
        Memory -> bits of one action; by default a memory's `width_bits`, of registers the widest operand they hold.

    Returns
    -------
    dict of str to EnergyOverride
        For the accelerator's `energy`. What a MAC costs beyond the accelerator's `add` is its multiplication, at the
        widest weights; narrower ones cost in proportion.

    Raises
    ------
    InvalidInputError
        A component that is no memory of the accelerator, or a field that cannot be used; names file and component.
    """
    prices: dict[str, EnergyOverride] = {}
    for component, part in _assigned(Path(path), "ERT", accelerator, names):
        if part == MAC:
            prices.update(_mac_prices(component, accelerator))
        else:
            memory = next(m for m in accelerator.memories if m.name == part)
            bits = (widths or {}).get(part, _action_bits(memory, accelerator))
            if bits < 1:
                raise InvalidInputError(f"{path}: widths[{part!r}] = {bits}: an action moves at least one bit")
            prices.update(_memory_prices(component, part, bits))
    return prices


def read_art(path: str | Path, accelerator: Accelerator, names: Names | None = None) -> dict[str, EnergyOverride]:
    """Areas in mm2 from an ART, of all instances of a part: memories, and `pe_array` for the component `mac`.

    A component of DRAM is left out, as it is not on the chip.

    Raises
    ------
    InvalidInputError
        A component that is no memory of the accelerator, a field that cannot be used, or another number of instances
        than the accelerator has; names file and component.
    """
    areas: dict[str, EnergyOverride] = {}
    for component, part in _assigned(Path(path), "ART", accelerator, names):
        if part == accelerator.dram.name:
            continue
        area = _number(component.entry.get("area"), f"{component.where}: area")
        count = _instances(part, accelerator)
        if component.instances not in (None, count):
            raise InvalidInputError(
                f"{component.where}: {component.instances} instances, accelerator {accelerator.name!r} has {count} of "
                f"{part!r}; import a table of the same machine"
            )
        source = f"{component.origin}: {area:g} um2 x {count}"
        areas["pe_array" if part == MAC else part] = EnergyOverride(value=area * count * 1e-6, source=source)
    return areas


def _assigned(path: Path, kind: str, accelerator: Accelerator, names: Names | None) -> Iterator[tuple[Component, str]]:
    """Components and the part of the accelerator that each one is."""
    known = {memory.name: memory.name for memory in accelerator.memories} | {MAC: MAC}
    taken: dict[str, str] = {}
    components = _components(path, kind)
    there = {name for component in components for name in (component.name, component.short)}
    for name in names or {}:
        if name not in there:
            raise InvalidInputError(f"{path}: names: there is no component {name!r}{_nearest(name, sorted(there))}")
    for component in components:
        part = _part(component, names or {}, known)
        if part is None:
            continue
        if part in taken:
            raise InvalidInputError(
                f"{path}: components {taken[part]!r} and {component.name!r} are both {part!r}; give one another "
                "name, or None"
            )
        taken[part] = component.name
        yield component, part


def _part(component: Component, names: Names, known: Mapping[str, str]) -> str | None:
    where = f"{component.file}: component {component.name!r}"
    for key in (component.name, component.short):
        if key in names:
            part = names[key]
            if part is not None and part not in known:
                raise InvalidInputError(f"{where}: names gives {part!r}, which is no memory{_nearest(part, known)}")
            return part
    if component.short in known or component.short.lower() == MAC:
        return known.get(component.short, MAC)
    raise InvalidInputError(
        f"{where} is no memory{_nearest(component.short, known)}; give names={{{component.short!r}: memory}}, or None "
        "leave it out"
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f", nearest: {near[0]!r}" if near else ""


def _components(path: Path, kind: str) -> list[Component]:
    data = read_yaml(path)
    top = kind if kind in data else f"{kind}_summary"
    if top not in data:
        raise InvalidInputError(f"{path}: holds neither {kind} nor {top}; export one with Accelergy")
    tables, key = data[top], "tables" if top == kind else "table_summary"
    if not isinstance(tables, dict) or str(tables.get("version")) not in VERSIONS:
        version = tables.get("version") if isinstance(tables, dict) else None
        raise InvalidInputError(f"{path}: {top}.version: {version!r} is none of {', '.join(VERSIONS)}")
    rows = tables.get(key)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows
    ):
        raise InvalidInputError(f"{path}: {top}.{key}: must be a list of components that have a name")
    return [_component(path, row) for row in rows]


def _component(path: Path, row: Mapping[str, Any]) -> Component:
    """`system.pe[0..3].rf[1..2]` is there 4 x 2 times."""
    counts = [int(last) - int(first) + 1 for first, last in _COUNT.findall(row["name"])]
    return Component(path, _COUNT.sub("", row["name"]), math.prod(counts) if counts else None, row)


def _energies(component: Component) -> dict[str, float]:
    """Action -> pJ, the dearest of its arguments."""
    actions = component.entry.get("actions")
    if not isinstance(actions, list) or not all(
        isinstance(a, dict) and isinstance(a.get("name"), str) for a in actions
    ):
        raise InvalidInputError(f"{component.where}: actions: must be a list of actions that have a name")
    energies: dict[str, float] = {}
    for action in actions:
        name, field = action["name"], "energy" if "energy" in action else "max_energy"
        value = _number(action.get(field), f"{component.where}: {name}: energy")
        energies[name] = max(value, energies.get(name, 0.0))
    return energies


def _memory_prices(component: Component, memory: str, bits: int) -> dict[str, EnergyOverride]:
    energies = _energies(component)
    actions = {"read": _action(component, energies, ("read",)), "write": _action(component, energies, _WRITES)}
    return {
        f"{memory}.{access}_bit": EnergyOverride(
            value=energies[action] / bits,
            source=f"{component.origin}: {action} {energies[action]:g} pJ / {bits} bits",
        )
        for access, action in actions.items()
    }


def _mac_prices(component: Component, accelerator: Accelerator) -> dict[str, EnergyOverride]:
    energies = _energies(component)
    action = _action(component, energies, _COMPUTE)
    add, array = energy_table(accelerator)["add"].value, accelerator.pe_array
    multiply, widest = energies[action] - add, array.weight_bits[-1]
    if multiply < 0:
        raise InvalidInputError(
            f"{component.where}: {action} costs {energies[action]:g} pJ, less than the add of {add:g} pJ; "
            "set energy.add first"
        )
    source = f"{component.origin}: {action} {energies[action]:g} pJ less {add:g} pJ of the add"
    return {
        f"multiply_{bits}": EnergyOverride(value=multiply * bits / widest, source=f"{source}, x {bits} / {widest}")
        for bits in array.weight_bits
    }


def _action(component: Component, energies: Mapping[str, float], wanted: tuple[str, ...]) -> str:
    """The first of the wanted actions that a component has."""
    for name in wanted:
        if name in energies:
            return name
    raise InvalidInputError(
        f"{component.where}: has no action {wanted[0]!r}, only {', '.join(energies) or 'none'}; name it None to "
        "leave it out"
    )


def _action_bits(memory: Memory, accelerator: Accelerator) -> int:
    """Bits that one action moves: a word of a bank or of a DRAM's bus, of registers the widest operand."""
    if memory.kind != "registers":
        return memory.width_bits
    array = accelerator.pe_array
    widths = {"weight": array.weight_bits[-1], "input": array.input_bits, "output": array.psum_bits}
    return max(widths[operand] for operand in memory.holds)


def _instances(part: str, accelerator: Accelerator) -> int:
    if part == MAC:
        return accelerator.pe_array.pes
    return accelerator.instances(next(m for m in accelerator.memories if m.name == part))


def _number(value: Any, where: str) -> float:
    """YAML reads 1e-05, without a point, as text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InvalidInputError(f"{where}: {value!r} is no number of 0 or more")
    return number
