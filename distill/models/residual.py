"""Residual blocks that end before their last ReLU, and the shortcuts beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import conv

Shortcut = Literal["downsample", "shortcut", "pad", "pad_end"]


class ResidualBlock(nn.Module, ABC):
    """Convolutions (a subclass's `residual`) plus a shortcut; forward gives the sum before the ReLU.

    shortcut: where the shape changes, a 1x1 convolution and BatchNorm that checkpoints know as `downsample` or as
    `shortcut`; or every stride-th position with channels of zeros on both sides ("pad") or behind ("pad_end").
    """

    expansion = 1

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """What is added to the shortcut: [B,C,H,W] -> [B,C',H',W']."""

    @property
    @abstractmethod
    def last_norm(self) -> nn.BatchNorm2d:
        """The BatchNorm that ends the residual."""

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self._past(x)

    def _link(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        """Make the shortcut; called last, as weights are drawn in the order of the layers."""
        self.stride, self.padding, self.projection = stride, (0, 0), ""
        if shortcut in ("pad", "pad_end"):
            before = (outputs - inputs) // 2 if shortcut == "pad" else 0
            self.padding = (before, outputs - inputs - before)
        elif stride != 1 or inputs != outputs:
            self.projection = shortcut
            setattr(self, shortcut, nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)))

    def _past(self, x: Tensor) -> Tensor:
        if self.projection:
            return getattr(self, self.projection)(x)  # type: ignore[no-any-return]
        if self.stride == 1 and self.padding == (0, 0):
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions of `width` channels."""

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self._link(inputs, width, stride, shortcut)

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions, the last of 4 x `width` channels; the stride is the 3x3's."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self._link(inputs, outputs, stride, shortcut)

    def residual(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.bn3(self.conv3(out))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


def make_stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, stride: int, count: int, shortcut: Shortcut
) -> nn.Sequential:
    """`count` blocks, the first of which takes `inputs` channels and has the stride."""
    first = block(inputs, width, stride, shortcut)
    outputs = block.expansion * width
    return nn.Sequential(first, *(block(outputs, width, 1, shortcut) for _ in range(count - 1)))
