"""Comparison with the Eyeriss chip, JSSC 2017, Table V: latency, power and active PEs of AlexNet's convolutions.

The mapping of every layer is found by the row-stationary optimiser; strips may be narrower than the array, as on the
chip (section IV.A). Power is energy on chip, DRAM excluded, over the modelled latency. Nothing is fitted to rows.

Two mechanisms stand beside the counts. The clock network takes the same power in every layer. And a zero input stops
the read of the weight scratchpad and the multiplier (V.C); zeros are rare in conv1 and many from conv3 on.

Left out: leakage, control, I/O pads, writes of the scratchpads by the network, run-length coding.
"""

from __future__ import annotations

from pathlib import Path

from accel_models.layers import Conv2d
from accel_models.row_stationary import (
    RowStationaryArray,
    RowStationaryPrices,
    RowStationaryResult,
    RowStationarySpace,
    optimal_mapping,
)
from accel_models.validation.data import reference_file
from accel_models.validation.eyeriss_isca16 import alexnet, read_table
from accel_models.validation.result import Figures, ValidationResult, summarize

NAME = "eyeriss_jssc17"
SOURCE = "Chen, Krishna, Emer, Sze, JSSC 52(1) 2017, Table V (figures: stanford-mast/nn_dataflow, test_eyeriss_isscc16)"

BATCH = 4
CLOCK_MHZ = 200
ARRAY = RowStationaryArray(
    name="Eyeriss chip",
    rows=12,
    cols=14,
    rf_bytes=(2 * 12, 2 * 224, 2 * 24),
    glb_bytes=100 * 1024,
    filter_glb_bytes=8 * 1024,
    glb_bank_bytes=4 * 1024,
    noc_words_per_cycle=(1, 4, 4),
)
"""Section V of the paper: 168 PEs with 12, 224 and 24 words of 16 bit; GLB of 100 kB in 25 banks, each for inputs or
partial sums, and 8 kB for the weights of the next pass; networks of 16 (inputs) and 64 bit (weights, partial sums in
and out)."""
CLOCK_NETWORK_MW = 108
"""The clock network takes 32.9 to 45.0 % of the chip's power (Fig. 16, read second-hand), so 91 to 125 mW of the
278 mW of the abstract; here the middle. Both layers of the figure agree: 109 mW in conv1, where the chip takes most and
the share is least, and 106 mW in conv5. It stands for the 30 mW of nn_dataflow."""
PRICES = RowStationaryPrices(mac=2, rf=1, noc=4, glb=15, dram=460, idle=CLOCK_NETWORK_MW * 1e3 / CLOCK_MHZ)
"""pJ, of 16 bit and of a cycle: those of nn_dataflow's comparison with the same table, but the clock network."""
ZEROS = {"conv1": 0.001, "conv2": 0.4, "conv3": 0.725, "conv4": 0.793, "conv5": 0.77}
"""Share of zero inputs of AlexNet's layers: 1 - density of the inputs in Accelergy-Project/micro22-sparseloop-artifact,
table7_eyeriss_setup (commit de0374aa); JSSC 2017, IV.B: almost 40 % in conv2, around 75 % in conv5."""
SPACE = RowStationarySpace(narrow_strips=True)

LATENCY_BAR = 0.10
POWER_BAR = 0.25
COLUMNS = {"processing_latency_ms": "latency", "power_mW": "power", "active_pes": "active PEs"}


def validate(path: Path | None = None, cases: int | None = 20) -> ValidationResult:
    """Compare processing latency, power and active PEs of every layer.

    Parameters
    ----------
    path : Path, optional
        A CSV file with the columns layer, processing_latency_ms, power_mW, active_pes; by default the one beside the
        project.
    cases : int or None
        Cases to keep, the worst first; None: all, three a layer.

    Raises
    ------
    InvalidInputError
        No such file, a missing or unreadable field, or a layer that AlexNet does not have; names file and line.
    """
    rows = read_table(reference_file("published/eyeriss_jssc17_table5_alexnet_chip.csv", SOURCE, path), COLUMNS)
    layers = alexnet(BATCH)
    results = [map_layer(layers[name]) for name in rows]
    model = {
        "processing_latency_ms": [latency_ms(result) for result in results],
        "power_mW": [power_mw(result, ZEROS[name]) for name, result in zip(rows, results, strict=True)],
        "active_pes": [float(result.active_pes) for result in results],
    }
    latency, power, pes = (
        Figures(
            quantity=column,
            cases=list(rows),
            reference=[row[column] for row in rows.values()],
            model=model[column],
            exact=column == "active_pes",
        )
        for column in COLUMNS
    )
    passed = (
        latency.compare().max_abs_error <= LATENCY_BAR
        and power.compare().max_abs_error <= POWER_BAR
        and pes.compare().exact_share == 1.0
    )
    return summarize(NAME, SOURCE, [latency, power, pes], passed=passed, cases=cases)


def map_layer(layer: Conv2d) -> RowStationaryResult:
    """The mapping of least energy, DRAM included."""
    return optimal_mapping(layer, ARRAY, PRICES, space=SPACE)


def latency_ms(result: RowStationaryResult) -> float:
    return result.latency_cycles / (CLOCK_MHZ * 1e3)


def power_mw(result: RowStationaryResult, zeros: float) -> float:
    """Of the chip: everything but DRAM, less what a share of zero inputs gates."""
    gated = zeros * result.counts.macs * (PRICES.mac + PRICES.rf)  # a multiplication, a read of the weight scratchpad
    return (result.total_energy - result.energy["dram"] - gated) / latency_ms(result) * 1e-6
