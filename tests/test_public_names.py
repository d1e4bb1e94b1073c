"""The public names of the packages: each exists, and nothing of the project's that is imported there is left out."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest


@pytest.mark.parametrize("package", ["accel_models", "search", "cosim.pruning", "cosim.data", "cosim.networks"])
def test_all_names_what_the_package_imports(package: str):
    module = importlib.import_module(package)
    project = package.split(".")[0]
    imported = {
        name
        for name, value in vars(module).items()
        if name != "__getattr__"
        and not isinstance(value, ModuleType)
        and str(getattr(value, "__module__", "")).startswith(project)
    }
    assert imported <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
