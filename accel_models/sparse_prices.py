"""Prices and area of what sparse lanes have beside multipliers and memories: selectors, intersections, crossbars."""

from __future__ import annotations

from collections.abc import Mapping

from accel_models.sparse_array import SparseArray
from accel_models.technology import Price

CHUNK = 128
"""Indices that a join looks at together where lanes fetch no segments (SparTen: chunks of 128 bits, MICRO 2019)."""


def selected_from(array: SparseArray) -> int:
    """Inputs from which a multiplier selects one by the index of a weight; 1: it takes what comes."""
    if array.gather_banks:
        return array.gather_banks
    return array.segment if array.skip == "weight" and array.segment > 1 else 1


def joined_width(array: SparseArray) -> int:
    """Indices that an intersection looks at together; 1: no intersections (planar lanes multiply all pairs)."""
    if array.skip != "both" or array.accumulator_banks:
        return 1
    return array.segment if array.segment > 1 else CHUNK


def lane_prices(array: SparseArray, tech: Mapping[str, Price]) -> dict[str, Price]:
    """Entries `select_bit`, `scatter_bit` (an input, a product bit on its way) and `intersection` (an index of it), of
    those that the array has."""
    toggle = tech["mux2_toggle"]

    def tree(choices: int, what: str, unit: str) -> Price:
        levels = (choices - 1).bit_length()
        source = f"{toggle.source}; {levels} levels of multiplexers, {what} (an assumption; no control)"
        return Price(toggle.value * levels, unit, source)

    chosen, banks, width = selected_from(array), array.accumulator_banks or 1, joined_width(array)
    entries = {
        "select_bit": (chosen, f"one of {chosen} inputs", "pJ/bit"),
        "scatter_bit": (banks, f"one of {banks} accumulator banks", "pJ/bit"),
        "intersection": (width, f"a priority encoder over {width} indices", "pJ"),
    }
    return {name: tree(*entry) for name, entry in entries.items() if entry[0] > 1}


def lane_area_um2(array: SparseArray, tech: Mapping[str, float], input_bits: int, psum_bits: int) -> float:
    """Trees of 2-to-1 multiplexers of the prices above, for all lanes; no control and no wires."""
    mux = tech["mux2_area"]
    select = array.multipliers * input_bits * (selected_from(array) - 1)
    scatter = array.multipliers * psum_bits * (max(1, array.accumulator_banks) - 1)
    width = joined_width(array)
    join = array.lanes * (width - 1) * (width - 1).bit_length()
    return mux * (select + scatter + join)
