"""Networks: the CIFAR families against published numbers, and FeatureNet against the models it reads."""

from __future__ import annotations

import copy
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import yaml
from omegaconf import OmegaConf
from torch import Tensor, nn

from distill import config
from distill.config.net_names import is_known, nearest_nets, timm_names
from distill.config.our_nets import OUR_NETS
from distill.models import FeatureNet, Outputs, build
from distill.models.bit_resnet import StdConv
from distill.models.cifar_net import CifarNet, conv
from distill.models.families import CONSTRUCTORS
from distill.models.residual import BasicBlock
from distill.models.subsampled import SubsampledConv
from distill.models.timm_reader import isotropic_stages

# name: parameters, MMACs, maps (stem, stages, and last the embedding), signs of maps, signs of preacts;
# measured on the nets of the published tables for 100 classes and 3x32x32 (those of BSS, ONE, ResNet-18 to -101 and
# the pre-activation net: see the test of public counts). "+": no negative entries.
SMALL = "16x32 16x32 32x16 64x8 64"
VGG = "64x32 128x16 256x8 512x4 512x4 512"
TABLE = {
    "resnet8": (83_892, 12.5, SMALL, "+++++", "---"),
    "resnet14": (181_108, 26.7, SMALL, "+++++", "---"),
    "resnet20": (278_324, 40.8, SMALL, "+++++", "---"),
    "resnet32": (472_756, 69.1, SMALL, "+++++", "---"),
    "resnet44": (667_188, 97.4, SMALL, "+++++", "---"),
    "resnet56": (861_620, 125.8, SMALL, "+++++", "---"),
    "resnet110": (1_736_564, 253.2, SMALL, "+++++", "---"),
    "resnet8x4": (1_233_540, 177.1, "32x32 64x32 128x16 256x8 256", "+++++", "---"),
    "resnet32x4": (7_433_860, 1083.0, "32x32 64x32 128x16 256x8 256", "+++++", "---"),
    "resnet110_bottleneck": (1_727_284, 247.7, "16x32 64x32 128x16 256x8 256", "+++++", "---"),
    "resnet8_bss": (81_140, 12.2, SMALL, "+++++", "---"),
    "resnet14_bss": (178_356, 26.4, SMALL, "+++++", "---"),
    "resnet20_bss": (275_572, 40.6, SMALL, "+++++", "---"),
    "resnet26_bss": (372_788, 54.7, SMALL, "+++++", "---"),
    "ResNet18": (11_220_132, 555.5, "64x32 64x32 128x16 256x8 512x4 512", "++++++", "----"),
    "ResNet34": (21_328_292, 1159.4, "64x32 64x32 128x16 256x8 512x4 512", "++++++", "----"),
    "ResNet50": (23_705_252, 1298.0, "64x32 256x32 512x16 1024x8 2048x4 2048", "++++++", "----"),
    "ResNet101": (42_697_380, 2510.2, "64x32 256x32 512x16 1024x8 2048x4 2048", "++++++", "----"),
    "PreActResNet18": (11_217_444, 555.5, "64x32 64x32 128x16 256x8 512x4 512", "+-----", None),
    "wrn_16_1": (180_916, 26.7, SMALL, "----+", "---"),
    "wrn_16_2": (703_284, 101.1, "16x32 32x32 64x16 128x8 128", "----+", "---"),
    "wrn_40_1": (569_780, 83.3, SMALL, "----+", "---"),
    "wrn_40_2": (2_255_156, 327.6, "16x32 32x32 64x16 128x8 128", "----+", "---"),
    "vgg8": (3_965_028, 96.2, VGG, "++++++", "----"),
    "vgg11": (9_277_284, 209.4, VGG, "++++++", "----"),
    "vgg13": (9_462_180, 284.9, VGG, "++++++", "----"),
    "vgg16": (14_774_436, 398.2, VGG, "++++++", "----"),
    "vgg19": (20_086_692, 511.4, VGG, "++++++", "----"),
    "MobileNetV2": (812_836, 6.5, "16x16 12x16 16x8 48x4 160x2 1280", "+----+", None),
    "ShuffleV1": (949_258, 38.7, "24x32 240x16 480x8 960x4 960", "+++++", "---"),
    "ShuffleV2": (1_355_528, 44.5, "24x32 116x16 232x8 464x4 1024", "+++++", "---"),
    "ShuffleV2_3x3": (1_356_104, 45.1, "24x32 116x16 232x8 464x4 1024", "+++++", "---"),
    "MobileNetV2_tinyimagenet": (2_369_380, 64.9, "32x34 24x17 32x9 64x5 320x5 1280", "+----+", None),
    "wrn_biased_10_4": (1_223_300, 279.4, "16x32 64x32 128x16 256x8 256", "----+", "---"),
}
# wide nets of Polino et al., of which the test of TABLE sees the smallest alone: parameters for 100 classes
BIASED = {"16_6": 6_210_148, "16_10": 17_179_940, "16_22": 82_873_700, "22_8": 17_210_564, "28_20": 145_950_980}
# one net a family, for tests that need not see every depth
FAMILIES = [
    "resnet8", "resnet20_a", "resnet8_bss", "ResNet18", "ResNet50", "PreActResNet18", "wrn_16_2", "vgg8", "MobileNetV2",
    "ShuffleV1", "ShuffleV2", "MobileNetV2_tinyimagenet", "wrn_biased_10_4",
]  # fmt: skip
TIMM = [
    ("resnet18", 32, {}),
    ("vit_tiny_patch16_224", 32, {"patch_size": 8, "depth": 5}),
    ("deit_tiny_distilled_patch16_224", 32, {"depth": 4}),
    ("convnext_atto", 32, {}),
    ("mixer_s32_224", 64, {}),
    (
        "swin_tiny_patch4_window7_224",
        32,
        {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4)},
    ),
    ("test_efficientnet", 32, {}),
    ("mobilenetv3_small_050", 32, {}),
    ("resnetv2_50x1_bit", 32, {}),
]


def images(batch: int = 2, size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def signs(maps: list[Tensor]) -> str:
    return "".join("+" if x.min() >= 0 else "-" for x in maps)


def all_maps(out: Outputs) -> list[Tensor]:
    assert out.stem is not None
    return [out.stem, *out.features, out.embedding]


# ---- the CIFAR families


def test_the_table_covers_every_net() -> None:
    elsewhere = {name for name, net in OUR_NETS.items() if net.family == "plain" or name.endswith("_a")}
    others = elsewhere | {f"cifar_wrn_biased_{size}" for size in BIASED}
    assert {f"cifar_{name}" for name in TABLE} == {name for name in OUR_NETS if name.startswith("cifar_")} - others


@pytest.mark.parametrize("name", TABLE)
def test_parameters_macs_shapes_and_signs_are_the_published_ones(name: str) -> None:
    params, mmacs, shapes, map_signs, preact_signs = TABLE[name]
    net = build(f"cifar_{name}", 100, seed=0).eval()
    with torch.no_grad():
        out = net(images(1))
    assert net.params() == params
    assert round(net.macs() / 1e6, 1) == mmacs
    maps = all_maps(out)
    assert [str(x.shape[1]) for x in maps] == [part.split("x")[0] for part in shapes.split()]
    assert [x.shape[2] for x in maps[:-1]] == [int(part.split("x")[1]) for part in shapes.split()[:-1]]
    assert [net.stem_shape, *net.shapes] == [tuple(x.shape[1:]) for x in maps[:-1]]
    assert (net.embedding_dim, net.channels) == (maps[-1].shape[1], [x.shape[1] for x in out.features])
    assert signs(maps) == map_signs
    assert (None if out.preacts is None else signs(out.preacts)) == preact_signs
    assert net.has_preacts == (preact_signs is not None)


@pytest.mark.parametrize("size", BIASED)
def test_polinos_wide_nets_have_the_authors_parameters(size: str) -> None:
    with torch.device("meta"):
        net = CONSTRUCTORS[f"cifar_wrn_biased_{size}"](100, 3)
    assert sum(p.numel() for p in net.parameters()) == BIASED[size]
    block = net.block2.layer[0]
    assert (block.conv1.stride, block.conv2.stride, block.drop_rate, net.bn1.momentum) == ((1, 1), (2, 2), 0.3, 0.9)
    assert all(module.bias is not None for module in net.modules() if isinstance(module, nn.Conv2d))


def test_mcls_half_shufflenet_and_mdistillers_net_at_64_pixels() -> None:
    small = build("cifar_ShuffleV2_3x3", 100, args={"width": 0.5})
    assert (small.params(), round(small.macs() / 1e6, 1)) == (444_292, 11.0)
    tiny = build("cifar_MobileNetV2_tinyimagenet", 200, size=64, seed=0)
    assert (tiny.params(), round(tiny.macs() / 1e6, 1)) == (2_497_480, 215.7)
    assert tiny.shapes == [(24, 33, 33), (32, 17, 17), (64, 9, 9), (320, 9, 9)]


@pytest.mark.parametrize(("size", "stride"), [(8, 2), (7, 2), (9, 3)])
def test_narrow_strided_1x1_convolutions_have_the_values_and_gradients_of_torch_s(size: int, stride: int) -> None:
    layer = conv(6, 12, 1, stride).double()
    assert isinstance(layer, SubsampledConv)
    x = torch.randn(3, 6, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    strided, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = F.conv2d(strided, layer.weight, stride=stride)
    expected.square().sum().backward()
    weight_gradient = layer.weight.grad.clone()
    layer.weight.grad = None
    out = layer(ours)
    out.square().sum().backward()
    assert torch.allclose(out, expected) and torch.allclose(ours.grad, strided.grad)
    assert torch.allclose(layer.weight.grad, weight_gradient)


@pytest.mark.parametrize("widths", [[4, 4, 6, 7], [2, 3, 5, 9]])
def test_narrow_nets_train_without_the_convolutions_that_corrupt_memory(widths: list[int]) -> None:
    """On a CPU with AVX2 alone this ends the process, should the strided form come back."""
    net = build("cifar_resnet8", 10, args={"widths": widths}, seed=0).to(memory_format=torch.channels_last)
    strided = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1)]
    assert any(isinstance(m, SubsampledConv) for m in strided)
    assert all(isinstance(m, SubsampledConv) for m in strided if m.in_channels < 8)
    assert all(p.grad.isfinite().all() for p in trained(net).parameters())


def trained(net: FeatureNet) -> FeatureNet:
    """The net after backward passes on channels_last images."""
    for _ in range(5):
        net(images(4).contiguous(memory_format=torch.channels_last)).logits.square().mean().backward()
    return net


def test_narrow_standardised_convolutions_have_the_values_of_torch_s_and_train() -> None:
    layer = StdConv(4, 8, 1, 2)
    x = torch.randn(2, 4, 7, 7, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    centred = layer.weight - layer.weight.mean(1, keepdim=True)
    filters = centred / (centred.square().mean(1, keepdim=True) + 1e-10).sqrt()
    assert torch.allclose(layer(x), F.conv2d(x, filters, stride=2), atol=1e-6)
    for _ in range(5):
        layer(x.requires_grad_()).square().mean().backward()
    assert layer.weight.grad.isfinite().all()


def test_timm_nets_with_such_convolutions_train() -> None:
    """RepVGG's stem is one, from the image's channels: a CPU with AVX2 alone ended the process in its backward."""
    net = build("repvgg_a0", 10, size=32, seed=0).to(memory_format=torch.channels_last)
    stem = net.model.stem.conv_1x1.conv
    x = images(2)
    assert torch.allclose(stem(x), F.conv2d(x, stem.weight, stride=2), atol=1e-6)
    assert isinstance(stem, SubsampledConv) and trained(net).model.stem.conv_1x1.conv.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "params"),
    [("ResNet18", 11_173_962), ("ResNet34", 21_282_122), ("ResNet50", 23_520_842), ("ResNet101", 42_512_970),
     ("PreActResNet18", 11_171_146 + 128), ("resnet20_a", 269_722), ("resnet20_bss", 269_722)],
)  # fmt: skip
def test_parameters_for_ten_classes_are_the_public_ones(name: str, params: int) -> None:
    """kuangliu/pytorch-cifar's nets (CS-KD has a BatchNorm of 64 channels more), and option A's of He et al."""
    assert build(f"cifar_{name}", 10, seed=0).params() == params


def test_parameters_of_a_bottleneck_resnet_are_those_of_its_layers() -> None:
    """ONE's net: 18 bottlenecks a stage, whose first has a shortcut of its own in every stage."""
    count, inputs = 3 * 16 * 9 + 2 * 16, 16
    for width in (16, 32, 64):
        for _ in range(18):
            count += inputs * width + 9 * width**2 + 4 * width**2 + 2 * (width + width + 4 * width)
            count += (inputs * 4 * width + 2 * 4 * width) * (inputs != 4 * width)
            inputs = 4 * width
    assert build("cifar_resnet110_bottleneck", 100, seed=0).params() == count + 256 * 100 + 100


def test_shortcuts_of_zeros_lie_behind_or_on_both_sides() -> None:
    x = images(2, 8, 4)
    for shortcut, before in (("pad", 3), ("pad_end", 0)):
        block = BasicBlock(4, 10, 2, shortcut)
        nn.init.zeros_(block.bn2.weight)
        out = block(x)
        assert torch.equal(out[:, before : before + 4], x[:, :, ::2, ::2])
        assert out.shape == (2, 10, 4, 4) and not out[:, :before].any() and not out[:, before + 4 :].any()
    assert {"downsample.0.weight"} == {k for k in BasicBlock(4, 10, 2, "downsample").state_dict() if "sample.0" in k}


def test_shortcuts_of_the_preactivation_net_start_behind_the_relu() -> None:
    net = build("cifar_PreActResNet18", 10, seed=0).eval()
    for block in net.model.layer4:
        nn.init.zeros_(block.conv2.weight)
    out = net(images(2))
    first, second = net.model.layer4
    middle = first.shortcut(F.relu(first.bn1(out.features[2])))
    assert torch.allclose(out.features[3], F.relu(second.bn1(middle)), atol=1e-6)
    assert torch.allclose(out.embedding, out.features[3].mean((2, 3)), atol=1e-6)  # no BatchNorm, no ReLU


KEYS = {
    "resnet8": "conv1.weight bn1.running_var layer2.0.downsample.0.weight "
    "layer3.0.downsample.1.bias layer1.0.bn2.bias fc.bias",
    "resnet20_a": "conv1.weight bn1.bias layer1.2.conv2.weight "
    "layer3.0.bn2.running_mean linear.weight linear.bias",
    "resnet8_bss": "conv1.weight bn1.bias layer1.0.conv2.weight layer3.0.bn2.running_mean linear.weight",
    "ResNet18": "conv1.weight layer2.0.shortcut.0.weight layer4.1.bn2.bias layer3.0.shortcut.1.running_var linear.bias",
    "PreActResNet18": "conv1.weight bn1.bias layer1.0.bn1.weight layer2.0.shortcut.0.weight layer4.1.conv2.weight "
    "linear.bias",
    "ResNet50": "layer1.0.shortcut.0.weight layer4.2.conv3.weight layer4.0.shortcut.1.weight "
    "layer3.5.bn3.bias linear.bias",
    "wrn_16_2": "conv1.weight block1.layer.0.convShortcut.weight block3.layer.1.bn2.bias "
    "bn1.running_var fc.weight",
    "vgg8": "block0.0.weight block0.0.bias block0.1.running_mean block4.1.weight classifier.weight",
    "MobileNetV2": "conv1.0.weight conv1.1.bias blocks.0.0.conv.7.weight "
    "blocks.6.0.conv.6.weight conv2.0.weight classifier.0.bias",
    "ShuffleV1": "conv1.weight bn1.bias layer1.0.conv1.weight "
    "layer2.7.bn3.bias layer3.3.conv3.weight linear.weight",
    "ShuffleV2": "layer1.0.conv5.weight layer1.0.bn5.bias layer2.7.conv3.weight layer3.3.bn3.bias "
    "conv2.weight bn2.bias linear.bias",
}


@pytest.mark.parametrize("name", KEYS)
def test_names_of_weights_are_those_of_public_checkpoints(name: str) -> None:
    state = build(f"cifar_{name}", 100, seed=0).model.state_dict()
    assert set(KEYS[name].split()) <= set(state)
    roots = {key.split(".")[0] for key in state}
    assert all(re.fullmatch(r"(conv|bn|layer|block)\d|blocks|fc|linear|classifier", root) for root in roots)


@pytest.mark.parametrize("name", TABLE)
def test_every_net_takes_8x8_images_of_one_channel(name: str) -> None:
    net = build(f"cifar_{name}", 10, in_chans=1, size=8, seed=0).eval()
    with torch.no_grad():
        out = net(images(2, 8, 1))
    assert out.logits.shape == (2, 10)
    assert [tuple(x.shape[1:]) for x in out.features] == net.shapes


@pytest.mark.parametrize("name", FAMILIES)
def test_preactivations_are_what_the_last_relu_gets(name: str) -> None:
    net = build(f"cifar_{name}", 10, seed=0)
    out = net(images(4).contiguous(memory_format=torch.channels_last))
    sum(x.square().mean() for x in [*out.features, *(out.preacts or []), out.logits]).backward()
    assert all(p.grad is not None for p in net.parameters())
    if out.preacts is None:
        assert name.startswith(("MobileNetV2", "PreActResNet18"))
        return
    if name.startswith("wrn"):  # a stage's output is raw; its pre-activation is the BatchNorm that reads it
        out.features = [norm(x) for norm, x in zip(net.bn_before_relu(), out.features, strict=True)]
        assert all(torch.allclose(p, f, atol=1e-5) for p, f in zip(out.preacts, out.features, strict=True))
        return
    assert all(torch.equal(F.relu(p), f) for p, f in zip(out.preacts, out.features, strict=True))


def test_a_wide_resnet_counts_each_batch_once() -> None:
    net = build("cifar_wrn_16_1", 10, seed=0).train()
    plain = copy.deepcopy(net.model)
    net(images(4))
    plain(images(4))
    read, own = net.model.state_dict(), plain.state_dict()
    assert all(torch.equal(read[key], own[key]) for key in own)
    assert {int(read[key]) for key in read if key.endswith("num_batches_tracked")} == {1}


@pytest.mark.parametrize(
    ("name", "widths"),
    [("resnet8", [16, 32, 64]), ("resnet110_bottleneck", [64, 128, 256]), ("ResNet18", [64, 128, 256, 512]),
     ("ResNet50", [256, 512, 1024, 2048]), ("wrn_16_2", [32, 64, 128]),
     ("vgg8", [128, 256, 512, 512])],
)  # fmt: skip
def test_batchnorm_before_each_relu(name: str, widths: list[int]) -> None:
    net = build(f"cifar_{name}", 10, seed=0)
    norms = net.bn_before_relu()
    assert [norm.num_features for norm in norms] == widths == net.channels


@pytest.mark.parametrize(
    "name",
    ["cifar_MobileNetV2", "cifar_PreActResNet18", "cifar_ShuffleV1", "cifar_ShuffleV2", "convnext_atto"],
)
def test_nets_without_a_batchnorm_before_the_relu_say_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no BatchNorm"):
        build(name, 10, seed=0).bn_before_relu()


@pytest.mark.parametrize("name", FAMILIES)
def test_initialisation(name: str) -> None:
    model = build(f"cifar_{name}", 100, seed=3).model
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 4000]
    assert convolutions
    for m in convolutions:
        fan_in = m.kernel_size[0] * m.kernel_size[1] * m.in_channels // m.groups
        fan_out = m.kernel_size[0] * m.kernel_size[1] * m.out_channels
        if name.startswith(("Shuffle", "PreAct", "MobileNetV2_tiny")):
            expected = (1 / (3 * fan_in)) ** 0.5
        elif name.startswith("wrn_biased"):
            expected = (4 / (fan_in + fan_out)) ** 0.5
        else:
            expected = (2 / (fan_in if name.endswith("_a") else fan_out)) ** 0.5
        assert m.weight.std().item() == pytest.approx(expected, rel=0.06)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    drawn = {"v": 0.01, "M": 0.01}.get(name[0], (1 / (3 * last.in_features)) ** 0.5)
    expected = drawn if name != "MobileNetV2_tinyimagenet" else (1 / (3 * last.in_features)) ** 0.5
    expected = (2 / last.in_features) ** 0.5 if name.endswith("_a") else expected
    if not name.startswith("resnet8"):
        assert last.weight.std().item() == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_contract(name: str) -> None:
    model = build(f"cifar_{name}", 10, seed=0).model.eval()
    assert isinstance(model, CifarNet)
    x = images()
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        logits = model(x)
        assert torch.equal(logits, model.forward_head(final))
        assert torch.equal(logits, model.get_classifier()(model.forward_head(final, pre_logits=True)))
        early = model.forward_intermediates(x, indices=[1, 0], stop_early=True, intermediates_only=True)
        last = model.forward_intermediates(x, indices=2, intermediates_only=True)
    assert [info["num_chs"] for info in model.feature_info] == [m.shape[1] for m in maps]
    side = 34 if name == "MobileNetV2_tinyimagenet" else 32  # whose stem has a border
    assert [-(-side // info["reduction"]) for info in model.feature_info] == [m.shape[2] for m in maps]
    assert all(isinstance(model.get_submodule(info["module"]), nn.Module) for info in model.feature_info)
    assert all(torch.equal(a, b) for a, b in zip(early + last, maps[:2] + maps[-2:], strict=True))
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)


def test_refusals_of_the_contract() -> None:
    model: nn.Module = build("cifar_resnet8", 10, seed=0).model
    assert isinstance(model, CifarNet)
    with pytest.raises(ValueError, match="NCHW only"):
        model.forward_intermediates(images(), output_fmt="NLC")
    with pytest.raises(ValueError, match="intermediates_only"):
        model.forward_intermediates(images(), stop_early=True)
    with pytest.raises(ValueError, match="average only"):
        model.reset_classifier(3, "max")


def test_arguments_of_a_family() -> None:
    assert build("cifar_resnet20", 10, args={"depth": 26, "widths": [8, 8, 16, 32]}).channels == [8, 16, 32]
    assert build("cifar_MobileNetV2", 10, args={"width": 1.0}).channels == [24, 32, 96, 320]
    with pytest.raises(ValueError, match="6n\\+2"):
        build("cifar_resnet20", 10, args={"depth": 21})
    with pytest.raises(ValueError, match="6n\\+4"):
        build("cifar_wrn_16_1", 10, args={"depth": 20})
    with pytest.raises(ValueError, match="must be one of 0.5, 1, 1.5, 2"):
        build("cifar_ShuffleV2", 10, args={"width": 3})
    with pytest.raises(ValueError, match="does not take the args key 'hight'"):
        build("cifar_vgg8", 10, args={"hight": 3})


def test_dropout_of_wide_resnets_only_works_in_training() -> None:
    net = build("cifar_wrn_16_1", 10, args={"drop_rate": 0.5}, seed=0)
    assert not torch.equal(net.model(images()), net.model(images()))
    net.eval()
    assert torch.equal(net.model(images()), net.model(images()))


# ---- FeatureNet


@pytest.mark.parametrize(("name", "size", "args"), TIMM, ids=[name for name, _, _ in TIMM])
def test_timm_nets_are_read_as_they_are(name: str, size: int, args: dict) -> None:
    net = build(name, 10, size=size, args=args, seed=0).eval()
    with torch.no_grad():
        out = net(images(2, size))
        assert torch.equal(out.logits, net.model(images(2, size)))
    assert [tuple(x.shape[1:]) for x in out.features] == net.shapes
    assert out.embedding.shape == (2, net.embedding_dim)
    assert len(net.shapes) == (5 if name == "test_efficientnet" else 4)
    assert net.has_preacts == (name == "resnet18")
    assert (net.stem_shape is not None) == name.startswith(("resnet", "mobilenetv3"))
    if "distilled" not in name and isinstance(net.classifier, nn.Linear):
        assert torch.allclose(net.classifier(out.embedding), out.logits, atol=1e-5)


@pytest.mark.parametrize(("name", "size", "args"), TIMM, ids=[name for name, _, _ in TIMM])
def test_classify_the_last_map(name: str, size: int, args: dict) -> None:
    net = build(name, 10, size=size, args=args, seed=0).eval()
    with torch.no_grad():
        out = net(images(2, size))
        if name.startswith(("vit", "deit")):
            with pytest.raises(ValueError, match="does not read its last map alone"):
                net.classify(out.features[-1])
        else:
            assert torch.allclose(net.classify(out.features[-1]), out.logits, atol=1e-5)


def test_what_follows_the_last_map_is_found_where_a_fresh_norm_changes_nothing() -> None:
    """A BatchNorm before the pooling, as StarNet, SwiftFormer, EfficientFormerV2, NextViT and Visformer have it."""
    net = build("starnet_s050", 10, size=32, seed=0).eval()
    nn.init.constant_(net.model.norm.running_mean, 0.5)
    with torch.no_grad():
        out = net(images())
        assert torch.allclose(net.classify(out.features[-1]), out.logits, atol=1e-5)


def test_the_embedding_enters_the_layer_behind_the_pooling_of_a_head_that_does_both() -> None:
    net = build("sequencer2d_s", 10, size=56, args={"layers": (1, 1, 1, 1)}, seed=0).eval()
    with torch.no_grad():
        out = net(images(2, 56))
    assert net.embedding_dim == 384 and torch.allclose(net.classifier(out.embedding), out.logits, atol=1e-5)


def test_heads_with_a_batchnorm_count_each_batch_once() -> None:
    net = build("levit_128s", 10, size=224, seed=0).train()
    out = net(images(2, 224))
    assert net.model.head.bn.num_batches_tracked == 1
    assert out.heads is not None and torch.equal(sum(out.heads) / 2, out.logits)


@pytest.mark.parametrize(
    ("name", "size", "args", "tokens", "others", "early"),
    [
        ("pit_ti_224", 64, {"depth": (1, 1, 1)}, None, 1, None),  # ends with the class token alone
        ("volo_d1_224", 32, {}, 4, 1, None),
        ("cait_xxs24_224", 32, {"depth": 2}, 4, 1, 4),  # the class token comes in behind the blocks
        ("tnt_s_legacy_patch16_224", 32, {"depth": 2}, 4, 1, None),  # blocks give pixels beside patches
    ],
)
def test_tokens_are_those_of_patches(
    name: str, size: int, args: dict, tokens: int | None, others: int, early: int | None
) -> None:
    with torch.no_grad():
        out = build(name, 10, size=size, args=args, seed=0).eval()(images(2, size))
    assert out.class_tokens is not None and out.class_tokens.shape[1] == others
    assert (None if out.tokens is None else out.tokens.shape[1]) == tokens
    assert (None if out.early is None else out.early[0].shape[1]) == early


def test_equal_weights_with_other_args_have_another_fingerprint() -> None:
    nets = [build("resnet10t", 10, args={"global_pool": pool}, seed=0) for pool in ("avg", "max", "avg")]
    prints = [net.fingerprint() for net in nets]
    assert prints[0] == prints[2] != prints[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_classify_and_embedding_of_our_nets(name: str) -> None:
    net = build(f"cifar_{name}", 10, seed=0).eval()
    with torch.no_grad():
        out = net(images())
        assert torch.equal(out.logits, net.model(images()))
        assert torch.equal(net.classify(out.features[-1]), out.logits)
        assert torch.equal(net.classifier(out.embedding), out.logits)


def test_timm_resnet_preactivations_survive_inplace_relus() -> None:
    net = build("resnet18", 10, seed=0).train()
    for norm in net.bn_before_relu():
        nn.init.ones_(norm.weight)  # timm starts them at zero, which leaves the shortcut alone
    out = net(images(4))
    assert out.preacts is not None
    assert signs(out.preacts) == "----"
    assert all(torch.equal(F.relu(p), f) for p, f in zip(out.preacts, out.features, strict=True))
    sum(x.square().mean() for x in out.preacts).backward()
    assert net.model.layer4[1].bn2.weight.grad.abs().sum() > 0
    assert [norm.num_features for norm in net.bn_before_relu()] == [64, 128, 256, 512]


@pytest.mark.parametrize("args", [{"stages": 3}, {"output_stride": 16}])  # the last two stages have one size there
def test_there_are_as_many_preactivations_as_stages(args: dict) -> None:
    net = build("resnet10t", 10, args=args, seed=0).eval()
    with torch.no_grad():
        out = net(images())
    assert out.preacts is not None and len(net.bn_before_relu()) == 3
    assert all(torch.equal(F.relu(p), f) for p, f in zip(out.preacts, out.features, strict=True))


def test_isotropic_nets_give_four_blocks() -> None:
    net = build(
        "vit_tiny_patch16_224", 10, args={"patch_size": 8, "depth": 12, "embed_dim": 24, "num_heads": 3}
    )
    assert net.reader.indices == [1, 3, 9, 11]
    assert net.shapes == [(24, 4, 4)] * 4


def test_construction_leaves_statistics_modes_and_random_state_alone() -> None:
    before = torch.get_rng_state()
    net = build("cifar_resnet8", 10, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert net.training and all(m.training for m in net.modules())
    state = net.model.state_dict()
    assert all(not state[k].any() for k in state if k.endswith(("running_mean", "num_batches_tracked")))
    net.model.bn1.eval()
    net.macs()
    assert not net.model.bn1.training and net.model.layer1.training


@pytest.mark.parametrize("name", ["cifar_vgg8", "resnet18"])
def test_weights_are_a_function_of_the_seed(name: str) -> None:
    def weights(net: FeatureNet) -> Tensor:
        return torch.cat([p.detach().flatten() for p in net.model.parameters()])

    first = build(name, 10, seed=5)
    torch.manual_seed(99)
    assert torch.equal(weights(first), weights(build(name, 10, seed=5)))
    assert not torch.equal(weights(first), weights(build(name, 10, seed=6)))
    twin = first.twin(seed=5)
    assert torch.equal(weights(first), weights(twin)) and twin.model is not first.model
    assert not torch.equal(weights(first.twin()), weights(first.twin()))


def test_a_twin_keeps_arguments_and_a_stranger_has_none() -> None:
    net = build("cifar_resnet8", 7, in_chans=1, size=16, args={"widths": [4, 4, 8, 16]}, seed=0)
    twin = net.twin(1)
    assert (twin.shapes, twin.num_classes, twin.in_chans, twin.size) == (net.shapes, 7, 1, 16)
    with pytest.raises(ValueError, match="no twin"):
        FeatureNet(net.model, lambda _: net.reader, name="mine", size=16, in_chans=1).twin()


def test_renormalize_gives_the_net_what_it_was_trained_on() -> None:
    net = build("cifar_resnet8", 10, seed=0).eval()
    raw = images().sigmoid()
    here, there = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def normalised(statistics: tuple) -> Tensor:
        mean, std = (torch.tensor(s).view(1, 3, 1, 1) for s in statistics)
        return (raw - mean) / std

    expected = net(normalised(there)).logits
    keys = list(net.state_dict())
    net.renormalize(*here, *there)
    assert torch.allclose(net(normalised(here)).logits, expected, atol=1e-4)
    assert torch.allclose(net.twin(0).eval()(normalised(here)).logits, expected, atol=1e-4)
    assert list(net.state_dict()) == keys
    with pytest.raises(ValueError, match="need 3 values"):
        net.renormalize((0.5,), (0.5,), *there)


@pytest.mark.parametrize("name", ["cifar_wrn_16_1", "resnet18"])
def test_a_deep_copy_after_training_reads_itself(name: str) -> None:
    net = build(name, 10, seed=0)
    net(images(4)).logits.sum().backward()
    clone = copy.deepcopy(net)
    with torch.no_grad():
        for p in clone.parameters():
            p.zero_()
    out = clone.eval()(images())
    assert not out.embedding.any() and not any(x.any() for x in out.preacts)
    assert net.eval()(images()).embedding.any()


def test_outputs_are_fp32_under_autocast() -> None:
    net = build("cifar_resnet8", 10, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(images())
    assert out.logits.dtype == out.embedding.dtype == torch.float32


@pytest.mark.parametrize("name", ["cifar_wrn_16_1", "cifar_ShuffleV2", "resnet18"])
def test_the_forward_pass_is_one_graph(name: str) -> None:
    net = build(name, 10, seed=0).eval()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    out, expected = compiled(images()), net(images())
    assert torch.equal(out.logits, expected.logits)
    assert all(torch.equal(a, b) for a, b in zip(out.preacts, expected.preacts, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vit_tiny_patch16_224", "args": {"img_size": 64}}, "does not work on 3x32x32 images"),
        ({"name": "coat_tiny", "size": 224}, "coat_tiny cannot be read: its head takes maps of several stages"),
        ({"name": "cifar_vgg8", "size": 4}, "cifar_vgg8 does not work on 3x4x4 images"),
        ({"name": "resnet18", "args": {"drop_pathrate": 1}}, "'drop_pathrate': did you mean drop_path_rate"),
        ({"name": "resnet18", "args": {"colour": None}}, "resnet18 does not take the args key 'colour'"),
        ({"name": "poolformer_s12", "args": {"norm_layr": 1}}, "'norm_layr': did you mean .*norm_layers"),
        ({"name": "cifar_resnet20", "args": {"deep": 8}}, "cifar_resnet20 does not take the args key 'deep': did you"),
        ({"name": "resnet18", "args": {"features_only": True}}, "the args key 'features_only': it is timm's"),
        ({"name": "resnet18", "args": {"checkpoint_path": "x"}}, "'checkpoint_path': weights are given by student.wei"),
        ({"name": "cifar_resnet8", "args": {"num_classes": 7}}, "'num_classes': the data say it; leave it out"),
        ({"name": "cifar_vgg8", "pretrained": True}, "teacher.weights=FILE"),
        ({"name": "wrn_40_2"}, "did you mean cifar_wrn_40_2 or"),
        ({"name": "qzqzqz"}, "There is no model named 'qzqzqz'"),
        ({"name": "cifar_resnet8", "in_chans": 10**18}, "cifar_resnet8 cannot be built for 10 classes and 10{18} "),
    ],
)  # fmt: skip
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build(num_classes=10, **arguments)
    assert "\n" not in str(caught.value)


def test_a_net_of_ones_own_that_lacks_timms_contract_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.models.builder._construct", lambda *_: nn.Linear(2, 2))
    with pytest.raises(ValueError, match="resnet18 cannot be read: it has no num_classes, feature_info, get_class"):
        build("resnet18", 10)


def test_a_net_of_other_classes_than_it_was_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    made = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **how: made("test_resnet", num_classes=9))
    with pytest.raises(ValueError, match="resnet18 has 9 classes where 6 are asked for"):
        build("resnet18", 6, size=32)


def test_pretrained_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as hub
    import timm

    def no_network(*args: object, **kwargs: object) -> nn.Module:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(
        ValueError, match=r"of resnet18 were found \(no route to host\): .*teacher.weights=FILE"
    ):
        build("resnet18", 10, pretrained=True)


# ---- names


def python(code: str) -> list[str]:
    """Words that a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_names_need_neither_torch_nor_timm_and_are_complete() -> None:
    code = (
        "import sys; from distill.config import net_names; n = net_names.timm_names(); "
        "print(len(n), 'torch' in sys.modules, 'timm' in sys.modules)"
    )
    count, *loaded = python(code)
    import timm

    theirs = {name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")}
    assert loaded == ["False", "False"] and int(count) == len(timm_names())
    assert timm_names() == theirs  # less ours, and what plugins of other tests have registered


def test_known_names_and_the_nearest() -> None:
    assert all(map(is_known, ["cifar_resnet20", "resnet18", "resnet18.a1_in1k", "hf_hub:timm/resnet18"]))
    assert not is_known("resnet20") and not is_known("cifar_resnet18")
    assert nearest_nets("resnet-50")[:2] == ["cifar_ResNet50", "resnet50"]
    assert nearest_nets("MobileNetv2")[0] == "cifar_MobileNetV2"
    assert nearest_nets("qzqzqz") == []


def test_timm_makes_our_nets() -> None:
    import timm

    import distill.models.timm_registry  # noqa: F401

    net = timm.create_model("cifar_wrn_16_1", num_classes=5, in_chans=1)
    assert (net.num_classes, net.conv1.in_channels) == (5, 1)
    assert len(timm.list_models(["cifar_*", "mnist_*", "*_relu", "bit_*"])) == len(OUR_NETS)


# ---- configs


@pytest.mark.parametrize("group", ["student", "teacher"])
def test_every_net_of_the_papers_has_a_config(group: str) -> None:
    for name in TABLE:
        node = config.load_node(group, name)
        assert (node.name, node.model) == (name, f"cifar_{name}")
        assert node.lr_scale == 1.0, "a share of the rate is the protocol's: schedule.lr_scales"
    for name in config.options(group):
        node = config.load_node(group, name)
        extra = set() if group == "student" else {"weights", "seed", "mean", "std"}
        assert set(node) == {"name", "model", "args", "lr_scale"} | extra
        assert OmegaConf.is_missing(node, "model") or node.model is None or is_known(node.model)


@pytest.mark.parametrize("group", ["student", "teacher"])
def test_a_nets_file_holds_what_it_has_otherwise_than_the_base_alone(group: str) -> None:
    base = OmegaConf.to_container(OmegaConf.load(config.conf_dir() / "_base" / f"{group}.yaml"))
    for file in (config.conf_dir() / group).glob("*.yaml"):
        node = yaml.safe_load(file.read_text())
        if file.stem != "timm":  # whose model is not given: a base's would stand
            assert node.pop("defaults") == [f"/_base/{group}@_here_"]
            assert not [key for key, value in node.items() if base[key] == value], file


def test_every_pair_names_nets_that_are_configured() -> None:
    for name in config.options("pair"):
        node = yaml.safe_load((config.conf_dir() / "pair" / f"{name}.yaml").read_text())
        nets = {key.split("/")[1]: net for default in node["defaults"] for key, net in default.items()}
        assert set(nets) == {"teacher", "student"}
        assert nets["teacher"] in config.options("teacher") and nets["student"] in config.options("student")
        shown = [node.get(side, {}).get("name", nets[side]) for side in ("teacher", "student")]
        assert name.removeprefix("cifar_") == "_".join(shown)


ENDS = {12: [2, 4, 10, 12], 24: [4, 8, 20, 24], 6: [1, 2, 5, 6], 4: [1, 2, 3, 4], 2: [1, 2]}


@pytest.mark.parametrize("count, ends", ENDS.items())
def test_stages_of_nets_of_alike_blocks_end_where_those_of_swin_do(count: int, ends: list[int]) -> None:
    assert [place + 1 for place in isotropic_stages(count)] == ends
