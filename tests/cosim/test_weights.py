"""Users' weights: what loads, and what is refused with which words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosim.data import load_dataset
from cosim.errors import ConfigError
from cosim.files import write_tensors
from cosim.networks import build_network, load_weights
from cosim.training import evaluate

DATA = Path(os.environ.get("COSIM_DATA") or "data")


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    return build_network("digits_resnet", seed=3).state_dict()


def _saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def _same(network: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items() if name in state)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_a_state_dict_loads_plain_or_from_a_checkpoint(tmp_path, given, wrap):
    network = load_weights(build_network("digits_resnet"), _saved(tmp_path / "w.pt", wrap(given)))
    assert _same(network, given)


def test_safetensors_load(tmp_path, given):
    write_tensors(tmp_path / "w.safetensors", given)
    assert _same(load_weights(build_network("digits_resnet"), tmp_path / "w.safetensors"), given)


def test_the_prefix_of_data_parallel_is_taken_off_and_counters_may_lack(tmp_path, given):
    parallel = {f"module.{name}": tensor for name, tensor in given.items() if "num_batches" not in name}
    assert _same(load_weights(build_network("digits_resnet"), _saved(tmp_path / "w.pt", parallel)), given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"conv1.weight": torch.zeros(8, 1, 3, 3)},
            r"conv1\.weight has shape \[8, 1, 3, 3\], .* wants \[16, 1, 3, 3\]",
        ),
        ({"linear.bias": None}, r"linear\.bias \[10\] of the network is missing"),
        ({"extra": torch.zeros(2)}, r"extra \[2\] is no tensor of the network"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_name_and_shapes(tmp_path, given, change, message):
    state = {name: tensor for name, tensor in (given | change).items() if tensor is not None}
    network = build_network("digits_resnet")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        load_weights(network, _saved(tmp_path / "w.pt", state))
    assert _same(network, before)


def test_a_pickle_of_a_module_is_refused_in_one_line_unless_it_is_trusted(tmp_path, given):
    network = build_network("digits_resnet", seed=3)
    path = _saved(tmp_path / "module.pt", network)
    with pytest.raises(ConfigError, match="could run any code") as refused:
        load_weights(build_network("digits_resnet"), path)
    assert "\n" not in str(refused.value)
    assert _same(load_weights(build_network("digits_resnet"), path, trust=True), given)


def test_a_pickle_that_runs_code_does_not_run_it(tmp_path):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    with pytest.raises(ConfigError, match="could run any code"):
        load_weights(build_network("digits_resnet"), _saved(tmp_path / "w.pt", {"a": Trap()}))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "w.pt: is"),
        (b"no weights", "w.pt: is"),
        (None, r"w\.pt: cannot be read"),
    ],
)
def test_damaged_and_missing_files_are_refused_by_name(tmp_path, content, message):
    if content is not None:
        (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_weights(build_network("digits_resnet"), tmp_path / "w.pt")


def test_a_truncated_file_is_refused_by_name(tmp_path, given):
    path = _saved(tmp_path / "w.pt", given)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match=r"w\.pt: is damaged"):
        load_weights(build_network("digits_resnet"), path)


def test_numbers_that_are_no_state_dict_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds dict, not a plain state_dict"):
        load_weights(build_network("digits_resnet"), _saved(tmp_path / "w.pt", {"accuracy": 0.9}))


@pytest.mark.slow
@pytest.mark.validation
@pytest.mark.parametrize(("depth", "right"), [(20, 9173), (56, 9339)])
def test_published_weights_reach_their_accuracy_on_all_test_images(depth, right):
    """91.73 % and 93.39 %: akamaster/pytorch_resnet_cifar10; chosen by their author at the best test epoch."""
    weights = DATA / "weights" / f"resnet{depth}_cifar10.pt"
    if not weights.exists() or not (DATA / "cifar-10-batches-py" / "test_batch").exists():
        pytest.skip(f"{weights} or the test batch of CIFAR-10 is not there")
    network = load_weights(build_network(f"resnet{depth}_cifar"), weights)
    assert evaluate(network, load_dataset("cifar10", root=DATA).test) == right / 10_000
