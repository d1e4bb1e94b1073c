"""Small networks with every way in which channels are coupled, for the tests of coupling and removal."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import nn

from cosim.pruning.coupling import trace_channel_groups


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 8), conv(8, 6), conv(6, 8), nn.Linear(8, 5)
        self.bn, self.act = nn.BatchNorm2d(8), nn.Sigmoid()  # sigmoid(0) is not 0: removal must still be exact

    def forward(self, x):
        x = self.stem(x)
        x = x + self.bn(self.b(torch.relu(self.a(x))))
        return self.head(self.act(x).mean((2, 3)))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.bn, self.c, self.head = (
            conv(3, 4), conv(4, 6), nn.BatchNorm2d(10), conv(10, 4), nn.Linear(14, 5),
        )  # fmt: skip

    def forward(self, x):
        a = self.a(x)
        both = F.relu(self.bn(torch.cat([a, self.b(a)], dim=1)))
        return self.head(F.adaptive_avg_pool2d(torch.cat([both, self.c(both)], 1), 1).flatten(1))


class Chunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 12), conv(6, 6), nn.Linear(6, 5)

    def forward(self, x):
        left, right = self.a(x).chunk(2, dim=1)
        return self.c((self.b(left) * torch.sigmoid(right)).mean((2, 3)))


class ComputedSplit(Chunk):
    def forward(self, x):
        x = self.a(x)
        left, right = torch.split(x, x.shape[1] // 2, dim=1)
        return self.c((self.b(left) * torch.sigmoid(right)).mean((2, 3)))


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 12), conv(12, 9), conv(9, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.b(self.shuffle(torch.relu(self.a(x)))))
        return self.head(self.c(x).mean((2, 3)))

    def shuffle(self, x):
        b, c, h, w = x.shape
        return x.view(b, 3, c // 3, h, w).transpose(1, 2).reshape(b, c, h, w)


class ModuleShuffle(Shuffle):
    def __init__(self):
        super().__init__()
        self.shuffle = nn.ChannelShuffle(3)


class GroupedShuffle(Shuffle):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 18), conv(18, 9, groups=3)


class Mobile(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand, self.depth = conv(3, 8), conv(8, 16, groups=8)
        self.bn, self.prelu, self.point, self.head = nn.BatchNorm2d(16), nn.PReLU(16), conv(16, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu6(self.expand(x))
        return self.head(self.point(self.prelu(self.bn(self.depth(x)))).mean([2, 3]))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 12, groups=4), conv(12, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.a(x)
        return self.head((x + self.c(torch.relu(self.b(x)))).mean((2, 3)))


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.pool, self.flat = conv(3, 6), nn.MaxPool2d(2), nn.Flatten()
        self.b, self.bn, self.c = nn.Linear(6 * 16, 7), nn.BatchNorm1d(7), nn.Linear(7, 5)

    def forward(self, x):
        x = self.pool(self.a(x))
        return self.c(torch.tanh(self.bn(self.b(x.view(x.size(0), -1)))) + self.bn(self.b(self.flat(x))))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.down, self.up, self.b = conv(3, 8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), conv(8, 6)
        self.scale, self.head = nn.Parameter(torch.randn(1, 8, 1, 1)), nn.Linear(6, 5)

    def forward(self, x):
        x = F.silu(self.a(x)) * self.scale
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(F.gelu(self.b(x * gate)).mean((2, 3)))


class PaddedShortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 4), conv(4, 6, stride=2), conv(6, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head((shortcut + self.b(torch.relu(self.a(x)))).mean((2, 3)))


class SpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gate, self.b, self.head = conv(3, 8), conv(8, 1), conv(8, 4, bias=False), nn.Linear(4, 5)

    def forward(self, x):
        x = self.a(x)
        return self.head(self.b(x * torch.sigmoid(self.gate(x))).mean((2, 3)))


class Upsampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.up, self.b, self.head = (
            conv(3, 8, stride=2), nn.ConvTranspose2d(8, 6, 2, stride=2), conv(6, 4), nn.Linear(4, 5),
        )  # fmt: skip

    def forward(self, x):
        x = F.interpolate(self.up(self.a(x)), scale_factor=2.0)
        return self.head(self.b(F.pad(x, (1, 1, 1, 1))).mean((2, 3)))


class DepthwiseUpsampling(Upsampling):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 16, 2, stride=2, groups=8)
        self.b = nn.ConvTranspose2d(16, 4, 3, padding=1, groups=2)


class NormalisedAcross(nn.Module):
    groups = 1

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(3, 8), nn.GroupNorm(self.groups, 8), conv(8, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.b(self.norm(self.a(x))).mean((2, 3)))


class NormalisedInGroups(NormalisedAcross):
    groups = 4


class WrittenSizes(nn.Module):
    """Sizes and ends of slices that the code writes as numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 8), conv(3, 8), conv(3, 8), conv(3, 8)
        self.head = nn.Linear(8 * 64 + 5 + 8 + 4 * 64 + 3, 5)

    def forward(self, x):
        left, right = self.b(x).split([5, 3], dim=1)
        fixed = self.a(x).view(-1, 8 * 64)
        wide = left.mean((2, 3)), self.c(x).mean((2, 3)).expand(2, 8), self.d(x)[:, 4:].flatten(1)
        return self.head(torch.cat([fixed, *wide, right.amax((2, 3))], 1))


class FixedSizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 8), conv(3, 8), conv(3, 8), conv(3, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        a, b, c, d = self.a(x), self.b(x), self.c(x), self.d(x)
        scaled = c.mean((2, 3)) * c.shape[1] ** -0.5
        return self.head(scaled + a[:, 3].mean((1, 2)).unsqueeze(1) + b.mean((1, 2, 3)).unsqueeze(1)) + d[:, ::2].sum()


MODULES = [
    Residual, Concat, Chunk, ComputedSplit, Shuffle, ModuleShuffle, GroupedShuffle, Mobile, Grouped, Flattened,
    SqueezeExcite, PaddedShortcut, SpatialGate, Upsampling, NormalisedAcross, NormalisedInGroups, WrittenSizes,
    DepthwiseUpsampling,
]  # fmt: skip
EXAMPLE = torch.zeros(2, 3, 8, 8)


def made(kind):
    """With normalisation statistics that are not neutral."""
    torch.manual_seed(0)
    module = kind().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module


def groups_of(module, example=EXAMPLE):
    return {group.name: group for group in trace_channel_groups(module, example)}


def free_groups(module, example=EXAMPLE):
    return [group for group in trace_channel_groups(module, example) if group.locked is None]


def random_removal(groups, seed):
    draw = random.Random(seed)
    return {group: draw.sample(range(group.size), draw.randrange(group.size)) for group in groups}
