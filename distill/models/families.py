"""Our nets by name: name -> constructor(num_classes, in_chans, **arguments of the family)."""

from collections.abc import Callable
from functools import partial
from typing import Any

from distill.config.net_names import CIFAR_PREFIX
from distill.models.bit_resnet import BitResNet
from distill.models.cifar_net import CifarNet
from distill.models.lenet import LeNet5
from distill.models.mlp import MLP
from distill.models.mobilenetv1 import MobileNetV1
from distill.models.mobilenetv2 import MobileNetV2
from distill.models.plain import PlainCNN
from distill.models.preact_resnet import PreActResNet
from distill.models.resnet import ResNet
from distill.models.resnet_four import FourStageResNet
from distill.models.shufflenetv1 import ShuffleV1
from distill.models.shufflenetv2 import ShuffleV2
from distill.models.vgg import VGG
from distill.models.wrn import WideResNet

_WIDE = (32, 64, 128, 256)
VGG_CONVOLUTIONS = {
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

_FAMILIES: dict[str, Callable[..., CifarNet]] = {
    **{f"resnet{depth}": partial(ResNet, depth=depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}_a": partial(ResNet, depth=depth, shortcut="pad") for depth in (20, 32, 44, 56, 110)},
    **{f"resnet{depth}_bss": partial(ResNet, depth=depth, shortcut="pad_end") for depth in (8, 14, 20, 26)},
    "resnet110_bottleneck": partial(ResNet, depth=110, bottleneck=True),
    **{f"resnet{depth}x4": partial(ResNet, depth=depth, widths=_WIDE) for depth in (8, 32)},
    **{
        f"wrn_{depth}_{widen}": partial(WideResNet, depth=depth, widen=widen)
        for depth in (16, 40)
        for widen in (1, 2)
    },
    **{f"vgg{depth}": partial(VGG, convolutions=counts) for depth, counts in VGG_CONVOLUTIONS.items()},
    **{name: partial(PlainCNN, **layers) for name, layers in _PLAIN.items()},
    "ResNet18": partial(FourStageResNet, blocks=(2, 2, 2, 2), bottleneck=False),
    "ResNet34": partial(FourStageResNet, blocks=(3, 4, 6, 3), bottleneck=False),
    "ResNet50": partial(FourStageResNet, blocks=(3, 4, 6, 3)),
    "ResNet101": partial(FourStageResNet, blocks=(3, 4, 23, 3)),
    "PreActResNet18": PreActResNet,
    "MobileNetV2": MobileNetV2,
    "ShuffleV1": ShuffleV1,
    "ShuffleV2": ShuffleV2,
}
CONSTRUCTORS: dict[str, Callable[..., CifarNet]] = {
    **{CIFAR_PREFIX + name: family for name, family in _FAMILIES.items()},
    "mobilenetv1_relu": MobileNetV1,
    "bit_resnet14": BitResNet,
    "mnist_mlp": MLP,
    "mnist_lenet5": LeNet5,
    "mnist_lenet5_half": partial(LeNet5, widths=(3, 8, 60, 42)),
}
# nets whose weights depend on the image's size, which they take as `size`
SIZED = frozenset({"mnist_mlp", *(CIFAR_PREFIX + name for name in _PLAIN)})


def own_size(name: str) -> int:
    """The side of the images that one of our nets was designed for."""
    return {"mnist_mlp": 28, "mobilenetv1_relu": 224, "bit_resnet14": 128}.get(name, 32)
