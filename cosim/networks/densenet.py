"""DenseNet without bottlenecks for 32x32 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cosim.networks.initial import he_normal


class DenseLayer(nn.Module):
    """Batch normalisation, ReLU and a 3x3 convolution whose output is laid behind its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv1(self.relu(self.bn1(x)))), 1)


class Transition(nn.Module):
    """Batch normalisation, ReLU, a 1x1 convolution and 2x2 average pooling between two dense blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv1(self.relu(self.bn1(x))))


class CifarDenseNet(nn.Module):
    """Three dense blocks of (depth - 4) / 3 layers each behind a 3x3 stem of 2 x growth filters.

    Source: Huang et al., arXiv 1608.06993, section 3 and Table 2 (DenseNet, L = 40, k = 12: 1.0 M parameters). The
    paper gives this network a stem of 16 filters; 2 x growth (1,059,298 parameters) is what pruning papers prune: the
    code of Lin et al., arXiv 2002.10179 (lmbxmu/HRank, `models/densenet_cifar.py`).

    Parameters
    ----------
    depth : 3 n + 4
    growth : filters of each layer, >= 1
    classes : number of classes, >= 1
    """

    def __init__(self, depth: int = 40, growth: int = 12, classes: int = 10) -> None:
        super().__init__()
        layers, block = (depth - 4) // 3, (depth - 4) // 3 * growth
        width = 2 * growth
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.dense1, self.trans1 = _dense_block(width, growth, layers), Transition(width + block)
        self.dense2, self.trans2 = _dense_block(width + block, growth, layers), Transition(width + 2 * block)
        self.dense3 = _dense_block(width + 2 * block, growth, layers)
        self.bn = nn.BatchNorm2d(width + 3 * block)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(width + 3 * block, classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.dense3(self.trans2(self.dense2(x)))
        return self.fc(self.flatten(self.pool(self.relu(self.bn(x)))))


def _dense_block(width: int, growth: int, layers: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(width + i * growth, growth) for i in range(layers)))
