"""What a command imports: a simulation of a shipped network waits for numba, not for torch."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "optuna", "sklearn", "matplotlib", "plotly", "pandas")
SCIPY = ("scipy.optimize", "scipy.stats", "scipy.special", "scipy.sparse")
"""numba imports scipy and scipy.linalg by itself, before it loads its first kernel."""
LIST_MODULES = """
import sys
from cosim.cli import main
try:
    main()
except SystemExit as ended:
    print("CODE", ended.code)
print("MODULES", *sys.modules)
"""
TOPOLOGY = """Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
conv,9,9,3,3,4,8,1,
"""


def modules_after(*arguments: str) -> set[str]:
    """Names in sys.modules when a command in a process of its own is done."""
    command = [sys.executable, "-c", LIST_MODULES, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *_, code, modules = done.stdout.splitlines()
    assert code == "CODE 0", done.stderr
    return set(modules.split()[1:])


def test_simulating_a_shipped_network_imports_neither_torch_nor_the_search():
    modules = modules_after("simulate", "-a", "edge_os_16x16", "-w", "resnet20_cifar")
    assert "numba" in modules  # the command did its work
    assert modules.isdisjoint((*HEAVY, *SCIPY, "search", "cosim.extract", "cosim.networks.registry"))


def test_simulating_a_topology_imports_neither_torch_nor_the_search(tmp_path: Path):
    topology = tmp_path / "net.csv"
    topology.write_text(TOPOLOGY)
    modules = modules_after("simulate", "-a", "edge_os_16x16", "-w", str(topology))
    assert "numba" in modules
    assert modules.isdisjoint((*HEAVY, *SCIPY, "search", "cosim.extract", "cosim.networks.registry"))


def test_the_list_of_accelerators_needs_no_torch():
    assert modules_after("accelerators").isdisjoint((*HEAVY, *SCIPY, "search"))


@pytest.mark.parametrize("arguments", [("--help",), ("simulate", "--help")])
def test_help_needs_no_numbers_at_all(arguments: tuple[str, ...]):
    assert modules_after(*arguments).isdisjoint((*HEAVY, "scipy", "numpy", "numba", "networkx"))


def test_a_shipped_workload_is_read_without_torch_numba_and_networkx():
    code = (
        "import sys; from cosim.networks import network_workload as read; read('resnet56_cifar'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint((*HEAVY, "scipy", "numba", "networkx"))


@pytest.mark.parametrize("package", ["accel_models", "cosim.networks"])
def test_names_imported_on_demand_are_those_the_types_and_all_name(package: str):
    module = importlib.import_module(package)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    typed = {
        (node.module, alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    on_demand = {(f"{package}.{home}", name) for home, names in module._MODULES.items() for name in names}
    assert on_demand == typed
    assert sorted(name for _, name in typed) == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)


@pytest.mark.parametrize("package", ["accel_models", "cosim.networks"])
def test_an_unknown_name_of_a_package_is_an_attribute_error(package: str):
    with pytest.raises(AttributeError, match="nope"):
        importlib.import_module(package).nope  # noqa: B018
