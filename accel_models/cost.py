"""Cost: counts x prices, per layer and for the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from accel_models.accelerator import Accelerator
from accel_models.activity import Activity, register_bits
from accel_models.energy import EnergyTable


@dataclass(frozen=True)
class LayerCost:
    """Counts of one layer and their price per component, in pJ."""

    name: str
    activity: Activity
    energy_pj: Mapping[str, float]

    @property
    def total_energy_pj(self) -> float:
        return sum(self.energy_pj.values())

    def to_dict(self) -> dict[str, Any]:
        activity = self.activity
        accesses = {
            memory: {operand: {"reads": a.reads, "writes": a.writes} for operand, a in operands.items()}
            for memory, operands in activity.accesses.items()
        }
        return {
            "name": self.name,
            "latency_cycles": activity.latency_cycles,
            "compute_cycles": activity.compute_cycles,
            "stall_cycles": dict(activity.stall_cycles),
            "energy_pj": dict(self.energy_pj),
            "accesses": accesses,
            "macs": asdict(activity.macs),
            "utilization": activity.utilization,
            "mapping": activity.mapping,
        } | ({} if activity.sparse is None else {"sparse": activity.sparse.to_dict()})


@dataclass(frozen=True)
class NetworkCost:
    """A network on an accelerator: layers run one after the other; tensors between them pass through DRAM unless the
    accelerator keeps them on chip."""

    accelerator: Accelerator
    workload: str
    layers: tuple[LayerCost, ...]
    area_mm2: float
    peak_activation_bytes: int
    """The most bytes of activations that exist at once: with so much memory none is spilled."""

    @property
    def latency_cycles(self) -> int:
        return sum(layer.activity.latency_cycles for layer in self.layers)

    @property
    def latency_ms(self) -> float:
        return self.latency_cycles / (self.accelerator.clock_mhz * 1e3)

    @property
    def energy_pj(self) -> float:
        return sum(layer.total_energy_pj for layer in self.layers)

    @property
    def dram_bytes(self) -> int:
        """Bytes moved to and from DRAM, metadata included; a started byte counts."""
        bits = 0
        for layer in self.layers:
            bits += sum(access.moved_bits for access in layer.activity.accesses[self.accelerator.dram.name].values())
        return -(-bits // 8)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as stored, metadata included; a started byte counts."""
        return -(-sum(layer.activity.weight_bits for layer in self.layers) // 8)

    @property
    def macs(self) -> int:
        """Multiply-accumulates done."""
        return sum(layer.activity.macs.done for layer in self.layers)

    @property
    def utilization(self) -> float:
        """Multiply-accumulates done over PEs x latency."""
        return self.macs / (self.accelerator.pe_array.pes * self.latency_cycles)

    @property
    def notices(self) -> tuple[str, ...]:
        """What the accelerator could not exploit."""
        return tuple(layer.activity.notice for layer in self.layers if layer.activity.notice)

    def energy_by_component(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        for layer in self.layers:
            for component, value in layer.energy_pj.items():
                totals[component] = totals.get(component, 0.0) + value
        return totals

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `cosim simulate`."""
        return {
            "accelerator": self.accelerator.name,
            "workload": self.workload,
            "total": {
                "latency_cycles": self.latency_cycles,
                "latency_ms": self.latency_ms,
                "energy_pj": self.energy_pj,
                "dram_bytes": self.dram_bytes,
                "macs": self.macs,
                "utilization": self.utilization,
                "area_mm2": self.area_mm2,
                "peak_activation_bytes": self.peak_activation_bytes,
            },
            "notices": list(self.notices),
            "layers": [layer.to_dict() for layer in self.layers],
        }


def price_activity(activity: Activity, accelerator: Accelerator, table: EnergyTable) -> dict[str, float]:
    """Energy of a layer by component, in pJ: counts x prices, leakage x time, metadata apart."""
    energy = {
        "mac": activity.macs.done * table.mac_pj(activity.multiplier_bits, activity.input_share),
        "vector": activity.vector_operations * table["add"].value,
        "register": 0.0,
        "gather": 0.0,
    }
    metadata = 0.0
    for memory, operands in activity.accesses.items():
        if memory == "register":
            held, selected = register_bits(operands)
            energy["register"] = held * table["register_bit"].value
            energy["gather"] = selected * table["gather_bit"].value
            continue
        if memory == "network":
            energy["network"] = sum(access.read_bits for access in operands.values()) * table["network.bit"].value
            continue
        for access in operands.values():
            read, write = table[f"{memory}.read_bit"].value, table[f"{memory}.write_bit"].value
            for name, bits, price in (("read", access.read_bits, read), ("write", access.write_bits, write)):
                energy[f"{memory}.{name}"] = energy.get(f"{memory}.{name}", 0.0) + bits * price
            metadata += access.metadata_read_bits * read + access.metadata_write_bits * write
    for entry, count in activity.operations.items():
        energy[entry] = energy.get(entry, 0.0) + count * table[entry].value
    energy["metadata"] = metadata
    energy["leakage"] = activity.latency_cycles * table.leakage_pj_per_cycle(accelerator.clock_mhz)
    return energy
