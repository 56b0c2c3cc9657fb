"""Strided 1x1 convolutions of few channels, computed so that no kernel of torch's corrupts memory.

torch 2.15 does so in the strided form's backward on CPUs without AVX512, where maps of fewer than 8 channels are
channels_last; wider maps are safe, and faster as they are.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SAFE_CHANNELS = 8  # channels, from which on a map is safe


class SubsampledConv(nn.Conv2d):
    """A 1x1 convolution with a stride s, computed at stride 1 from every s-th position: the same values."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, outputs, ceil(H / s), ceil(W / s)]."""
        high, wide = self.stride
        return F.conv2d(x[:, :, ::high, ::wide], self.weight, self.bias, groups=self.groups)


def is_narrow(layer: nn.Conv2d) -> bool:
    """Whether a layer is a strided 1x1 convolution of few channels, without padding."""
    padded = layer.padding not in ((0, 0), "valid")
    return layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels < SAFE_CHANNELS and not padded


def subsample_narrow(net: nn.Module) -> nn.Module:
    """Let each such layer of a net of others compute as a SubsampledConv; names and weights stay. Returns the net."""
    for layer in net.modules():
        if type(layer) is nn.Conv2d and is_narrow(layer):
            layer.__class__ = SubsampledConv
    return net
