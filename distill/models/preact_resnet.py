"""Pre-activation ResNets with a 3x3 stem, as in CS-KD (alinlab/cs-kd, models/resnet.py, CIFAR_ResNet18).

PS-KD and Self-KD-Lib take the same net. It is not quite that of He et al., ECCV 2016, arXiv:1603.05027: every shortcut
starts behind the block's first BatchNorm and ReLU, also where the shape stays, and no BatchNorm follows the last block.
Published numbers are those of this net, and of torch's own initialisation.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, conv
from distill.models.resnet_four import REDUCTIONS, WIDTHS


class _PreActBlock(nn.Module):
    """BatchNorm, ReLU, 3x3, BatchNorm, ReLU, 3x3; the shortcut takes what the first ReLU gives."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(*([conv(inputs, outputs, 1, stride)] if changes else []))

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        return self.conv2(out) + self.shortcut(activated)


class PreActResNet(CifarNet):
    """Four stages of `blocks` blocks.

    Stages give raw sums. Nothing normalises or activates the last before it is pooled, so the net has no
    pre-activations to show.
    """

    classifier_name = "linear"
    stage_names = ("layer1", "layer2", "layer3", "layer4")
    has_preacts = False

    def __init__(
        self, num_classes: int = 100, in_chans: int = 3, *, blocks: Sequence[int] = (2, 2, 2, 2)
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_chans, WIDTHS[0])
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        channels = (WIDTHS[0], *WIDTHS)
        for i, (name, count) in enumerate(zip(self.stage_names, blocks, strict=True)):
            first = _PreActBlock(channels[i], WIDTHS[i], 1 if i == 0 else 2)
            setattr(
                self, name, nn.Sequential(first, *(_PreActBlock(WIDTHS[i], WIDTHS[i], 1) for _ in range(count - 1)))
            )
        self.describe(num_classes, channels, REDUCTIONS, WIDTHS[-1])

    def stem(self, inputs: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(inputs)))

    def stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return getattr(self, self.stage_names[index])(x), None

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        raise ValueError("a pre-activation ResNet of CS-KD pools its last sum as it is, without BatchNorm and ReLU")
