"""Constructors of our nets, whose names and arguments are in config.our_nets."""

from collections.abc import Callable
from functools import partial

from distill.config.our_nets import OUR_NETS
from distill.models.bit_resnet import BitResNet
from distill.models.cifar_net import CifarNet
from distill.models.lenet import LeNet5
from distill.models.mlp import MLP
from distill.models.mobilenetv1 import MobileNetV1
from distill.models.mobilenetv2 import MobileNetV2
from distill.models.mobilenetv2_tiny import TinyMobileNetV2
from distill.models.plain import PlainCNN
from distill.models.preact_resnet import PreActResNet
from distill.models.resnet import ResNet
from distill.models.resnet_four import FourStageResNet
from distill.models.shufflenetv1 import ShuffleV1
from distill.models.shufflenetv2 import ShuffleV2
from distill.models.vgg import VGG
from distill.models.wrn import WideResNet
from distill.models.wrn_biased import BiasedWideResNet

FAMILIES: dict[str, Callable[..., CifarNet]] = {
    "bit_resnet": BitResNet,
    "lenet": LeNet5,
    "mlp": MLP,
    "mobilenetv1": MobileNetV1,
    "mobilenetv2": MobileNetV2,
    "mobilenetv2_tiny": TinyMobileNetV2,
    "plain": PlainCNN,
    "preact_resnet": PreActResNet,
    "resnet": ResNet,
    "resnet_four": FourStageResNet,
    "shufflenetv1": ShuffleV1,
    "shufflenetv2": ShuffleV2,
    "vgg": VGG,
    "wrn": WideResNet,
    "wrn_biased": BiasedWideResNet,
}
CONSTRUCTORS: dict[str, Callable[..., CifarNet]] = {
    name: partial(FAMILIES[net.family], **net.args) for name, net in OUR_NETS.items()
}
"""name -> constructor(num_classes, in_chans, **arguments of the family)"""
