"""Published sparse machines as settings of one array. Sizes are arguments where a paper leaves them open."""

from __future__ import annotations

from accel_models.sparse_array import SparseArray

EYERISS_V2_PE = SparseArray(
    name="eyeriss_v2_pe",
    source=(
        "Chen et al., JETCAS 2019, section IV: both operands in CSC, a non-zero input walks its column of weights. "
        "One multiplier, 8 inputs and columns of 16 outputs, as the PE of Sparseloop's validation "
        "(Accelergy-Project/micro22-sparseloop-artifact, fig12_eyerissv2_pe_setup); the chip multiplies two weights a "
        "cycle: vector_outputs: 2"
    ),
    skip="both",
    tile_outputs=16,
    segment=8,
    look_ahead=0,
    held="input",
)

EYERISS_V2 = SparseArray(
    name="eyeriss_v2",
    source=(
        "Chen et al., JETCAS 2019: 192 PEs in 16 clusters of 3 x 4, two weights a cycle. Assumed: the PEs of a cluster "
        "take different outputs, clusters different pixels, and all wait for the slowest after a whole reduction"
    ),
    skip="both",
    lane_outputs=12,
    lane_pixels=16,
    tile_outputs=16,
    vector_outputs=2,
    segment=0,
    look_ahead=0,
    held="input",
)

SCNN = SparseArray(
    name="scnn",
    source=(
        "Parashar et al., ISCA 2017: 64 PEs with planar tiles, 4 x 4 multipliers, 2 F I = 32 accumulator banks, "
        "barrier after a group of output channels. Assumed: queues of 8 updates (the paper gives no depth; 8 as in "
        "losif63/SCNN_Simulator_101), weights reach every PE in time"
    ),
    skip="both",
    lane_pixels=64,
    tile_outputs=8,
    vector_outputs=4,
    vector_pixels=4,
    segment=1,
    look_ahead=0,
    held="input",
    accumulator_banks=32,
    accumulator_queue=8,
)

STC_2_4 = SparseArray(
    name="stc_2_4",
    source=(
        "NVIDIA A100 whitepaper, 2020: a sparse tensor core selects 2 of 4 inputs by 2-bit indices; tiles that keep "
        "more than 2 take as long as dense ones. Assumed: 16 x 8 lanes"
    ),
    skip="weight",
    lane_outputs=16,
    lane_pixels=8,
    vector_reduction=2,
    segment=4,
    look_ahead=1,
    least_cycles=1,
)

DSTC = SparseArray(
    name="dstc",
    source=(
        "Wang et al., ISCA 2021: outer products of 8 x 16 values condensed by bitmaps. Tiles of 128 B, 64 values of 16 "
        "bit, on both sides. Assumed: a vector of 16 weights and its bitmap take one cycle to fetch and latch; tensor "
        "cores do not wait for each other"
    ),
    skip="both",
    tile_outputs=64,
    tile_pixels=64,
    vector_outputs=16,
    vector_pixels=8,
    segment=1,
    look_ahead=0,
    latch_cycles=1,
    held="weight",
)


def nm_systolic(n: int, rows: int = 16, cols: int = 16, width: int = 1) -> SparseArray:
    """Block-sparse systolic array: `width` of n weights a cycle, columns in lockstep.

    Any k of n runs at ceil(k / width) cycles a block; a column whose block keeps less waits for its neighbours.
    """
    return SparseArray(
        name=f"nm_systolic_{n}",
        source=(
            "in the manner of S2TA (Liu et al., HPCA 2022: k of 8 in k cycles) and VEGETA (Jeong et al., HPCA 2023: "
            "rows of the array merge blocks); output stationary, fill and drain of rows + cols - 2 cycles a fold"
        ),
        skip="weight",
        gate="input",
        lane_outputs=cols,
        lane_pixels=rows,
        vector_reduction=width,
        segment=n,
        look_ahead=1,
        least_cycles=1,
        pass_cycles=rows + cols - 2,
    )


def sparten(greedy: bool = False) -> SparseArray:
    """Inner joins of bitmasks; `greedy` pairs dense with sparse filters on a lane (GB-S of the paper)."""
    return SparseArray(
        name="sparten_greedy" if greedy else "sparten",
        source=(
            "Gondimalla et al., MICRO 2019: clusters of 32 units, chunks of 128 bits, greedy balancing in software. "
            "Assumed: an input chunk is broadcast and double buffered (look_ahead: 2), a join finds a pair every cycle"
        ),
        skip="both",
        lane_outputs=32,
        segment=128,
        look_ahead=2,
        balance="greedy" if greedy else "none",
    )


def row_gather(lanes: int = 32, banks: int = 64, window: int = 64, width: int = 1) -> SparseArray:
    """Row-balanced k-of-n gather: every lane owns an output neuron and picks its k inputs from shared banks.

    Dense rows never collide where lanes x width <= banks and the window is a multiple of the banks.
    """
    return SparseArray(
        name="row_gather",
        source=(
            "a design point of this project: the natural array of rows with a fixed number of picks; picks are known "
            "when the network is compiled, so a window of them is scheduled without conflicts (edge colouring)"
        ),
        skip="weight",
        lane_outputs=lanes,
        vector_reduction=width,
        segment=0,
        look_ahead=0,
        gather_banks=banks,
        gather_window=window,
    )


def dense_systolic(rows: int = 16, cols: int = 16, gate: bool = True) -> SparseArray:
    """Output-stationary systolic array that skips nothing."""
    return SparseArray(
        name="dense_systolic",
        source="output stationary, fill and drain of rows + cols - 2 cycles a fold",
        skip="none",
        gate="both" if gate else "none",
        lane_outputs=cols,
        lane_pixels=rows,
        look_ahead=0,
        pass_cycles=rows + cols - 2,
    )
