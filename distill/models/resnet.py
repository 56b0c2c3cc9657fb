"""ResNets of three stages for 32x32 images: He et al., CVPR 2016, section 4.2.

Variants differ in the shortcut where the shape changes: a 1x1 convolution (the nets of the distillation literature),
the paper's parameter-free "option A" (`cifar_resnet20_a` ...), for which CIFAR-10 checkpoints are public, or option A
with all zeros behind (`cifar_resnet26_bss` ..., bhheo/BSS_distillation's models/resnet.py). `bottleneck` is what ONE
(Lan1991Xu/ONE_NeurIPS2018, models/cifar/resnet.py) and OKDDip take for depths of 44 and more.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, conv
from distill.models.residual import BasicBlock, Bottleneck, Shortcut, make_stage


class ResNet(CifarNet):
    """depth = 6n + 2: n blocks in each of three stages.

    widths: channels of the stem, and of the stages' 3x3 convolutions. bottleneck: blocks of three layers, which give
    four times as many channels; the depth is still counted as if they had two. shortcut: see ResidualBlock; nets that
    pad call their classifier `linear`. Raises ValueError when depth is not 6n + 2.
    """

    def __init__(
        self,
        num_classes: int = 100,
        in_chans: int = 3,
        *,
        depth: int,
        widths: Sequence[int] = (16, 16, 32, 64),
        shortcut: Shortcut = "downsample",
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth} of a CIFAR ResNet must be 6n+2, such as 8, 20, 32, 56 or 110")
        block = Bottleneck if bottleneck else BasicBlock
        self.classifier_name = "fc" if shortcut == "downsample" else "linear"
        self.conv1 = conv(in_chans, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        channels = [widths[0], *(block.expansion * width for width in widths[1:])]
        for i, name in enumerate(self.stage_names):
            stride = 1 if i == 0 else 2
            setattr(self, name, make_stage(block, channels[i], widths[i + 1], stride, (depth - 2) // 6, shortcut))
        self.describe(num_classes, channels, (1, 1, 2, 4), channels[-1])
        self._initialise(by_inputs=shortcut == "pad")

    def _initialise(self, by_inputs: bool) -> None:
        """He's normal: by fan out for convolutions; option A by fan in, and for the classifier too."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) or (by_inputs and isinstance(module, nn.Linear)):
                mode = "fan_in" if by_inputs else "fan_out"
                nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")  # type: ignore[arg-type]

    def stem(self, inputs: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(inputs)), inplace=True)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        blocks: list[Any] = [getattr(self, name)[-1] for name in self.stage_names]
        return [block.last_norm for block in blocks]
