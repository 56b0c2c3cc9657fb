"""How a net's weights begin where a protocol's authors have it otherwise than the net's own code: schedule.inits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill.models.mobilenetv1 import MobileNetV1
from distill.models.residual import ResidualBlock
from distill.models.resnet import ResNet
from distill.models.resnet_four import FourStageResNet


def scaled_by_fan_out(weight: Tensor) -> None:
    """Draw a weight [C_out,C_in,...] as TensorFlow's variance_scaling_initializer(mode="FAN_OUT") does: normal, cut at
    two deviations of sqrt(2.6 / fan out), which leaves a variance of 2 / fan out.
    """
    width = math.sqrt(2.6 / (weight.shape[0] * weight[0, 0].numel()))
    nn.init.trunc_normal_(weight, std=width, a=-2 * width, b=2 * width)


_he = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
_small = partial(nn.init.normal_, std=0.01)


@dataclass(frozen=True)
class _Rule:
    """conv, linear: draw the weight of such a layer, and bias what it adds; None: both as torch makes them.
    zero_last: whether the last BatchNorm of each residual block is at 0.
    """

    conv: Callable[[Tensor], Any] | None = None
    linear: Callable[[Tensor], Any] | None = None
    bias: Callable[[Tensor], Any] = nn.init.zeros_
    zero_last: bool = False


_RULES = {
    "torch": _Rule(),
    "timm": _Rule(conv=_he, zero_last=True),  # of its ResNets
    "mmcls": _Rule(conv=_he, linear=_small, zero_last=True),  # its ResNet and LinearClsHead
    "small_head": _Rule(conv=_he, linear=_small, bias=_small),
    "fan_out": _Rule(conv=scaled_by_fan_out, linear=scaled_by_fan_out),
}


def begin_by(model: nn.Module, rule: str, name: str) -> None:
    """Draw all weights of a net anew by a rule. Raises ValueError for a net that the rule does not tell of."""
    known = _RULES[rule]
    layers = [layer for layer in model.modules() if next(layer.parameters(recurse=False), None) is not None]
    others = [type(layer).__name__ for layer in layers if not isinstance(layer, (nn.Conv2d, nn.Linear, _BatchNorm))]
    if others:
        raise ValueError(_refusal(name, rule, f"which has weights in {others[0]}"))
    if known.zero_last and not _has_known_blocks(model):
        raise ValueError(_refusal(name, rule, "which is no ResNet and no MobileNetV1"))
    for layer in layers:
        layer.reset_parameters()  # type: ignore[operator]  # BatchNorms too, to 1 and 0
        draw = known.conv if isinstance(layer, nn.Conv2d) else known.linear
        if draw is not None and isinstance(layer, (nn.Conv2d, nn.Linear)):
            draw(layer.weight)
            if layer.bias is not None:
                known.bias(layer.bias)
    for block in model.modules() if known.zero_last else ():
        _zero_last(block)


def _has_known_blocks(model: nn.Module) -> bool:
    """Whether it is of a kind whose residual blocks, where it has any, tell their last BatchNorm."""
    timms = type(model).__module__ == "timm.models.resnet"  # which takes seconds to import
    return timms or isinstance(model, (ResNet, FourStageResNet, MobileNetV1))


def _zero_last(block: nn.Module) -> None:
    if isinstance(block, ResidualBlock):
        nn.init.zeros_(block.last_norm.weight)
    elif hasattr(block, "zero_init_last"):  # timm's blocks
        block.zero_init_last()  # type: ignore[operator]


def _refusal(name: str, rule: str, why: str) -> str:
    return f"schedule.inits: {rule} does not say how {name} begins, {why}: leave that net out"
