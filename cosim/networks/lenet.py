"""LeNet-300-100 and LeNet-5 for 28x28 grey images, in the sizes that pruning papers count."""

from __future__ import annotations

from torch import Tensor, nn


class LeNet300(nn.Module):
    """Two hidden layers of 300 and 100 units: 266,610 parameters.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 1998, section III-C; the
    network of Han et al., arXiv 1506.02626, Table 1 ("267K").
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1, self.relu1 = nn.Linear(28 * 28, 300), nn.ReLU(inplace=True)
        self.fc2, self.relu2 = nn.Linear(300, 100), nn.ReLU(inplace=True)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.fc1(self.flatten(x)))
        return self.fc3(self.relu2(self.fc2(x)))


class LeNet5(nn.Module):
    """Two 5x5 convolutions of 20 and 50 filters, 500 hidden units: 431,080 parameters.

    Source: the "LeNet-5" that ships with Caffe (`examples/mnist/lenet.prototxt`), which pruning papers mean: Han et
    al., arXiv 1506.02626, Table 1 ("431K"). The network of 1998 has 6 and 16 filters.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.pool1 = nn.Conv2d(1, 20, 5), nn.MaxPool2d(2)
        self.conv2, self.pool2 = nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1, self.relu = nn.Linear(50 * 4 * 4, 500), nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool2(self.conv2(self.pool1(self.conv1(x))))
        return self.fc2(self.relu(self.fc1(self.flatten(x))))
