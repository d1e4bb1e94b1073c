"""MobileNetV2 for 224x224 images."""

from __future__ import annotations

from torch import Tensor, nn

from cosim.networks.initial import he_normal

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, outputs, blocks, stride of the first block."""


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and 1x1 projection, with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        units: list[nn.Module] = [] if expansion == 1 else [_unit(inputs, inner, 1)]
        units += [_unit(inner, inner, 3, stride=stride, groups=inner)]
        self.conv = nn.Sequential(*units, nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Seventeen inverted residuals between a 3x3 stem and a 1x1 convolution of 1,280 filters: 3,504,872 parameters.

    Source: Sandler et al., arXiv 1801.04381, Table 2; parameter names of torchvision's checkpoint.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        units: list[nn.Module] = [_unit(3, 32, 3, stride=2)]
        inputs = 32
        for expansion, outputs, blocks, stride in _STAGES:
            for number in range(blocks):
                units.append(InvertedResidual(inputs, outputs, stride if number == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*units, _unit(inputs, 1280, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        linear = nn.Linear(1280, classes)
        self.classifier = nn.Sequential(nn.Dropout(0.2), linear)
        he_normal(self)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.pool(self.features(x))))


def _unit(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))
