"""A weight-sharing supernet over depth and width of the CIFAR ResNets: every smaller net is the corner of
its tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from distill.models.builder import build
from distill.models.feature_net import FeatureNet
from distill.models.outputs import Outputs
from distill.models.quant import refuse_quantized
from distill.models.residual import Bottleneck
from distill.models.resnet import ResNet


class Choice(NamedTuple):
    """One net of the space: blocks in each stage, and channels as a share of the largest's."""

    blocks: int
    width: float


class Supernet:
    """All nets of a space inside one: a net of n blocks and width w has the first n blocks and first
    channels.

    Holds no state of its own: weights and statistics are those of `net`, which is the largest. Skeletons say
    only how a smaller net runs. Raises ValueError for a net that is no CIFAR ResNet and for choices outside
    the space.
    """

    def __init__(self, net: FeatureNet, depths: Sequence[int], widths: Sequence[float]) -> None:
        three = any(isinstance(module, Bottleneck) for module in net.modules())
        if not isinstance(net.model, ResNet) or net.model.classifier_name != "fc" or three:
            raise ValueError(
                f"nas-kd searches among CIFAR ResNets, and {net.name} is none: take student=resnet20, or "
                "compare sizes of another net by a sweep over its args with method=kd."
            )
        refuse_quantized(net, "the weights that smaller nets share are its own")
        self.net = net
        most = len(list(net.model.layer1.children()))  # type: ignore[union-attr]
        fits = (
            depths
            and widths
            and 1 <= min(depths) <= max(depths) <= most
            and 0 < min(widths) <= max(widths) <= 1
        )
        if not fits:
            raise ValueError(
                f"method.depths={list(depths)} and method.widths={list(widths)} do not fit {net.name}: give "
                f"1 to {most} blocks a stage and widths above 0 up to 1."
            )
        self.choices = [Choice(blocks, width) for blocks in sorted(depths) for width in sorted(widths)]
        self.skeletons = [self.plain(choice) for choice in self.choices]
        self.macs = [skeleton.macs() for skeleton in self.skeletons]

    def plain(self, choice: Choice) -> FeatureNet:
        """Return an ordinary net of that size, with weights of its own."""
        model = self.net.model
        assert isinstance(model, ResNet)
        channels = [int(info["num_chs"]) for info in model.feature_info]
        widths = [max(1, round(count * choice.width)) for count in channels]
        args = {"depth": 6 * choice.blocks + 2, "widths": widths}
        return build(
            self.net.name,
            self.net.num_classes,
            in_chans=self.net.in_chans,
            size=self.net.size,
            args=args,
            seed=0,
        )

    def subnet_state(self, number: int) -> dict[str, Tensor]:
        """Return the supernet's tensors as the numbered net has them: views, so that gradients and
        statistics reach it.
        """
        shared = dict(self.net.named_parameters()) | dict(self.net.named_buffers())
        wanted = self.skeletons[number].state_dict()
        return {
            name: shared[name][tuple(slice(0, n) for n in tensor.shape)] for name, tensor in wanted.items()
        }

    def run(self, number: int, inputs: Tensor, keep_statistics: bool = False) -> Outputs:
        """Run the numbered net in the supernet's mode; `keep_statistics` leaves running statistics as they
        are.
        """
        tensors = self.subnet_state(number)
        if keep_statistics:
            buffers = dict(self.net.named_buffers())
            tensors |= {name: tensors[name].clone() for name in tensors if name in buffers}
        skeleton = self.skeletons[number].train(self.net.training)
        outputs: Outputs = functional_call(skeleton, tensors, (inputs,))
        return outputs

    @torch.no_grad()
    def extract(self, number: int) -> FeatureNet:
        """Return the numbered net as an ordinary one, with a copy of its weights."""
        made = self.plain(self.choices[number])
        made.load_state_dict({name: value.clone() for name, value in self.subnet_state(number).items()})
        made.renormalize_as(self.net)
        return made.to(next(self.net.parameters()).device)
