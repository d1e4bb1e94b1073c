"""ShuffleNetV2 for 224x224 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cosim.networks.initial import he_normal

_WIDTHS, _BLOCKS = (24, 116, 232, 464, 1024), (4, 8, 4)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels of the groups in turn: the first of each, then the second of each, and so on."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """Half of the channels pass (stride 1) or both halves are convolved (stride 2), then they are shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(*_depthwise(inputs, stride), *_pointwise(inputs, half))
        start = inputs if stride > 1 else half
        self.branch2 = nn.Sequential(*_pointwise(start, half), *_depthwise(half, stride), *_pointwise(half, half))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            return channel_shuffle(torch.cat((self.branch1(x), self.branch2(x)), 1), 2)
        kept, changed = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((kept, self.branch2(changed)), 1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 1.0x: three stages of shuffle units: 2,278,604 parameters.

    Source: Ma et al., arXiv 1807.11164, Table 5; parameter names of torchvision's checkpoint.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, _WIDTHS[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTHS[0]),
            nn.ReLU(inplace=True),
        )
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stage2 = _stage(_WIDTHS[0], _WIDTHS[1], _BLOCKS[0])
        self.stage3 = _stage(_WIDTHS[1], _WIDTHS[2], _BLOCKS[1])
        self.stage4 = _stage(_WIDTHS[2], _WIDTHS[3], _BLOCKS[2])
        self.conv5 = nn.Sequential(*_pointwise(_WIDTHS[3], _WIDTHS[4]))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(_WIDTHS[4], classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(self.flatten(self.pool(x)))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    first = ShuffleUnit(inputs, outputs, 2)
    return nn.Sequential(first, *(ShuffleUnit(outputs, outputs, 1) for _ in range(blocks - 1)))


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _depthwise(width: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
    return [conv, nn.BatchNorm2d(width)]
