"""MobileNetV2 for the 64x64 images of Tiny ImageNet, as mdistiller has it (DOT, Zhao et al., ICCV 2023;
mdistiller/models/cifar/mv2_tinyimagenet.py of megvii-research/mdistiller, a08d46f).

Width 1 and ReLU6, biases in all convolutions, a 1x1 stem with a border of one pixel, and the strides earlier: an image
of 64 pixels is a map of 66 behind the stem, and of 33, 17, 9 and 9 behind the stages.
"""

from torch import nn

from distill.models.cifar_net import CifarNet, conv
from distill.models.mobilenetv2 import InvertedResidual, MobileNetV2

_STEM, _LAST = 32, 1280
_SETTINGS = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 1), (320, 1, 1))  # C, blocks, stride


class TinyMobileNetV2(MobileNetV2):
    """expansion: of all bottlenecks but the first."""

    groups = ((0, 1), (2,), (3,), (4, 5, 6))
    stage_names = ("blocks.1", "blocks.2", "blocks.3", "blocks.6")

    def __init__(self, num_classes: int = 200, in_chans: int = 3, *, expansion: int = 6) -> None:
        CifarNet.__init__(self)
        stem = nn.Conv2d(in_chans, _STEM, 1, padding=1)
        self.conv1 = nn.Sequential(stem, nn.BatchNorm2d(_STEM), nn.ReLU6(inplace=True))
        self.blocks = nn.ModuleList()
        inputs = _STEM
        for outputs, count, stride in _SETTINGS:
            factor = expansion if len(self.blocks) else 1
            strides = [stride] + [1] * (count - 1)
            units = [
                InvertedResidual(outputs if k else inputs, outputs, step, factor, bias=True, relu=nn.ReLU6)
                for k, step in enumerate(strides)
            ]
            self.blocks.append(nn.Sequential(*units))
            inputs = outputs
        self.conv2 = nn.Sequential(conv(inputs, _LAST, 1, bias=True), nn.BatchNorm2d(_LAST), nn.ReLU6(inplace=True))
        stages = [_SETTINGS[groups[-1]][0] for groups in self.groups]
        self.describe(num_classes, (_STEM, *stages), (1, 2, 4, 8, 8), _LAST)

    def new_classifier(self) -> nn.Module:
        """A layer as torch initialises it: theirs is a 1x1 convolution of the pooled map, which is the same."""
        return nn.Linear(self.num_features, self.num_classes) if self.num_classes else nn.Identity()
