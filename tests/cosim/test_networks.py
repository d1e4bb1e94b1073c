import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import fx, nn

from cosim.data import dataset_names
from cosim.errors import ConfigError
from cosim.networks import build_network, network_entry, network_example, network_input_shape, network_names

_OUTPUTS = {"imagefolder": (1000,), None: (128, 256)}
"""Of one input, by data set; ten classes elsewhere."""


@pytest.mark.parametrize("name", network_names())
def test_every_network_gives_logits_of_its_data_set_and_runs_the_same_traced(name):
    network, example = build_network(name, seed=0).eval(), network_example(name, batch=2)
    if example.is_floating_point():
        example = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, traced = network(example), fx.symbolic_trace(network)(example)
    assert logits.shape == (2, *_OUTPUTS.get(network_entry(name).dataset, (10,)))
    assert torch.equal(logits, traced)
    assert not torch.equal(logits[0], logits[1]) or not example.is_floating_point()


def test_the_usual_data_set_of_every_network_is_one_that_ships():
    assert {network_entry(name).dataset for name in network_names()} <= {*dataset_names(), None}
    assert all(network_entry(name).description for name in network_names())


def test_attention_is_visible_to_a_tracer():
    for name, blocks in (("vit_tiny", 12), ("gpt_small", 4)):
        nodes = fx.symbolic_trace(build_network(name)).graph.nodes
        assert sum(node.target is F.scaled_dot_product_attention for node in nodes) == blocks


def test_a_token_of_the_causal_network_knows_only_those_before_it():
    network = build_network("gpt_small").eval()
    tokens = torch.randint(256, (1, 16), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[0, 10] = (other[0, 10] + 1) % 256
    with torch.no_grad():
        before, after = network(tokens), network(other)
    assert torch.equal(before[0, :10], after[0, :10])
    assert not torch.allclose(before[0, 10:], after[0, 10:])


def test_a_head_can_be_taken_from_the_projections():
    """One of three: the fused and the output projection become smaller, and nothing else changes."""
    network = build_network("vit_tiny").eval()
    attention = network.blocks[0].attn
    x = torch.randn(1, 5, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention.proj.weight[:, 64:128] = 0
        expected = attention(x)
        kept = torch.tensor([i for i in range(3 * 192) if i % 192 < 64 or i % 192 >= 128])
        attention.qkv.weight = nn.Parameter(attention.qkv.weight[kept])
        attention.qkv.bias = nn.Parameter(attention.qkv.bias[kept])
        attention.proj.weight = nn.Parameter(attention.proj.weight[:, kept[:128]])
        torch.testing.assert_close(attention(x), expected)


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


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lenet_300_100", 266_610),  # Han et al., arXiv 1506.02626, Table 1: 267 K
        ("lenet5", 431_080),  # the same table: 431 K
        ("vgg16_cifar", 14_728_266),  # kuangliu/pytorch-cifar
        ("resnet20_cifar", 269_722),  # akamaster/pytorch_resnet_cifar10, as all option-A networks: 0.27 M in He et al.
        ("resnet32_cifar", 464_154),
        ("resnet44_cifar", 658_586),
        ("resnet56_cifar", 853_018),
        ("resnet110_cifar", 1_727_962),
        ("resnet18_cifar", 11_173_962),  # kuangliu/pytorch-cifar
        ("densenet40_cifar", 1_059_298),  # the network of lmbxmu/HRank: stem of 24 filters
        ("googlenet_cifar", 6_166_250),  # kuangliu/pytorch-cifar
        ("mobilenet_v2", 3_504_872),  # torchvision, as the next three: table of its model cards
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("shufflenet_v2", 2_278_604),
        ("vit_tiny", 5_717_416),  # timm, vit_tiny_patch16_224
    ],
)
def test_networks_have_the_published_parameters(name, parameters):
    assert sum(p.numel() for p in build_network(name, 0).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet50", ("conv1.weight", "layer1.0.downsample.1.running_mean", "layer4.2.conv3.weight", "fc.bias")),
        ("resnet18", ("bn1.weight", "layer2.0.downsample.0.weight", "layer4.1.bn2.running_var", "fc.weight")),
        ("mobilenet_v2", ("features.0.0.weight", "features.1.conv.0.0.weight", "features.1.conv.1.weight",
                          "features.2.conv.2.weight", "features.17.conv.3.bias", "features.18.1.bias",
                          "classifier.1.weight")),
        ("shufflenet_v2", ("conv1.0.weight", "stage2.0.branch1.0.weight", "stage2.0.branch1.3.bias",
                           "stage3.7.branch2.5.weight", "stage4.3.branch2.6.weight", "conv5.1.bias", "fc.weight")),
        ("vit_tiny", ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.11.attn.qkv.bias",
                      "blocks.0.attn.proj.weight", "blocks.5.mlp.fc1.weight", "blocks.5.mlp.fc2.bias", "norm.weight",
                      "head.weight")),
        ("gpt_small", ("wte.weight", "wpe.weight", "h.3.ln_1.weight", "h.3.attn.c_attn.weight", "h.0.attn.c_proj.bias",
                       "h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight", "ln_f.bias", "lm_head.weight")),
    ],
)  # fmt: skip
def test_parameters_have_the_names_of_the_usual_checkpoints(name, keys):
    """torchvision's, timm's and GPT-2's (transformers) names."""
    assert set(keys) <= set(build_network(name).state_dict())


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
