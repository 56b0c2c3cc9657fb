"""ResNet-50 with a 3x3 stem and no max pooling, for 32x32 images."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, conv


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; returns the sum before the ReLU."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.bn3(self.conv3(out)) + self.shortcut(x)


class ResNet50(CifarNet):
    """Four stages of `blocks` bottlenecks."""

    classifier_name = "linear"
    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self, num_classes: int = 100, in_chans: int = 3, *, blocks: Sequence[int] = (3, 4, 6, 3)
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        inputs, widths = 64, (64, 128, 256, 512)
        for i, (name, width, count) in enumerate(zip(self.stage_names, widths, blocks, strict=True)):
            first = Bottleneck(inputs, width, 1 if i == 0 else 2)
            inputs = 4 * width
            setattr(
                self, name, nn.Sequential(first, *(Bottleneck(inputs, width, 1) for _ in range(count - 1)))
            )
        self.describe(num_classes, (64, 256, 512, 1024, 2048), (1, 1, 2, 4, 8), 2048)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, images: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(images)), inplace=True)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [getattr(self, name)[-1].bn3 for name in self.stage_names]
