"""Networks as hardware sees them: the shapes, the work and the graph, for dense and for pruned networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from cosim.errors import PruningError, UntraceableError
from cosim.extract import check_structures, extract_workload, weight_structures
from cosim.networks import build_network, network_input_shape, network_names
from cosim.pruning.apply import filter_plans, removable_groups, remove_filters
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.plan import LayerPlan, MaskPlan, PruningPlan


def traced(name: str, batch: int = 1) -> tuple[nn.Module, Tensor, Workload]:
    model, example = build_network(name).eval(), torch.zeros(batch, *network_input_shape(name))
    return model, example, extract_workload(model, example, name)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", network_names())
def test_macs_are_those_that_torch_counts(name: str, batch: int) -> None:
    model, example, workload = traced(name, batch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    assert workload.macs == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", network_names())
def test_every_weight_of_the_network_is_in_one_layer(name: str) -> None:
    model, _, workload = traced(name)
    weights = {
        path: module.weight.numel()
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    found = {layer.name: layer.weight_elements for layer in workload.layers if not isinstance(layer, VectorOp)}
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
        (torch.sigmoid, "sigmoid"),
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: F.conv2d(x, torch.ones(1, 2, 1, 1)), "conv2d"),
        (nn.GELU(), "GELU"),
        (nn.Conv2d(2, 2, 3, padding="same"), "padding='same'"),
    ],
)
def test_an_operator_without_cost_model_is_named(operation: object, named: str) -> None:
    with pytest.raises(UntraceableError, match=named):
        extract_workload(_Wrapped(operation), torch.zeros(1, 1, 8, 8), "x")


def test_a_network_that_branches_on_values_is_refused() -> None:
    with pytest.raises(UntraceableError, match="cannot trace"):
        extract_workload(_Wrapped(lambda x: x if x.sum() > 0 else -x), torch.zeros(1, 1, 8, 8), "x")


def test_extraction_leaves_modes_and_statistics_as_they_were() -> None:
    model = build_network("digits_resnet").train()
    model.get_submodule("bn1").eval()  # frozen, as users do
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    extract_workload(model, torch.randn(2, 1, 8, 8), "x")
    assert model.training
    assert not model.get_submodule("bn1").training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
