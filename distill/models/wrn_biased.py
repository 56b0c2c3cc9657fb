"""Wide ResNets with biases, of Polino et al., ICLR 2018, arXiv:1802.05668 (antspy/quantized_distillation,
cnn_models/wide_resnet.py).

Beside the biases in all convolutions a block differs from that of `wrn`: the second convolution has the stride, the
shortcut takes the block's input as it is, dropout comes right behind the first convolution, and weights begin by
Glorot's uniform draw with a gain of sqrt(2).
"""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import conv
from distill.models.wrn import WideResNet


class BiasedBlock(nn.Module):
    """BatchNorm, ReLU, 3x3, (dropout,) BatchNorm, ReLU, 3x3 with the stride, and a shortcut of the block's input."""

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, bias=True)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, stride=stride, bias=True)
        changes = stride != 1 or inputs != outputs
        self.convShortcut = conv(inputs, outputs, 1, stride, bias=True) if changes else None
        self.drop_rate = drop_rate

    def forward(self, x: Tensor, normed: Tensor | None = None) -> Tensor:
        """normed: bn1(x), where it has been computed already."""
        out = self.conv1(F.relu(self.bn1(x) if normed is None else normed))
        if self.drop_rate > 0:
            out = F.dropout(out, self.drop_rate, self.training)
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        return out + (x if self.convShortcut is None else self.convShortcut(x))


class BiasedWideResNet(WideResNet):
    """depth = 6n + 4 layers, `widen` times as wide. Raises ValueError when depth is not 6n + 4."""

    block = BiasedBlock
    biased = True

    def __init__(self, num_classes: int = 100, in_chans: int = 3, **args: Any) -> None:
        super().__init__(num_classes, in_chans, **args)
        self.bn1.momentum = 0.9
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight, math.sqrt(2))

    def new_classifier(self) -> nn.Module:
        return nn.Linear(self.num_features, self.num_classes) if self.num_classes else nn.Identity()
