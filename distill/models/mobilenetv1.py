"""MobileNetV1 with ReLU: Howard et al., 2017, arXiv:1704.04861, as OFD and ReviewKD train it on ImageNet.

Stages, taps and names of weights are those of clovaai/overhaul-distillation (ImageNet/models/MobileNet.py) and
dvlab-research/ReviewKD (ImageNet/models/mobilenet.py); every published ResNet-50 to MobileNetV1 row is this net. timm's
mobilenetv1_100 has ReLU6 and no pre-activations.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, conv

# (channels, stride) of the separable convolutions, in the stages that the authors tap
_STAGES = (
    ((64, 1), (128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    ((1024, 2), (1024, 1)),
)
_LAST = (3, 5, 11, 13)  # where each stage ends in `model`, whose first module is the stem


class MobileNetV1(CifarNet):
    """A 3x3 stem of stride 2, then 13 separable convolutions in four stages; torch's own initialisation."""

    stem_name = "model.0"
    stage_names = tuple(f"model.{last}" for last in _LAST)

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        inputs, layers = 32, [_convolution(in_chans, 32, 3, 2)]
        for outputs, stride in (each for stage in _STAGES for each in stage):
            depthwise = _convolution(inputs, inputs, 3, stride, groups=inputs)
            layers.append(nn.Sequential(*depthwise, *_convolution(inputs, outputs, 1)))
            inputs = outputs
        self.model = nn.Sequential(*layers)
        self.describe(num_classes, (32, 128, 256, 512, 1024), (2, 4, 8, 16, 32), inputs)

    def stem(self, inputs: Tensor) -> Tensor:
        return self.model[0](inputs)

    def stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        start = _LAST[index - 1] if index else 0
        for layer in self.model[start + 1 : _LAST[index]]:
            x = layer(x)
        preact = self._last(index)[:-1](x)
        return F.relu(preact), preact

    def _last(self, index: int) -> Any:
        """The separable convolution that ends a stage: six layers, the last of them the ReLU."""
        return self.model[_LAST[index]]

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [self._last(index)[-2] for index in range(len(_LAST))]


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = conv(inputs, outputs, kernel, stride, groups)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
