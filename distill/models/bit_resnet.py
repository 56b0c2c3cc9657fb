"""ResNet-v2 as Big Transfer has it, made thin: GroupNorm and standardised convolutions in place of BatchNorm.

Kolesnikov et al., ECCV 2020, arXiv:1912.11370, section 3.1, and google-research/big_transfer, bit_pytorch/models.py;
their own widths, with weights, are timm's resnetv2_50x1_bit and larger. Weight standardisation: Qiao et al. 2019,
arXiv:1903.10520. No statistic is shared by the images of a batch, so a net learns alike from batches of any size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet
from distill.models.subsampled import is_narrow

EPSILON = 1e-10  # of the authors' standardisation; their GroupNorm has torch's 1e-5


class StdConv(nn.Conv2d):
    """A convolution whose filters [C_in,k,k] are brought to mean 0 and variance 1 whenever they are used."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,outputs,ceil(H / stride),ceil(W / stride)]."""
        filters = self.weight.float().flatten(1)
        variance, mean = torch.var_mean(filters, 1, unbiased=False, keepdim=True)
        filters = (filters - mean) * (variance + EPSILON).rsqrt()
        filters = filters.view_as(self.weight).to(x.dtype)
        if is_narrow(self):
            return F.conv2d(x[:, :, :: self.stride[0], :: self.stride[1]], filters)
        return self._conv_forward(x, filters, None)


def group_norm(width: int) -> nn.GroupNorm:
    """32 groups, as the authors have, or in a thin layer as many as leave four channels to each."""
    return nn.GroupNorm(min(32, width // 4), width)


class _Bottleneck(nn.Module):
    """GroupNorm, ReLU, 1x1, GroupNorm, ReLU, 3x3, GroupNorm, ReLU, 1x1; the middle is a quarter as wide.

    A shortcut that changes the shape starts behind the first ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.gn1, self.conv1 = group_norm(inputs), StdConv(inputs, middle)
        self.gn2, self.conv2 = group_norm(middle), StdConv(middle, middle, 3, stride)
        self.gn3, self.conv3 = group_norm(middle), StdConv(middle, outputs)
        self.downsample = StdConv(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.gn1(x))
        shortcut = x if self.downsample is None else self.downsample(out)
        out = self.conv2(F.relu(self.gn2(self.conv1(out))))
        return shortcut + self.conv3(F.relu(self.gn3(out)))


class BitResNet(CifarNet):
    """A 7x7 stem at stride 2, a pooling at stride 2, four stages; GroupNorm and ReLU before the mean over the map.

    Stages give raw sums, and no pre-activations.
    """

    stem_name = "stem_conv"
    stage_names = ("block1", "block2", "block3", "block4")
    has_preacts = False

    def __init__(
        self,
        num_classes: int = 100,
        in_chans: int = 3,
        *,
        blocks: Sequence[int] = (1, 1, 1, 1),
        widths: Sequence[int] = (32, 64, 128, 256),
    ) -> None:
        super().__init__()
        channels = (widths[0] // 4, *widths)
        self.stem_conv = StdConv(in_chans, channels[0], 7, 2)
        for i, (name, count) in enumerate(zip(self.stage_names, blocks, strict=True)):
            first = _Bottleneck(channels[i], widths[i], 1 if i == 0 else 2)
            setattr(self, name, nn.Sequential(first, *(_Bottleneck(widths[i], widths[i], 1) for _ in range(count - 1))))
        self.gn = group_norm(widths[-1])
        self.describe(num_classes, channels, (4, 4, 8, 16, 32), widths[-1])

    def stem(self, inputs: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(self.stem_conv(inputs), (1, 1, 1, 1)), 3, 2)

    def stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return getattr(self, self.stage_names[index])(x), None

    def tail(self, feature: Tensor, preact: Tensor | None = None) -> Tensor:
        return F.relu(self.gn(feature))

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        raise ValueError("a ResNet of Big Transfer is normalised by groups of channels")
