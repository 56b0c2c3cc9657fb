"""Wide ResNets: Zagoruyko & Komodakis, BMVC 2016, arXiv:1605.07146.

Blocks begin with BatchNorm and ReLU, so a stage's output is the raw sum of its last block (with negative
entries) and its pre-activation is the first BatchNorm of what follows. That BatchNorm runs once: its output
is handed to the next block, so that reading pre-activations does not move the running statistics twice.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, Trace, conv, init_convolutions


class _PreActBlock(nn.Module):
    """BatchNorm, ReLU, 3x3, BatchNorm, ReLU, (dropout,) 3x3, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.convShortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None
        self.drop_rate = drop_rate

    def forward(self, x: Tensor, normed: Tensor | None = None) -> Tensor:
        """normed: bn1(x), where it has been computed already."""
        activated = F.relu(self.bn1(x) if normed is None else normed)
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        if self.drop_rate > 0:
            out = F.dropout(out, self.drop_rate, self.training)
        return self.conv2(out) + (x if self.convShortcut is None else self.convShortcut(activated))


class Group(nn.Module):
    """The blocks of one stage; the extra level is part of the checkpoints' names."""

    def __init__(
        self, block: Callable[..., nn.Module], blocks: int, inputs: int, outputs: int, stride: int, drop_rate: float
    ) -> None:
        super().__init__()
        first = block(inputs, outputs, stride, drop_rate)
        self.layer = nn.Sequential(first, *(block(outputs, outputs, 1, drop_rate) for _ in range(blocks - 1)))

    def forward(self, x: Tensor, normed: Tensor) -> Tensor:
        x = self.layer[0](x, normed)
        for block in list(self.layer)[1:]:
            x = block(x)
        return x

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The BatchNorm that every path through the stage begins with."""
        first: Any = self.layer[0]
        return first.bn1


class WideResNet(CifarNet):
    """depth = 6n + 4 layers, `widen` times as wide. Raises ValueError when depth is not 6n + 4."""

    stem_name = "conv1"
    stage_names = ("block1", "block2", "block3")
    block: type[nn.Module] = _PreActBlock
    biased = False

    def __init__(
        self, num_classes: int = 100, in_chans: int = 3, *, depth: int, widen: int, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth={depth} of a wide ResNet must be 6n+4, such as 10, 16, 28 or 40")
        widths = (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = conv(in_chans, widths[0], bias=self.biased)
        for i, name in enumerate(self.stage_names):
            stride = 1 if i == 0 else 2
            setattr(self, name, Group(self.block, (depth - 4) // 6, widths[i], widths[i + 1], stride, drop_rate))
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.describe(num_classes, widths, (1, 1, 2, 4), widths[-1])
        init_convolutions(self)

    def new_classifier(self) -> nn.Module:
        classifier = super().new_classifier()
        if isinstance(classifier, nn.Linear):
            nn.init.zeros_(classifier.bias)
        return classifier

    def stem(self, inputs: Tensor) -> Tensor:
        return self.conv1(inputs)

    def stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        # alone: the BatchNorm that gives the pre-activation belongs to what follows, and is not run
        group: Group = getattr(self, self.stage_names[index])
        return group(x, group.norm(x)), None

    def trace(self, inputs: Tensor, stages: int | None = None) -> Trace:
        x = self.stem(inputs)
        trace = Trace(x, x)
        groups: list[Group] = [getattr(self, name) for name in self.stage_names[:stages]]
        normed = groups[0].norm(x) if groups else x
        for group, following in zip(groups, self.bn_before_relu(), strict=False):
            x = group(x, normed)
            normed = following(x)
            trace.add(x, normed)
        return trace

    def tail(self, feature: Tensor, preact: Tensor | None = None) -> Tensor:
        return F.relu(self.bn1(feature) if preact is None else preact)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [*(getattr(self, name).norm for name in self.stage_names[1:]), self.bn1]
