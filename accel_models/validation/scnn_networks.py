"""The layers of the SCNN paper with their densities.

AlexNet: Han et al., NIPS 2015, Table 4 (the pruned network that the paper uses; inputs: its Act%, one layer before).
VGG-16 and the inception modules 3a and 5b: read from Fig. 1 of the SCNN paper, as in
losif63/SCNN_Simulator_101, config/. Assumed: the modules between 3a and 5b, of which no figures are public, change
linearly from the one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from accel_models.layers import Conv2d


@dataclass(frozen=True, kw_only=True)
class ScnnLayer:
    """A convolution of square filters on square inputs, and the densities of its operands."""

    name: str
    outputs: int
    channels: int
    size: int
    """Height and width of the input; of the output too unless there is a stride."""
    filter: int
    weight_density: float
    input_density: float
    groups: int = 1
    stride: int = 1

    def convolution(self) -> Conv2d:
        return Conv2d(
            name=self.name,
            k=self.outputs,
            c=self.channels,
            p=self.output_size,
            q=self.output_size,
            r=self.filter,
            s=self.filter,
            stride=(self.stride, self.stride),
            padding=((self.filter - 1) // 2,) * 2 if self.stride == 1 else (0, 0),
            groups=self.groups,
            input_size=(self.size, self.size),
        )

    @property
    def output_size(self) -> int:
        """Padding keeps the size; a stride comes without padding (AlexNet's conv1)."""
        return self.size if self.stride == 1 else (self.size - self.filter) // self.stride + 1


def _alexnet() -> tuple[ScnnLayer, ...]:
    rows = (
        ("conv1", 96, 3, 227, 11, 0.84, 1.00, 1, 4),
        ("conv2", 256, 96, 27, 5, 0.38, 0.88, 2, 1),
        ("conv3", 384, 256, 13, 3, 0.35, 0.52, 1, 1),
        ("conv4", 384, 384, 13, 3, 0.37, 0.37, 2, 1),
        ("conv5", 256, 384, 13, 3, 0.37, 0.40, 2, 1),
    )
    return tuple(
        ScnnLayer(
            name=name,
            outputs=k,
            channels=c,
            size=size,
            filter=r,
            weight_density=w,
            input_density=a,
            groups=groups,
            stride=stride,
        )
        for name, k, c, size, r, w, a, groups, stride in rows
    )


def _vgg() -> tuple[ScnnLayer, ...]:
    rows = (
        ("conv1_1", 64, 3, 224, 0.57, 1.00),
        ("conv1_2", 64, 64, 224, 0.21, 0.50),
        ("conv2_1", 128, 64, 112, 0.33, 0.89),
        ("conv2_2", 128, 128, 112, 0.35, 0.79),
        ("conv3_1", 256, 128, 56, 0.53, 0.81),
        ("conv3_2", 256, 256, 56, 0.22, 0.63),
        ("conv3_3", 256, 256, 56, 0.41, 0.69),
        ("conv4_1", 512, 256, 28, 0.32, 0.71),
        ("conv4_2", 512, 512, 28, 0.26, 0.50),
        ("conv4_3", 512, 512, 28, 0.34, 0.45),
        ("conv5_1", 512, 512, 14, 0.35, 0.39),
        ("conv5_2", 512, 512, 14, 0.29, 0.33),
        ("conv5_3", 512, 512, 14, 0.36, 0.32),
    )
    return tuple(
        ScnnLayer(name=name, outputs=k, channels=c, size=size, filter=3, weight_density=w, input_density=a)
        for name, k, c, size, w, a in rows
    )


MODULES = {
    "3a": (28, 192, (64, 96, 128, 16, 32, 32)),
    "3b": (28, 256, (128, 128, 192, 32, 96, 64)),
    "4a": (14, 480, (192, 96, 208, 16, 48, 64)),
    "4b": (14, 512, (160, 112, 224, 24, 64, 64)),
    "4c": (14, 512, (128, 128, 256, 24, 64, 64)),
    "4d": (14, 512, (112, 144, 288, 32, 64, 64)),
    "4e": (14, 528, (256, 160, 320, 32, 128, 128)),
    "5a": (7, 832, (256, 160, 320, 32, 128, 128)),
    "5b": (7, 832, (384, 192, 384, 48, 128, 128)),
}
"""Szegedy et al., CVPR 2015, Table 1: size, channels, outputs of the branches below."""
BRANCHES = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
FILTERS = (1, 1, 3, 1, 5, 1)
FIRST = ((0.38, 0.71), (0.42, 0.71), (0.45, 0.67), (0.36, 0.71), (0.35, 0.77), (0.43, 0.96))
LAST = ((0.32, 0.31), (0.33, 0.31), (0.37, 0.30), (0.33, 0.31), (0.36, 0.46), (0.32, 0.57))
"""(weight density, input density) of the branches of 3a and 5b."""


def _googlenet() -> tuple[ScnnLayer, ...]:
    layers = []
    for at, (module, (size, channels, outputs)) in enumerate(MODULES.items()):
        share = at / (len(MODULES) - 1)
        fed = (channels, channels, outputs[1], channels, outputs[3], channels)
        for b, branch in enumerate(BRANCHES):
            w, a = ((1 - share) * first + share * last for first, last in zip(FIRST[b], LAST[b], strict=True))
            layers.append(
                ScnnLayer(
                    name=f"{module}/{branch}",
                    outputs=outputs[b],
                    channels=fed[b],
                    size=size,
                    filter=FILTERS[b],
                    weight_density=w,
                    input_density=a,
                )
            )
    return tuple(layers)


NETWORKS = {"AlexNet": _alexnet(), "GoogLeNet": _googlenet(), "VGGNet": _vgg()}
"""The paper's 5, 54 and 13 layers."""
