import pytest
import torch

from cosim.errors import ConfigError
from cosim.networks import build_network, network_input_shape, network_names


@pytest.mark.parametrize("name", network_names())
def test_every_network_gives_ten_logits(name):
    network = build_network(name, seed=0)
    assert network(torch.zeros(2, *network_input_shape(name))).shape == (2, 10)


def _weights(name, seed):
    return torch.cat([p.detach().flatten() for p in build_network(name, seed).parameters()])


@pytest.mark.parametrize("name", network_names())
def test_same_seed_same_weights_and_other_seed_other_weights(name):
    assert torch.equal(_weights(name, 0), _weights(name, 0))
    assert not torch.equal(_weights(name, 0), _weights(name, 1))


def test_building_leaves_the_global_random_state():
    before = torch.get_rng_state()
    build_network("digits_resnet", seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_digits_resnet_halves_the_image_twice_and_doubles_the_channels():
    network, sizes = build_network("digits_resnet", seed=0), []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, output: sizes.append(tuple(output.shape[1:])))
    network(torch.zeros(1, 1, 8, 8))
    assert sizes == [(16, 8, 8), (32, 4, 4), (64, 2, 2)]


@pytest.mark.parametrize(("name", "parameters"), [("resnet20_cifar", 269_722), ("resnet56_cifar", 853_018)])
def test_cifar_resnets_have_the_published_parameters(name, parameters):
    """269,722 and 853,018: the published checkpoints of akamaster/pytorch_resnet_cifar10."""
    assert sum(p.numel() for p in build_network(name, 0).parameters()) == parameters


def test_cifar_checkpoint_keys_load_strictly():
    network = build_network("resnet20_cifar", 0)
    plain = {key: value for key, value in network.state_dict().items() if "num_batches_tracked" not in key}
    assert "layer2.0.bn2.running_var" in plain
    assert "linear.bias" in plain
    assert len(plain) == 97  # 19 convolutions, 19 normalisations of 4, linear weight and bias
    network.load_state_dict(dict(plain), strict=True)


def test_unknown_network_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'resnet20_cifar'"):
        build_network("resnet20_cifer", 0)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "user_nets.py").write_text(
        "from torch import nn\n\n"
        "def tiny():\n    return nn.Linear(4, 2)\n\n"
        "tiny.input_shape = (4,)\n\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("user_module")
def test_a_users_function_is_a_network():
    assert build_network("user_nets:tiny", 0).out_features == 2
    assert network_input_shape("user_nets:tiny") == (4,)


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user_nets:tinny", "no function 'tinny'; did you mean 'tiny'"),
        ("no_such_module:f", "module 'no_such_module' cannot be imported"),
        ("user_nets:number", r"returned int; return a torch\.nn\.Module"),
    ],
)
def test_unusable_user_functions_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        build_network(name, 0)


@pytest.mark.usefixtures("user_module")
def test_a_users_function_without_a_shape_is_told_how_to_state_it():
    with pytest.raises(ConfigError, match=r"number\.input_shape = \(C, H, W\)"):
        network_input_shape("user_nets:number")
