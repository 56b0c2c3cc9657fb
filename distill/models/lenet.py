"""LeNet-5 with ReLU and max pooling, for 32x32 grey digits: LeCun et al., Proceedings of the IEEE 1998.

Widths, activations and what counts as the embedding are those of DAFL's code (Chen et al., ICCV 2019,
arXiv:1904.01186; lenet.py of huawei-noah/Data-Efficient-Model-Compression), whose student has half the channels.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet


class LeNet5(CifarNet):
    """Three 5x5 convolutions without padding, max pooling between them, then two linear layers.

    widths: channels of the convolutions and units of the hidden linear layer. The classifier is both linear layers,
    so the embedding [B, widths[2]] is the last convolution's: DAFL's activation loss reads that one. Every
    convolution is a stage, and its pre-activation is its output. Images have at least 32 pixels a side.
    """

    classifier_name = "fc"
    stem_name = None
    stage_names = ("conv1", "conv2", "conv3")

    def __init__(
        self, num_classes: int = 10, in_chans: int = 1, *, widths: Sequence[int] = (6, 16, 120, 84)
    ) -> None:
        super().__init__()
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths={list(widths)} of LeNet-5 must be four positive numbers, such as 6, 16, 120, 84")
        for name, inputs, outputs in zip(self.stage_names, (in_chans, *widths), widths, strict=False):
            setattr(self, name, nn.Conv2d(inputs, outputs, 5))
        self.hidden = widths[3]
        self.describe(num_classes, widths[:3], (1, 2, 4), widths[2])

    def new_classifier(self) -> nn.Module:
        if not self.num_classes:
            return nn.Identity()
        hidden = nn.Linear(self.num_features, self.hidden)
        return nn.Sequential(hidden, nn.ReLU(), nn.Linear(self.hidden, self.num_classes))

    def stage(self, index: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        preact = getattr(self, self.stage_names[index])(F.max_pool2d(x, 2) if index else x)
        return F.relu(preact), preact
