"""Tables of masked trainings: interrupted ones go on, others are refused; what the energy of a k is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from accel_models import KofN, load_accelerator, simulate
from benchmarks.dpp_accuracy import MNIST, energy_of
from benchmarks.dpp_released import NETWORKS, TILED, EightBit, released_plans
from benchmarks.dpp_tables import Data, Tables, conv_plans, masked_run, row_plans
from cosim.data import Split, load_dataset
from cosim.errors import ConfigError
from cosim.extract import extract_workload
from cosim.networks import build_network
from cosim.pruning.mask_methods import DynamicProbabilistic
from cosim.training import fit
from tests.cosim.dpp_cases import one_thread  # noqa: F401  a fixture


def digits() -> Data:
    found = load_dataset("digits")
    return Data(found.train, found.test)


def test_a_table_keeps_its_rows_and_runs_only_what_is_missing(tmp_path: Path) -> None:
    network, path, setting = build_network("digits_resnet"), tmp_path / "rows.json", replace(MNIST, epochs=1)
    run = masked_run(network, DynamicProbabilistic, conv_plans(network, "2:4"), digits(), setting, 0)
    Tables(path, setting).add({"method": "dpp"}, run)
    again = Tables(path, setting)
    again.add({"method": "dpp"}, lambda: pytest.fail("it is there"))
    assert [row["density"] for row in again.rows] == [pytest.approx(0.5, abs=0.01)]
    assert again.rows[0]["test_accuracy"] > 0.2
    with pytest.raises(ConfigError, match=r"settings\.lr is 0\.0015, this run has 0\.1"):
        Tables(path, replace(setting, lr=0.1))


@pytest.mark.parametrize("name", NETWORKS.values())
def test_the_released_masks_fit_both_networks_and_leave_the_outputs_alone(name: str) -> None:
    network = build_network(name)
    assert network(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    plans = released_plans(network.get_parameter("fc1.weight").shape[1])
    for target, layers in plans.items():
        method = EightBit() if target == TILED else DynamicProbabilistic()
        fresh = build_network(name)
        method.attach(fresh, layers, seed=0)
        masks = method.finish(fresh)
        assert set(masks) == set(layers)
        assert ("fc2" in masks) == ("outputs" in target)
        assert {int(rows) for rows in masks["fc1"].sum(1)} == {50 if target == TILED else 10}


def test_refitted_weights_keep_more_before_any_training() -> None:
    data, setting, network = digits(), replace(MNIST, epochs=0), build_network("digits_resnet")
    fit(network, data.train, setting.recipe(4), seed=0)
    plans, images = conv_plans(network, "1:4"), data.train.batch(slice(0, 256))
    runs = [masked_run(network, DynamicProbabilistic, plans, data, setting, 0, start) for start in (None, images)]
    plain, refitted = (run()["test_accuracy"] for run in runs)
    assert refitted > plain + 0.1


def test_energy_of_k_is_that_of_a_simulation_with_those_rows() -> None:
    network, data = build_network("lenet_300_100"), torch.zeros(2, 1, 28, 28)
    split = Split(data, torch.zeros(2, dtype=torch.long))
    energy = energy_of(network, Data(split, split), "row_gather")
    ks = {"fc1": 39, "fc2": 15, "fc3": 5}
    structures = {
        name: KofN(granularity="weight", k=ks[name], n=plan.n) for name, plan in row_plans(network, 1).items()
    }
    workload = extract_workload(network, data[:1], "lenet")
    whole = simulate(load_accelerator("row_gather"), workload, structures).energy_pj
    assert energy(ks) == pytest.approx(whole)
