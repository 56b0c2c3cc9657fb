"""MobileNetV2 for 32x32 images: Sandler et al., CVPR 2018, arXiv:1801.04381.

Its bottlenecks are linear: no stage ends in a ReLU, so there are no pre-activations to tap.
"""

from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, conv, init_convolutions

# channels at width 1, blocks, stride, expanded?
SETTINGS = (
    (16, 1, 1, False),
    (24, 2, 1, True),
    (32, 3, 2, True),
    (64, 4, 2, True),
    (96, 3, 1, True),
    (160, 3, 2, True),
    (320, 1, 1, True),
)


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 a channel, 1x1 down, and the identity where the shapes allow."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        expansion: int,
        *,
        bias: bool = False,
        relu: type[nn.ReLU | nn.ReLU6] = nn.ReLU,
    ) -> None:
        super().__init__()
        middle = inputs * expansion
        self.conv = nn.Sequential(
            conv(inputs, middle, 1, bias=bias),
            nn.BatchNorm2d(middle),
            relu(inplace=True),
            conv(middle, middle, 3, stride, groups=middle, bias=bias),
            nn.BatchNorm2d(middle),
            relu(inplace=True),
            conv(middle, outputs, 1, bias=bias),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(CifarNet):
    """width: factor on all channels; expansion: of the bottlenecks."""

    classifier_name = "classifier"
    stem_name = "conv1"
    groups: tuple[tuple[int, ...], ...] = ((0, 1), (2,), (3, 4), (5, 6))  # which groups of blocks make a stage
    stage_names = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")
    has_preacts = False

    def __init__(
        self, num_classes: int = 100, in_chans: int = 3, *, width: float = 0.5, expansion: int = 6
    ) -> None:
        super().__init__()
        inputs = int(32 * width)
        self.conv1 = _conv_bn_relu(in_chans, inputs, 3, 2)
        self.blocks = nn.ModuleList()
        channels = [inputs]
        for base, count, stride, expanded in SETTINGS:
            outputs, factor = int(base * width), expansion if expanded else 1
            first = InvertedResidual(inputs, outputs, stride, factor)
            rest = [InvertedResidual(outputs, outputs, 1, factor) for _ in range(count - 1)]
            self.blocks.append(nn.Sequential(first, *rest))
            inputs = outputs
            channels.append(outputs)
        last = int(1280 * width) if width > 1 else 1280
        self.conv2 = _conv_bn_relu(inputs, last, 1, 1)
        stages = [channels[groups[-1] + 1] for groups in self.groups]
        self.describe(num_classes, (channels[0], *stages), (2, 2, 4, 8, 16), last)
        init_convolutions(self)

    def new_classifier(self) -> nn.Module:
        """A Sequential of one layer: the checkpoints call it classifier.0."""
        if not self.num_classes:
            return nn.Identity()
        layer = nn.Linear(self.num_features, self.num_classes)
        nn.init.normal_(layer.weight, 0, 0.01)
        nn.init.zeros_(layer.bias)
        return nn.Sequential(layer)

    def stem(self, inputs: Tensor) -> Tensor:
        return self.conv1(inputs)

    def stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        for group in self.groups[index]:
            x = self.blocks[group](x)
        return x, None

    def tail(self, feature: Tensor, preact: Tensor | None = None) -> Tensor:
        return self.conv2(feature)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        raise ValueError(
            "MobileNetV2's bottlenecks are linear, so no BatchNorm comes right before a stage's ReLU"
        )


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs), nn.ReLU())
