"""ResNets of four stages with a 3x3 stem and no max pooling, for 32x32 images: ImageNet's ResNet-18 to -101, adapted.

The nets of BYOT, DAFL, CMI, Tf-KD and cls_KD's CIFAR tables, and RepDistiller's ResNet50; weights are named as in
RepDistiller and Tf-KD (`shortcut`, `linear`). They begin as RepDistiller's and BYOT's do, He's normal by fan out; how
the others' begin is said by their protocols (schedule.inits).
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, conv
from distill.models.residual import BasicBlock, Bottleneck, make_stage

WIDTHS = (64, 128, 256, 512)
REDUCTIONS = (1, 1, 2, 4, 8)


class FourStageResNet(CifarNet):
    """Four stages of `blocks` blocks: of two 3x3 convolutions, or bottlenecks of four times as many channels."""

    classifier_name = "linear"
    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        num_classes: int = 100,
        in_chans: int = 3,
        *,
        blocks: Sequence[int] = (3, 4, 6, 3),
        bottleneck: bool = True,
    ) -> None:
        super().__init__()
        block = Bottleneck if bottleneck else BasicBlock
        self.conv1 = conv(in_chans, WIDTHS[0])
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        channels = [WIDTHS[0], *(block.expansion * width for width in WIDTHS)]
        for i, (name, count) in enumerate(zip(self.stage_names, blocks, strict=True)):
            stride = 1 if i == 0 else 2
            setattr(self, name, make_stage(block, channels[i], WIDTHS[i], stride, count, "shortcut"))
        self.describe(num_classes, channels, REDUCTIONS, channels[-1])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, inputs: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(inputs)), inplace=True)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        stages: list[Any] = [getattr(self, name) for name in self.stage_names]
        return [blocks[-1].last_norm for blocks in stages]
