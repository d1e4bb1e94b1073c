"""Accelerators: what a network costs on a systolic or sparse array, in cycles, accesses, energy and area."""

from accel_models.accelerator import Accelerator, library_names, load_accelerator
from accel_models.cost import LayerCost, NetworkCost
from accel_models.designs import designs_like, evaluate_designs
from accel_models.energy import area_mm2, energy_table
from accel_models.errors import AccelError, InvalidInputError, NoMappingError, UnknownNameError
from accel_models.evaluate import simulate
from accel_models.layers import Bits, Conv2d, Gemm, VectorOp
from accel_models.sparsity import KofN
from accel_models.workload import Workload, load_workload

__all__ = [
    "AccelError",
    "Accelerator",
    "Bits",
    "Conv2d",
    "Gemm",
    "InvalidInputError",
    "KofN",
    "LayerCost",
    "NetworkCost",
    "NoMappingError",
    "UnknownNameError",
    "VectorOp",
    "Workload",
    "area_mm2",
    "designs_like",
    "energy_table",
    "evaluate_designs",
    "library_names",
    "load_accelerator",
    "load_workload",
    "simulate",
]
