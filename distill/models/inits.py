"""How a net's weights begin where a protocol's authors have it otherwise than the net's own code: schedule.inits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill.models.mobilenetv1 import MobileNetV1
from distill.models.residual import ResidualBlock
from distill.models.resnet import ResNet
from distill.models.resnet_four import FourStageResNet


@dataclass(frozen=True)
class _Rule:
    """he: convolutions by He's normal draw, by fan out, and not as torch makes them. zero_last: the last BatchNorm of
    each residual block at 0. head_std: of a classifier's normal weights, its biases being 0; None: as torch makes it.
    """

    he: bool
    zero_last: bool
    head_std: float | None


_RULES = {
    "torch": _Rule(he=False, zero_last=False, head_std=None),
    "timm": _Rule(he=True, zero_last=True, head_std=None),  # of its ResNets
    "mmcls": _Rule(he=True, zero_last=True, head_std=0.01),  # mmclassification: ResNet, LinearClsHead
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
        if isinstance(layer, nn.Conv2d) and known.he:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear) and known.head_std is not None:
            nn.init.normal_(layer.weight, std=known.head_std)
        else:
            layer.reset_parameters()  # type: ignore[operator]  # BatchNorms too, to 1 and 0
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
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
