"""Our nets by name: the family of models.families that each is of, and its arguments. Imports no torch.

To add one: a line here, a file conf/student/<name>.yaml (and conf/teacher), its parameters and MACs in tests/models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

CIFAR_PREFIX = "cifar_"
_WIDE = (32, 64, 128, 256)
_VGG = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_PLAIN: dict[str, dict[str, Any]] = {  # TAKD's plain_cnn_cifar.py: for CIFAR-100, and for CIFAR-10
    "plain2": {"widths": (32, 32), "convolutions": (1, 1)},
    "plain4": {"widths": (32, 64), "convolutions": (2, 2)},
    "plain6": {"widths": (32, 64, 128), "convolutions": (2, 2, 2), "pool_last": False},
    "plain8": {"widths": (32, 64, 128, 256), "convolutions": (2, 2, 2, 2), "hidden": 64},
    "plain10": {"widths": (32, 64, 128, 256), "convolutions": (2, 2, 2, 4), "hidden": 512},
    "plain2_c10": {"widths": (16, 16), "convolutions": (1, 1)},
    "plain4_c10": {"widths": (16, 32), "convolutions": (2, 2)},
    "plain6_c10": {"widths": (16, 32, 64), "convolutions": (2, 2, 2)},
    "plain8_c10": {"widths": (16, 32, 64, 128), "convolutions": (2, 2, 2, 2), "hidden": 64},
    "plain10_c10": {"widths": (32, 64, 128, 256), "convolutions": (2, 2, 2, 4), "hidden": 128},
}


@dataclass(frozen=True)
class OurNet:
    """size: the side of the images that it was designed for. sized: its weights depend on that of those it gets, which
    it takes as `size`. maps: whether it shows stages, and not logits and an embedding alone.
    """

    family: str
    args: Mapping[str, Any] = field(default_factory=dict)
    size: int = 32
    sized: bool = False
    maps: bool = True


def _resnets(depths: Iterable[int], suffix: str = "", **args: Any) -> dict[str, OurNet]:
    return {f"resnet{depth}{suffix}": OurNet("resnet", {"depth": depth, **args}) for depth in depths}


def _wide_resnets(depths: Iterable[int], widths: Iterable[int]) -> dict[str, OurNet]:
    pairs = product(depths, widths)
    return {f"wrn_{depth}_{widen}": OurNet("wrn", {"depth": depth, "widen": widen}) for depth, widen in pairs}


def _biased_wide_resnets(*nets: tuple[int, int]) -> dict[str, OurNet]:
    """Polino's, with their dropout."""
    args = [{"depth": depth, "widen": widen, "drop_rate": 0.3} for depth, widen in nets]
    return {f"wrn_biased_{own['depth']}_{own['widen']}": OurNet("wrn_biased", own) for own in args}


def _four_stages(depth: int, *blocks: int, bottleneck: bool) -> dict[str, OurNet]:
    return {f"ResNet{depth}": OurNet("resnet_four", {"blocks": blocks, "bottleneck": bottleneck})}


_CIFAR: dict[str, OurNet] = {
    **_resnets((8, 14, 20, 32, 44, 56, 110)),
    **_resnets((8, 32), "x4", widths=_WIDE),
    **_resnets((110,), "_bottleneck", bottleneck=True),
    **_resnets((20, 32, 44, 56, 110), "_a", shortcut="pad"),
    **_resnets((8, 14, 20, 26), "_bss", shortcut="pad_end"),
    **_four_stages(18, 2, 2, 2, 2, bottleneck=False),
    **_four_stages(34, 3, 4, 6, 3, bottleneck=False),
    **_four_stages(50, 3, 4, 6, 3, bottleneck=True),
    **_four_stages(101, 3, 4, 23, 3, bottleneck=True),
    "PreActResNet18": OurNet("preact_resnet"),
    **_wide_resnets((16, 40), (1, 2)),
    **{f"vgg{depth}": OurNet("vgg", {"convolutions": counts}) for depth, counts in _VGG.items()},
    "MobileNetV2": OurNet("mobilenetv2"),
    "ShuffleV1": OurNet("shufflenetv1"),
    "ShuffleV2": OurNet("shufflenetv2"),
    "ShuffleV2_3x3": OurNet("shufflenetv2", {"kernel": 3}),
    "MobileNetV2_tinyimagenet": OurNet("mobilenetv2_tiny", size=64),
    **_biased_wide_resnets((10, 4), (16, 6), (16, 10), (16, 22), (22, 8), (28, 20)),
    **{name: OurNet("plain", layers, sized=True) for name, layers in _PLAIN.items()},
}
OUR_NETS: dict[str, OurNet] = {
    **{CIFAR_PREFIX + name: net for name, net in _CIFAR.items()},
    "mnist_mlp": OurNet("mlp", size=28, sized=True, maps=False),
    "mnist_lenet5": OurNet("lenet"),
    "mnist_lenet5_half": OurNet("lenet", {"widths": (3, 8, 60, 42)}),
    "mobilenetv1_relu": OurNet("mobilenetv1", size=224),
    "bit_resnet14": OurNet("bit_resnet", size=128),
}


def is_sized(name: str) -> bool:
    """Whether it is one of our nets whose weights depend on the images' side."""
    return name in OUR_NETS and OUR_NETS[name].sized
