"""Sparse machines by name: lanes of the accelerators in the library, and variants of them.

The library's files are the only place that knows a machine's numbers and their sources; here they get a name in Python,
and arguments where a paper leaves sizes open.
"""

from __future__ import annotations

from dataclasses import replace

from accel_models.accelerator import load_accelerator
from accel_models.errors import InvalidInputError
from accel_models.sparse_array import SparseArray


def library_array(name: str) -> SparseArray:
    """Lanes of a sparse accelerator of the library.

    Raises
    ------
    InvalidInputError
        The accelerator has no lanes.
    """
    machine = load_accelerator(name)
    if machine.lanes is None:
        raise InvalidInputError(f"accelerator {name!r}: dataflow {machine.pe_array.dataflow} has no lanes; use sparse")
    return replace(machine.lanes.array, name=name, source=machine.source)


EYERISS_V2, SCNN, DSTC = (library_array(name) for name in ("eyeriss_v2", "scnn", "dstc"))
STC_2_4 = library_array("sparse_tensor_core_2_4")

EYERISS_V2_PE = replace(
    EYERISS_V2,
    name="eyeriss_v2_pe",
    source=(
        "one PE of Chen et al., JETCAS 2019, section IV, as in Sparseloop's validation (Accelergy-Project/"
        "micro22-sparseloop-artifact, fig12_eyerissv2_pe_setup): one multiplier, 8 inputs and columns of 16 outputs; "
        "the chip multiplies two weights a cycle"
    ),
    lane_outputs=1,
    lane_pixels=1,
    vector_outputs=1,
    segment=8,
)


def nm_systolic(n: int, rows: int = 16, cols: int = 16, width: int = 1) -> SparseArray:
    """Block-sparse systolic array of the library: `width` of n weights a cycle, columns in lockstep.

    Any k of n runs at ceil(k / width) cycles a block; a column whose block keeps less waits for its neighbours.
    """
    return replace(
        library_array("nm_systolic"),
        name=f"nm_systolic_{n}",
        lane_outputs=cols,
        lane_pixels=rows,
        vector_reduction=width,
        segment=n,
        pass_cycles=rows + cols - 2,
    )


def sparten(greedy: bool = False) -> SparseArray:
    """Inner joins of bitmasks; `greedy` pairs dense with sparse filters on a lane (GB-S of Gondimalla et al., 2019)."""
    array = library_array("sparten")
    return replace(array, name="sparten_greedy", balance="greedy") if greedy else array


def row_gather(lanes: int = 32, banks: int = 64, window: int = 64, width: int = 1) -> SparseArray:
    """Row-balanced k-of-n gather: every lane owns an output neuron and picks its k inputs from shared banks.

    Dense rows never collide where lanes x width <= banks and the window is a multiple of the banks.
    """
    return replace(
        library_array("row_gather"),
        lane_outputs=lanes,
        vector_reduction=width,
        gather_banks=banks,
        gather_window=window,
    )


def dense_systolic(rows: int = 16, cols: int = 16, gate: bool = True) -> SparseArray:
    """Output-stationary systolic array that skips nothing; fill and drain of rows + cols - 2 cycles a fold."""
    return SparseArray(
        name="dense_systolic",
        skip="none",
        gate="both" if gate else "none",
        lane_outputs=cols,
        lane_pixels=rows,
        look_ahead=0,
        pass_cycles=rows + cols - 2,
    )
