"""Accelerators: what a network costs on a systolic or sparse array, in cycles, accesses, energy and area.

A public name is imported when it is first asked for (PEP 562): reading a workload or an error class costs no numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accel_models.accelerator import Accelerator, library_names, load_accelerator
    from accel_models.cost import LayerCost, NetworkCost
    from accel_models.designs import designs_like, evaluate_designs
    from accel_models.energy import area_mm2, energy_table
    from accel_models.errors import AccelError, InvalidInputError, NoMappingError, UnknownNameError
    from accel_models.evaluate import simulate
    from accel_models.layers import Bits, Conv2d, Gemm, VectorOp
    from accel_models.sparsity import KofN
    from accel_models.workload import Workload, load_workload
else:
    _MODULES = {
        "accelerator": ("Accelerator", "library_names", "load_accelerator"),
        "cost": ("LayerCost", "NetworkCost"),
        "designs": ("designs_like", "evaluate_designs"),
        "energy": ("area_mm2", "energy_table"),
        "errors": ("AccelError", "InvalidInputError", "NoMappingError", "UnknownNameError"),
        "evaluate": ("simulate",),
        "layers": ("Bits", "Conv2d", "Gemm", "VectorOp"),
        "sparsity": ("KofN",),
        "workload": ("Workload", "load_workload"),
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        for module, names in _MODULES.items():
            if name in names:
                value = getattr(import_module(f"{__name__}.{module}"), name)
                globals()[name] = value  # the next look-up is a plain one
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
