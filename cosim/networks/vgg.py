"""VGG-16 with batch normalisation for 32x32 images."""

from __future__ import annotations

from torch import Tensor, nn

from cosim.networks.initial import he_normal

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVGG16(nn.Module):
    """Thirteen 3x3 convolutions with batch normalisation, a max pooling after each stage, one classifier.

    Source: Simonyan & Zisserman, arXiv 1409.1556, configuration D, with its three fully connected layers replaced by
    one, as Li et al., arXiv 1608.08710, section 4.1, and later pruning papers do for CIFAR-10; parameter names as in
    kuangliu/pytorch-cifar. (Some papers count a hidden layer of 512 units more: 14.99 M instead of 14.73 M.)
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in _STAGES:
            for width in stage:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(inputs, classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.features(x)))
