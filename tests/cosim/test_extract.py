"""Networks as hardware sees them: the shapes, the work and the graph, for dense and for pruned networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from cosim.errors import PruningError, UntraceableError
from cosim.extract import check_structures, extract_workload, repeated_layers, weight_masks, weight_structures
from cosim.networks import build_network, network_names
from cosim.networks.registry import network_example
from cosim.pruning.apply import filter_plans, removable_groups, remove_filters
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.dpp import attach_masks, freeze_masks
from cosim.pruning.plan import LayerPlan, MaskPlan, PruningPlan


def traced(name: str, batch: int = 1) -> tuple[nn.Module, Tensor, Workload]:
    model, example = build_network(name).eval(), network_example(name, batch)
    return model, example, extract_workload(model, example, name)


BATCHED = {"digits_resnet", "mobilenet_v2", "gpt_small"}
"""Networks that are counted for three images, too, where it shall be quick."""
SHIPPED = [
    pytest.param(name, batch, marks=() if batch == 1 or name in BATCHED else pytest.mark.slow)
    for name in network_names()
    for batch in (1, 3)
]


@pytest.mark.parametrize(("name", "batch"), SHIPPED)
def test_macs_are_those_that_torch_counts(name: str, batch: int) -> None:
    model, example, workload = traced(name, batch)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(example)  # the counter does not know the fused kernel of the CPU
    assert workload.macs == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", network_names())
def test_every_weight_of_the_network_is_in_one_layer(name: str) -> None:
    model, _, workload = traced(name)
    weights = {
        path: module.weight.numel()
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    found = {
        layer.name: layer.weight_elements
        for layer in workload.layers
        if not isinstance(layer, VectorOp) and not (isinstance(layer, Gemm) and layer.b_source == "activation")
    }
    assert found == weights


def test_shapes_of_a_strided_convolution_and_of_the_classifier() -> None:
    layers = {layer.name: layer for layer in traced("digits_resnet")[2].layers}
    conv, linear = layers["stages.1.conv1"], layers["linear"]
    assert isinstance(conv, Conv2d)
    assert (conv.n, conv.k, conv.c, conv.p, conv.q, conv.r, conv.s) == (1, 32, 16, 4, 4, 3, 3)
    assert (conv.stride, conv.padding, conv.input_size) == ((2, 2), (1, 1), (8, 8))
    assert isinstance(linear, Gemm)
    assert (linear.m, linear.n, linear.k) == (1, 10, 64)


def test_heights_and_widths_are_not_confused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2)))
    (conv,) = extract_workload(model, torch.zeros(1, 2, 12, 5), "x").layers
    assert isinstance(conv, Conv2d)
    assert (conv.p, conv.q, conv.r, conv.s) == (6, 5, 3, 1)
    assert (conv.stride, conv.padding, conv.dilation, conv.input_size) == ((2, 1), (1, 0), (1, 2), (12, 5))


def test_edges_follow_the_tensors_through_what_is_free() -> None:
    graph = traced("digits_resnet")[2].graph
    assert list(graph.predecessors("conv1")) == []
    assert list(graph.predecessors("stages.0.conv1")) == ["conv1"]
    adds = [name for name in graph if graph.in_degree(name) == 2]
    assert [set(graph.predecessors(add)) for add in adds] == [
        {"stages.0.conv2", "conv1"},
        {"stages.1.conv2", "stages.1.shortcut.conv"},
        {"stages.2.conv2", "stages.2.shortcut.conv"},
    ]
    assert set(graph.predecessors("stages.1.conv1")) == set(graph.predecessors("stages.1.shortcut.conv")) == {adds[0]}
    assert list(graph.predecessors("linear")) == ["pool"]


def test_adds_pooling_and_padding_are_vector_work_with_their_traffic() -> None:
    layers = {layer.name: layer for layer in traced("resnet20_cifar")[2].layers}
    vectors = [layer for layer in layers.values() if isinstance(layer, VectorOp)]
    assert sorted(layer.kind for layer in vectors) == ["elementwise"] * 9 + ["pad"] * 2 + ["pool"]
    pool, pads = layers["pool"], [layer for layer in vectors if layer.kind == "pad"]
    assert isinstance(pool, VectorOp)
    assert (pool.input_elements, pool.output_elements, pool.operations) == (64 * 8 * 8, 64, 64 * 8 * 8)
    assert [(pad.input_elements, pad.output_elements) for pad in pads] == [
        (16 * 16 * 16, 32 * 16 * 16),
        (32 * 8 * 8, 64 * 8 * 8),
    ]


def test_a_pruned_network_is_extracted_with_its_pruned_shapes_and_bits() -> None:
    model, example, dense = traced("digits_resnet")
    groups = trace_channel_groups(model, example)
    layers: dict[str, LayerPlan] = {}
    for group in removable_groups(groups):
        layers |= filter_plans(group, group.size // 4)
    layers["linear"] = LayerPlan(weight_bits=3)
    plan = PruningPlan(network="digits_resnet", layers=layers)
    pruned = remove_filters(model, example, plan, groups)
    workload = extract_workload(pruned, example, "digits_resnet", plan)
    found = {layer.name: layer for layer in workload.layers}
    for layer in dense.layers:
        small = found[layer.name]
        if isinstance(layer, Conv2d):
            assert isinstance(small, Conv2d)
            assert small.k == layer.k // 4
            assert small.c == (1 if layer.name == "conv1" else layer.c // 4)
            assert small.bits.weight == 8
    assert found["linear"].bits.weight == 3
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pruned(example)
    assert workload.macs == counter.get_total_flops() // 2


def test_structures_are_the_masks_of_the_plan() -> None:
    mask = MaskPlan(granularity="weight", k=2, n=8)
    layers = {"stages.0.conv1": LayerPlan(mask=mask), "linear": LayerPlan(weight_bits=4)}
    found = weight_structures(PruningPlan(network="x", layers=layers))
    assert found == {"stages.0.conv1": KofN(granularity="weight", k=2, n=8)}


def test_masks_that_do_not_fit_are_refused_by_layer() -> None:
    workload = traced("digits_resnet")[2]
    for name, structure, message in (
        ("conv1", KofN(granularity="weight", k=1, n=10), r"layers\.conv1\.mask.*use n <= 9"),
        ("conv1", KofN(granularity="kernel", k=1, n=2), r"layers\.conv1\.mask.*needs n = 1"),
        ("pool", KofN(granularity="kernel", k=1, n=2), r"layers\.pool: the network has no such"),
        ("nope", KofN(granularity="kernel", k=1, n=2), r"layers\.nope: the network has no such"),
    ):
        with pytest.raises(PruningError, match=message):
            check_structures(workload, {name: structure})


class _Wrapped(nn.Module):
    def __init__(self, operation: object) -> None:
        super().__init__()
        self.conv, self.operation = nn.Conv2d(1, 2, 3), operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self.conv(x))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("operation", "named"),
    [
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: F.conv2d(x, x.mean((2, 3), keepdim=True)), "weights are computed"),
        (nn.ConvTranspose2d(2, 2, 3), "ConvTranspose2d"),
        (nn.Bilinear(6, 6, 3), "argument|Bilinear|run on the example"),
    ],
)
def test_an_operator_without_cost_model_is_named(operation: object, named: str) -> None:
    with pytest.raises(UntraceableError, match=named):
        extract_workload(_Wrapped(operation), torch.zeros(1, 1, 8, 8), "x")


def test_a_network_that_branches_on_values_is_refused() -> None:
    with pytest.raises(UntraceableError, match=r"cannot be traced .*x\.sum\(\) > 0"):
        extract_workload(_Wrapped(lambda x: x if x.sum() > 0 else -x), torch.zeros(1, 1, 8, 8), "x")


def test_extraction_leaves_modes_and_statistics_as_they_were() -> None:
    model = build_network("digits_resnet").train()
    model.get_submodule("bn1").eval()  # frozen, as users do
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    extract_workload(model, torch.randn(2, 1, 8, 8), "x")
    assert model.training
    assert not model.get_submodule("bn1").training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_attention_is_two_products_of_activations_with_a_group_for_each_head() -> None:
    layers = {layer.name: layer for layer in traced("vit_tiny", batch=2)[2].layers}
    base = "scaled_dot_product_attention"
    scores, softmax, context = (layers[f"{base}.{part}"] for part in ("scores", "softmax", "context"))
    assert isinstance(scores, Gemm)
    assert isinstance(context, Gemm)
    assert isinstance(softmax, VectorOp)
    assert (scores.groups, scores.m, scores.n, scores.k, scores.b_source) == (6, 197, 197, 64, "activation")
    assert (context.groups, context.m, context.n, context.k, context.b_source) == (6, 197, 64, 197, "activation")
    assert (softmax.kind, softmax.operations) == ("softmax", 6 * 197 * 197)
    graph = traced("vit_tiny")[2].graph
    assert list(graph.predecessors(f"{base}.scores")) == ["blocks.0.attn.qkv"]
    assert set(graph.predecessors(f"{base}.context")) == {f"{base}.softmax", "blocks.0.attn.qkv"}
    assert list(graph.predecessors("blocks.0.attn.proj")) == [f"{base}.context"]


def test_normalisation_and_embedding_are_traffic() -> None:
    layers = {layer.name: layer for layer in traced("gpt_small", batch=2)[2].layers}
    norm, rows = layers["h.0.ln_1"], layers["wte"]
    assert isinstance(norm, VectorOp)
    assert isinstance(rows, VectorOp)
    assert (norm.kind, norm.input_elements, norm.operations) == ("normalization", 2 * 128 * 128, 2 * 128 * 128)
    assert (rows.kind, rows.input_elements, rows.output_elements) == ("embedding", 2 * 128 * 128, 2 * 128 * 128)


def test_a_convolution_over_one_axis_has_height_one() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 5, stride=2, padding=2, dilation=1, groups=2))
    (conv,) = extract_workload(model, torch.zeros(3, 4, 11), "x").layers
    assert isinstance(conv, Conv2d)
    assert (conv.n, conv.k, conv.c, conv.p, conv.q, conv.r, conv.s, conv.groups) == (3, 6, 4, 1, 6, 1, 5, 2)
    assert (conv.stride, conv.padding, conv.input_size) == ((1, 2), (0, 2), (1, 11))


@pytest.mark.parametrize(("taps", "dilation"), [(3, 1), (4, 1), (3, 2), (4, 3)])
def test_padding_called_same_is_counted_in_pixels(taps: int, dilation: int) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, taps, padding="same", dilation=dilation))
    (conv,) = extract_workload(model, torch.zeros(1, 2, 9, 9), "x").layers
    assert isinstance(conv, Conv2d)
    assert (conv.p, conv.q) == (9, 9)
    assert conv.padding == (-(-dilation * (taps - 1) // 2),) * 2


class _Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.matrix = nn.Parameter(torch.randn(4, 2, 3, 3)), nn.Parameter(torch.randn(4, 5))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(F.conv2d(x, self.weight, stride=2, padding=(1, 1)))
        x = x * torch.sigmoid(x) * 2.0
        x = (x.flatten(2).transpose(1, 2) @ self.matrix + self.bias).softmax(-1)
        return torch.einsum("bnc,bmc->bnm", x, x)


def test_functions_with_weights_are_layers_and_functions_of_one_tensor_are_free() -> None:
    model, example = _Functional(), torch.randn(2, 2, 8, 8)
    workload = extract_workload(model, example, "x")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    assert workload.macs == counter.get_total_flops() // 2
    assert [layer.name for layer in workload.layers] == ["weight", "matrix", "softmax", "einsum"]


def test_layers_of_one_shape_are_repeats_of_the_first() -> None:
    workload = traced("resnet56_cifar")[2]
    repeats = repeated_layers(workload)
    assert repeats["layer1.0.conv1"] == tuple(f"layer1.{i}.conv{j}" for i in range(9) for j in (1, 2))
    assert sorted(name for names in repeats.values() for name in names) == sorted(la.name for la in workload.layers)


def test_masks_reach_the_hardware_live_and_frozen() -> None:
    model = build_network("digits_resnet")
    masks = attach_masks(model, {"stages.0.conv1": MaskPlan(granularity="weight", k=2, n=4)})
    live = weight_masks(model)
    assert list(live) == ["stages.0.conv1"]
    assert int(live["stages.0.conv1"].sum()) == 16 * 16 * 9 // 2
    assert extract_workload(model, torch.zeros(1, 1, 8, 8), "digits_resnet") == traced("digits_resnet")[2]
    expected = masks["stages.0.conv1"].mask().numpy()
    freeze_masks(model)
    assert (weight_masks(model)["stages.0.conv1"] == expected).all()


class _Shapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + 1 if x.shape[-1] > 4 else x * x.flatten(1).sum(1).view(-1, 1, 1, 1)


def test_a_network_that_branches_on_shapes_is_recorded() -> None:
    assert [la.name for la in extract_workload(_Shapes(), torch.zeros(1, 3, 8, 8), "x").layers] == ["conv"]
    assert len(extract_workload(_Shapes(), torch.zeros(2, 3, 5, 5), "x").layers) == 3
