"""VGG with BatchNorm, without hidden linear layers: Simonyan & Zisserman, ICLR 2015, arXiv:1409.1556."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, init_convolutions

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(CifarNet):
    """Five blocks of `convolutions` 3x3 layers, the first of them the stem.

    Max pooling halves the map in between; before the fifth only in images of 64 pixels or more.
    """

    block0: nn.Sequential
    classifier_name = "classifier"
    stem_name = "block0"
    stage_names = ("block1", "block2", "block3", "block4")

    def __init__(self, num_classes: int = 100, in_chans: int = 3, *, convolutions: Sequence[int]) -> None:
        super().__init__()
        for i, (outputs, count) in enumerate(zip(_WIDTHS, convolutions, strict=True)):
            setattr(self, f"block{i}", conv_block(_WIDTHS[i - 1] if i else in_chans, outputs, count))
        self.describe(num_classes, _WIDTHS, (1, 2, 4, 8, 8), _WIDTHS[-1])
        init_convolutions(self)

    def new_classifier(self) -> nn.Module:
        classifier = super().new_classifier()
        if isinstance(classifier, nn.Linear):
            nn.init.normal_(classifier.weight, 0, 0.01)
            nn.init.zeros_(classifier.bias)
        return classifier

    def stem(self, inputs: Tensor) -> Tensor:
        return F.relu(self.block0(inputs))

    def stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        # after three poolings an image of 64 pixels has a map of 8
        if index < 3 or min(x.shape[-2:]) >= 8:
            x = F.max_pool2d(x, 2)
        preact = getattr(self, self.stage_names[index])(x)
        return F.relu(preact), preact

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [getattr(self, name)[-1] for name in self.stage_names]


def conv_block(inputs: int, outputs: int, count: int) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU, ... without the last ReLU."""
    layers: list[nn.Module] = []
    for i in range(count):
        convolution = nn.Conv2d(outputs if i else inputs, outputs, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
