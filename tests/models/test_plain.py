"""TAKD's plain CNNs against the lists of layers of its plain_cnn_cifar.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.config.our_nets import OUR_NETS
from distill.models import build

LAYERS = {  # C: a 3x3 convolution with BatchNorm and ReLU, P: max pooling, F: a linear layer
    "plain2": "C32 P C32 P F100",
    "plain4": "C32 C32 P C64 C64 P F100",
    "plain6": "C32 C32 P C64 C64 P C128 C128 F100",
    "plain8": "C32 C32 P C64 C64 P C128 C128 P C256 C256 P F64 F100",
    "plain10": "C32 C32 P C64 C64 P C128 C128 P C256 C256 C256 C256 P F512 F100",
    "plain2_c10": "C16 P C16 P F10",
    "plain4_c10": "C16 C16 P C32 C32 P F10",
    "plain6_c10": "C16 C16 P C32 C32 P C64 C64 P F10",
    "plain8_c10": "C16 C16 P C32 C32 P C64 C64 P C128 C128 P F64 F10",
    "plain10_c10": "C32 C32 P C64 C64 P C128 C128 P C256 C256 C256 C256 P F128 F10",
}


def classes(name: str) -> int:
    return 10 if name.endswith("_c10") else 100


def images(batch: int = 2, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def counted(layers: str) -> tuple[int, int]:
    """Parameters and multiply-accumulates of one 32x32 image."""
    side, channels, params, macs, flat = 32, 3, 0, 0, 0
    for kind, width in ((layer[0], int(layer[1:] or 0)) for layer in layers.split()):
        if kind == "C":
            params += (9 * channels + 1) * width + 2 * width
            macs += side * side * 9 * channels * width
            channels = width
        elif kind == "P":
            side //= 2
        else:
            inputs = flat or side * side * channels
            params, macs, flat = params + (inputs + 1) * width, macs + inputs * width, width
    return params, macs


def test_the_lists_cover_every_net() -> None:
    assert {f"cifar_{name}" for name in LAYERS} == {name for name, net in OUR_NETS.items() if net.family == "plain"}
    assert counted(LAYERS["plain2"])[0] == 215_172 and counted(LAYERS["plain10"])[0] == 2_931_460


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_and_macs_are_those_of_the_layers(name: str) -> None:
    net = build(f"cifar_{name}", classes(name), seed=0)
    assert (net.params(), net.macs()) == counted(LAYERS[name])
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == int(name.removeprefix("plain").removesuffix("_c10"))


@pytest.mark.parametrize("name", ["plain2", "plain6", "plain8_c10"])
def test_a_plain_net_computes_what_its_list_says(name: str) -> None:
    net, x = build(f"cifar_{name}", classes(name), seed=0).eval(), images()
    convolutions = iter([m for m in net.modules() if isinstance(m, nn.Conv2d)])
    norms = iter([m for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
    linears = iter([m for m in net.modules() if isinstance(m, nn.Linear)])
    preacts: list[Tensor] = []
    with torch.no_grad():
        out = net(x)
        layers = LAYERS[name].split()
        for layer, following in zip(layers, [*layers[1:], "-"], strict=True):
            if layer[0] == "C":
                preact = next(norms)(next(convolutions)(x))
                preacts += [preact] * (following[0] != "C")
                x = F.relu(preact)
            elif layer == "P":
                x = F.max_pool2d(x, 2)
            else:
                x = next(linears)(x.flatten(1))
                x = x if following == "-" else F.relu(x)
    assert torch.allclose(out.logits, x, atol=1e-5)
    assert out.preacts is not None and out.stem is None
    assert all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(out.preacts, preacts, strict=True))
    assert all(torch.equal(F.relu(p), f) and p.min() < 0 for p, f in zip(out.preacts, out.features, strict=True))
    assert torch.equal(net.classifier(out.embedding), out.logits)
    assert torch.equal(net.classify(out.features[-1]), out.logits)


@pytest.mark.parametrize("name", ["plain6", "plain10"])
def test_gradients_reach_every_weight(name: str) -> None:
    net = build(f"cifar_{name}", 100, seed=0)
    out = net(images(4).contiguous(memory_format=torch.channels_last))
    sum(x.square().mean() for x in [*out.preacts, out.logits]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    assert [norm.num_features for norm in net.bn_before_relu()] == net.channels


def test_shapes_follow_the_images() -> None:
    net = build("cifar_plain8", 100, size=16, seed=0).eval()
    assert (net.shapes, net.embedding_dim) == ([(32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)], 64)
    assert net.model.hidden.in_features == 256
    assert build("cifar_plain4", 100, size=8, seed=0).embedding_dim == 64 * 4
    with pytest.raises(ValueError, match="4 stages need images of at least 16 pixels, not 8"):
        build("cifar_plain8", 100, size=8)


def test_a_classifier_can_be_replaced() -> None:
    model = build("cifar_plain8", 100, seed=0).model.eval()
    model.reset_classifier(7)
    assert model(images()).shape == (2, 7)
    model.reset_classifier(0)
    assert model(images()).shape == (2, 64)
