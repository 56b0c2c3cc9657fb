"""Plain CNNs of 2 to 10 convolutions: the nets of Mirzadeh et al., AAAI 2020, arXiv:1902.03393 (TAKD).

Layers are those of the authors' plain_cnn_cifar.py (imirzadeh/Teacher-Assistant-Knowledge-Distillation), which has one
list of nets for CIFAR-10 and a wider one for CIFAR-100; torch's own initialisation, as there.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet
from distill.models.vgg import conv_block


class PlainCNN(CifarNet):
    """Stages of 3x3 convolutions with BatchNorm and ReLU, max pooling behind each, then one or two linear layers.

    widths, convolutions: channels, and number of convolutions, of each stage. hidden: units of a ReLU layer before the
    classifier (0: none). pool_last: whether the last stage's map is pooled too. size: height and width of the images,
    as the map is flattened, not averaged. Raises ValueError for images that the poolings leave nothing of.
    """

    stem_name = None

    def __init__(
        self,
        num_classes: int = 100,
        in_chans: int = 3,
        *,
        size: int = 32,
        widths: Sequence[int],
        convolutions: Sequence[int],
        hidden: int = 0,
        pool_last: bool = True,
    ) -> None:
        super().__init__()
        self.stage_names = tuple(f"block{i}" for i in range(len(widths)))
        self.pool_last = pool_last
        inputs = (in_chans, *widths)
        for name, i, outputs, count in zip(self.stage_names, inputs, widths, convolutions, strict=False):
            setattr(self, name, conv_block(i, outputs, count))
        side = size >> (len(widths) - (not pool_last))
        if not side:
            raise ValueError(f"{len(widths)} stages need images of at least {1 << len(widths)} pixels, not {size}")
        flat = side * side * widths[-1]
        self.hidden = nn.Linear(flat, hidden) if hidden else None
        self.describe(num_classes, widths, [1 << i for i in range(len(widths))], hidden or flat)

    def stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        preact = getattr(self, self.stage_names[index])(F.max_pool2d(x, 2) if index else x)
        return F.relu(preact), preact

    def tail(self, feature: Tensor, preact: Tensor | None = None) -> Tensor:
        return F.max_pool2d(feature, 2) if self.pool_last else feature

    def pool(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return x if self.hidden is None else F.relu(self.hidden(x))

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        blocks: list[Any] = [getattr(self, name) for name in self.stage_names]
        return [block[-1] for block in blocks]
