"""An exported network read back from ONNX is the workload that is extracted from the network itself."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")

from accel_models.importers.onnx import read_onnx
from accel_models.layers import Conv2d
from accel_models.workload import Workload
from cosim.extract import extract_workload
from cosim.networks import build_network, network_example, network_names
from tests.cosim.coupling_networks import ATTENTIONS, Transformer


class Branches(nn.Module):
    """Depthwise, grouped and dilated convolutions, joined, cut, gated, padded and pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.depthwise = nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4)
        self.shrink = nn.MaxPool2d(3, stride=2, padding=1)
        self.point = nn.Sequential(nn.Conv2d(20, 6, 1), nn.ReLU())
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6 * 4 * 5, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = torch.cat([self.depthwise(x), self.grouped(x)], 1)
        x = self.point(self.shrink(x))
        x = x * F.relu(self.gate(self.squeeze(x)))
        x = F.pad(x, (0, 0, 1, 0)) + F.pad(x, (0, 0, 0, 1))
        return self.head(torch.flatten(x[:, :, :-1], 1)).relu()


class Attention(nn.Module):
    """One block of a transformer: fused qkv, four heads, a two-layer perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)
        self.up = nn.Linear(16, 32)
        self.act = nn.GELU()
        self.down = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        images, tokens, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(images, tokens, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(images, tokens, width)
        x = x + self.proj(y)
        return x + self.down(self.act(self.up(x)))


def imported(model: nn.Module, example: Tensor, folder: Path, **options: object) -> Workload:
    path = folder / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(model.eval(), (example,), path, verbose=False, **options)  # type: ignore[arg-type]
    return read_onnx(path)


EXPORTERS = [True, False]
"""torch.export and TorchScript."""


FAST = {("digits_resnet", True), ("digits_resnet", False), ("resnet20_cifar", False), ("gpt_small", False)}
SHIPPED = [
    pytest.param(name, dynamo, marks=() if (name, dynamo) in FAST else pytest.mark.slow)
    for name in network_names()
    for dynamo in EXPORTERS
]


@pytest.mark.parametrize(("name", "dynamo"), SHIPPED)
def test_the_workload_of_a_shipped_network_is_the_extracted_one(name: str, dynamo: bool, tmp_path: Path) -> None:
    model, example = build_network(name), network_example(name)
    assert imported(model, example, tmp_path, dynamo=dynamo) == extract_workload(model, example, "net")


@pytest.mark.parametrize("dynamo", EXPORTERS)
def test_the_workload_of_every_kind_of_convolution_is_the_extracted_one(dynamo: bool, tmp_path: Path) -> None:
    model, example = Branches(), torch.zeros(3, 3, 13, 20)
    found, expected = imported(model, example, tmp_path, dynamo=dynamo), extract_workload(model, example, "net")
    assert found.layers == expected.layers
    assert set(found.edges) == set(expected.edges)


WRITERS: list[dict[str, object]] = [{"opset_version": 18}, {"opset_version": 23}, {"dynamo": False}]


@pytest.mark.parametrize("options", WRITERS, ids=str)
def test_attention_is_the_extracted_one_however_the_file_writes_it(options: dict[str, object], tmp_path: Path) -> None:
    """As the operator Attention or in its parts, beside a GELU in one node or in five."""
    model, example = Attention(), torch.zeros(2, 6, 16)
    workload = imported(model, example, tmp_path, **options)
    assert workload == extract_workload(model, example, "net")
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(example)  # the counter does not know the fused kernel of the CPU
    assert workload.macs == counter.get_total_flops() // 2


@pytest.mark.parametrize("dynamo", EXPORTERS)
@pytest.mark.parametrize("attention", ["adaptive", "separate"])
def test_attention_written_by_hand_stays_its_products(attention: str, dynamo: bool, tmp_path: Path) -> None:
    model, example = Transformer(ATTENTIONS[attention]()), torch.zeros(2, 3, 8, 8)
    workload = imported(model, example, tmp_path, dynamo=dynamo)
    assert workload == extract_workload(model, example, "net")
    assert {"matmul", "matmul_1"} <= {layer.name for layer in workload.layers}


def test_an_open_batch_is_one_image(tmp_path: Path) -> None:
    model, example = Branches(), torch.zeros(2, 3, 13, 20)
    dynamic = ({0: torch.export.Dim("batch")},)
    found = imported(model, example, tmp_path, dynamic_shapes=dynamic)
    assert found.layers == extract_workload(model, example[:1], "net").layers
    assert all(layer.n == 5 for layer in read_onnx(tmp_path / "net.onnx", batch=5).layers if isinstance(layer, Conv2d))
