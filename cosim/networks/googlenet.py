"""GoogLeNet with batch normalisation for 32x32 images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cosim.networks.initial import he_normal


class Widths(NamedTuple):
    """Filters of an inception block (Szegedy et al., arXiv 1409.4842, Table 1)."""

    direct: int
    reduce3: int
    conv3: int
    reduce5: int
    conv5: int
    pool: int

    @property
    def outputs(self) -> int:
        return self.direct + self.conv3 + self.conv5 + self.pool


_BLOCKS = {
    "a3": Widths(64, 96, 128, 16, 32, 32),
    "b3": Widths(128, 128, 192, 32, 96, 64),
    "a4": Widths(192, 96, 208, 16, 48, 64),
    "b4": Widths(160, 112, 224, 24, 64, 64),
    "c4": Widths(128, 128, 256, 24, 64, 64),
    "d4": Widths(112, 144, 288, 32, 64, 64),
    "e4": Widths(256, 160, 320, 32, 128, 128),
    "a5": Widths(256, 160, 320, 32, 128, 128),
    "b5": Widths(384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """1x1, 3x3 and 5x5 (as two 3x3) convolutions and a pooling beside each other, concatenated."""

    def __init__(self, inputs: int, widths: Widths) -> None:
        super().__init__()
        self.b1 = nn.Sequential(*_unit(inputs, widths.direct, 1))
        self.b2 = nn.Sequential(*_unit(inputs, widths.reduce3, 1), *_unit(widths.reduce3, widths.conv3, 3))
        self.b3 = nn.Sequential(
            *_unit(inputs, widths.reduce5, 1),
            *_unit(widths.reduce5, widths.conv5, 3),
            *_unit(widths.conv5, widths.conv5, 3),
        )
        self.b4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *_unit(inputs, widths.pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.b1(x), self.b2(x), self.b3(x), self.b4(x)), 1)


class CifarGoogLeNet(nn.Module):
    """Nine inception blocks behind one 3x3 convolution of 192 filters: 6,166,250 parameters.

    Source: Szegedy et al., arXiv 1409.4842, Table 1, in the version for CIFAR of kuangliu/pytorch-cifar
    (`models/googlenet.py`, whose parameter names it has), which HRank (Lin et al., arXiv 2002.10179, Table 2: 6.15 M
    parameters) and later papers prune: batch normalisation behind every convolution, no auxiliary classifiers.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.pre_layers = nn.Sequential(*_unit(3, 192, 3))
        self.a3 = Inception(192, _BLOCKS["a3"])
        self.b3 = Inception(_BLOCKS["a3"].outputs, _BLOCKS["b3"])
        self.a4 = Inception(_BLOCKS["b3"].outputs, _BLOCKS["a4"])
        self.b4 = Inception(_BLOCKS["a4"].outputs, _BLOCKS["b4"])
        self.c4 = Inception(_BLOCKS["b4"].outputs, _BLOCKS["c4"])
        self.d4 = Inception(_BLOCKS["c4"].outputs, _BLOCKS["d4"])
        self.e4 = Inception(_BLOCKS["d4"].outputs, _BLOCKS["e4"])
        self.a5 = Inception(_BLOCKS["e4"].outputs, _BLOCKS["a5"])
        self.b5 = Inception(_BLOCKS["a5"].outputs, _BLOCKS["b5"])
        self.maxpool1 = nn.MaxPool2d(3, stride=2, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(_BLOCKS["b5"].outputs, classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.b3(self.a3(self.pre_layers(x))))
        x = self.e4(self.d4(self.c4(self.b4(self.a4(x)))))
        x = self.b5(self.a5(self.maxpool2(x)))
        return self.linear(self.flatten(self.avgpool(x)))


def _unit(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
