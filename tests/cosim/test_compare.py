"""Masks, densities, granularities and array edges as `cosim simulate` reads and shows them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from accel_models.accelerator import load_accelerator
from accel_models.activation_masks import activation_mask
from accel_models.errors import InvalidInputError
from accel_models.evaluate import simulate
from accel_models.layers import Conv2d, Gemm
from accel_models.masks import weight_mask
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from cosim.commands.compare import run_compare, show_edges, show_masks, show_sparse
from cosim.commands.zeros import ZeroFiles, Zeros, parse_densities, read_masks, read_zeros, simulate_zeros
from cosim.errors import ConfigError

NETWORK = Workload(
    name="net",
    layers=(
        Conv2d(name="conv", k=20, c=8, p=6, q=6, r=3, s=3, padding=(1, 1)),
        Gemm(name="fc", m=1, n=10, k=720),
    ),
    edges=(("conv", "fc"),),
)
rng = np.random.default_rng(0)
KEPT = rng.random((20, 8, 3, 3)) < 0.4


def shown(work: object, *arguments: object) -> str:
    console = Console(file=io.StringIO(), width=160)
    work(*arguments, console)  # type: ignore[operator]
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32])
@pytest.mark.parametrize("ending", ["", ".weight", ".mask"])
def test_masks_are_read_by_layer_name(tmp_path: Path, dtype: type, ending: str):
    save_file({f"conv{ending}": KEPT.astype(dtype), "conv.bias": np.ones(20, np.float32)}, tmp_path / "m.safetensors")
    found = read_masks(tmp_path / "m.safetensors", NETWORK)
    assert list(found.masks) == ["conv"]
    assert found.masks["conv"].nonzeros == KEPT.sum()
    assert found.notices == ()


def test_weights_count_by_their_zeros_and_the_user_is_told(tmp_path: Path):
    values = np.where(KEPT, rng.normal(size=KEPT.shape), 0.0).astype(np.float32)
    save_file({"conv.weight": values}, tmp_path / "w.safetensors")
    found = read_masks(tmp_path / "w.safetensors", NETWORK)
    assert found.masks["conv"].nonzeros == KEPT.sum()
    assert "1 tensors hold weights, no masks" in found.notices[0]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"other": KEPT}, "tensor 'other' is of no layer of 'net'; its layers with weights: conv, fc"),
        ({"conv.bias": np.ones(20, np.float32)}, "holds no tensor with two axes"),
    ],
)
def test_tensors_of_no_layer_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], message: str):
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(ConfigError) as caught:
        read_masks(tmp_path / "m.safetensors", NETWORK)
    assert message in str(caught.value)


def test_a_mask_of_another_shape_names_the_layer(tmp_path: Path):
    save_file({"conv": KEPT[:7]}, tmp_path / "m.safetensors")
    with pytest.raises(InvalidInputError, match=r"layer 'conv': mask of shape \(7, 8, 3, 3\)"):
        read_masks(tmp_path / "m.safetensors", NETWORK)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path):
    (tmp_path / "m.safetensors").write_text("nothing")
    with pytest.raises(ConfigError, match="no safetensors file"):
        read_masks(tmp_path / "m.safetensors", NETWORK)


def test_densities_come_from_options_and_files(tmp_path: Path):
    (tmp_path / "d.json").write_text(json.dumps({"fc": 0.2}))
    assert parse_densities(["0.5", str(tmp_path / "d.json"), "conv=0.3"], NETWORK) == {"conv": 0.3, "fc": 0.2}


@pytest.mark.parametrize("text", ["conv=half", "x"])
def test_a_density_that_is_no_number_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"use layer=0\.4"):
        parse_densities([text], NETWORK)


def test_a_density_file_without_numbers_is_refused(tmp_path: Path):
    (tmp_path / "d.json").write_text('{"fc": "half"}')
    with pytest.raises(ConfigError, match="a number for every layer"):
        parse_densities([str(tmp_path / "d.json")], NETWORK)


def test_the_table_shows_every_granularity_and_the_json_holds_the_same(tmp_path: Path):
    text = shown(
        lambda console: run_compare(load_accelerator("row_gather"), NETWORK, 0.5, tmp_path / "out.json", console)
    )
    data = json.loads((tmp_path / "out.json").read_text())
    for item in data["granularities"]:
        assert item["granularity"] in text
    assert {item["granularity"] for item in data["granularities"]} >= {"dense", "unstructured", "filter"}
    assert "saves energy below" in text


def test_masks_keep_the_structure_of_a_plan_unless_they_break_it(tmp_path: Path):
    half = np.zeros((20, 8, 3, 3), np.bool_)
    half[:, ::2] = True
    structures = {"conv": KofN(granularity="kernel", k=4, n=8), "fc": KofN(granularity="weight", k=1, n=2)}
    save_file({"conv": half}, tmp_path / "kept.safetensors")
    kept = read_zeros(ZeroFiles(masks=tmp_path / "kept.safetensors"), NETWORK, structures)
    assert (kept.structures, kept.notices) == (structures, ())
    assert kept.estimate().structures == structures
    save_file({"conv": KEPT}, tmp_path / "broken.safetensors")
    broken = read_zeros(ZeroFiles(masks=tmp_path / "broken.safetensors"), NETWORK, structures)
    assert broken.structures == {"fc": structures["fc"]}
    assert broken.estimate().structures["conv"] == KEPT.mean()
    assert "layer 'conv': row 0" in broken.notices[0]
    assert broken.notices[0].endswith("it counts as an unstructured mask")
    costs = [simulate_zeros(load_accelerator("row_gather"), NETWORK, zeros) for zeros in (kept, broken)]
    stored = [cost.layers[0].activity.weight_bits for cost in costs]
    assert stored[0] == KEPT.size // 2 * 8 + 20 * 4 * 3  # fixed rows: an index a kernel, no pointers
    assert stored[1] > KEPT.sum() * 8 + KEPT.sum() * 6  # CSR


def test_masks_and_estimates_stand_side_by_side_by_layer_and_in_all():
    rng_ = np.random.default_rng(3)
    zeros = Zeros(
        structures={},
        masks={"conv": weight_mask(KEPT, NETWORK.layers[0])},
        activation_masks={"fc": activation_mask(rng_.random((2, 720)) < 0.3, NETWORK.layers[1])},
        densities={"conv": 0.5},
    )
    cost, estimate = (simulate_zeros(load_accelerator("sparten"), NETWORK, each) for each in (zeros, zeros.estimate()))
    text = shown(show_masks, cost, estimate, zeros)
    assert "weights kept" in text
    assert "inputs kept" in text
    for one in (cost, estimate):
        assert f"{one.latency_cycles:,}" in text
        for layer in one.layers:
            assert f"{layer.activity.latency_cycles:,}" in text
            assert f"{layer.activity.macs.done:,}" in text
    assert (
        estimate.layers
        == simulate(
            load_accelerator("sparten"),
            NETWORK,
            {"conv": zeros.masks["conv"].density},
            densities={"conv": 0.5, "fc": zeros.activation_masks["fc"].density},
        ).layers
    )


def test_exact_and_expected_cycles_are_shown_together(tmp_path: Path):
    save_file({"conv": KEPT}, tmp_path / "m.safetensors")
    masks = read_masks(tmp_path / "m.safetensors", NETWORK).masks
    cost = simulate(load_accelerator("nm_systolic"), NETWORK, masks=masks)
    assert "masks of 1 layers:" in shown(show_sparse, cost)
    assert shown(show_sparse, simulate(load_accelerator("nm_systolic"), NETWORK)) == ""


def test_edges_name_the_next_useful_channel_counts():
    text = shown(show_edges, load_accelerator("edge_os_16x16"), NETWORK)
    assert "lost to folds that are not full" in text
    assert "20 output channels (16 save a fold, 32 cost no more)" in text
