"""ResNets for 32x32 images: He et al., CVPR 2016, section 4.2.

Two variants that share blocks: shortcuts by 1x1 convolution (the nets of the distillation literature), and
the paper's parameter-free "option A" (`cifar_resnet20_a` ...), for which CIFAR-10 checkpoints are public.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, conv


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns the sum before the ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, option_a: bool) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = (outputs - inputs) // 2 if option_a else 0
        self.downsample = None
        if not option_a and (stride != 1 or inputs != outputs):
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(out)) + self.shortcut(x)

    def shortcut(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            return self.downsample(x)
        if self.stride == 1 and not self.padding:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


class ResNet(CifarNet):
    """depth = 6n + 2 layers: n blocks in each of three stages.

    widths: channels of the stem and the stages. option_a: zero-padded shortcuts, classifier named `linear`.
    Raises ValueError when depth is not 6n + 2.
    """

    def __init__(
        self,
        num_classes: int = 100,
        in_chans: int = 3,
        *,
        depth: int,
        widths: Sequence[int] = (16, 16, 32, 64),
        option_a: bool = False,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth} of a CIFAR ResNet must be 6n+2, such as 8, 20, 32, 56 or 110")
        self.classifier_name = "linear" if option_a else "fc"
        self.conv1 = conv(in_chans, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        for i, name in enumerate(self.stage_names):
            setattr(
                self, name, _stage(widths[i], widths[i + 1], 1 if i == 0 else 2, (depth - 2) // 6, option_a)
            )
        self.describe(num_classes, widths, (1, 1, 2, 4), widths[-1])
        self._initialise(option_a)

    def _initialise(self, option_a: bool) -> None:
        """He's normal: by fan out for convolutions; option A by fan in, and for the classifier too."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) or (option_a and isinstance(module, nn.Linear)):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_in" if option_a else "fan_out", nonlinearity="relu"
                )

    def stem(self, images: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(images)), inplace=True)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [getattr(self, name)[-1].bn2 for name in self.stage_names]


def _stage(inputs: int, outputs: int, stride: int, blocks: int, option_a: bool) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride, option_a)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, option_a) for _ in range(blocks - 1)))
