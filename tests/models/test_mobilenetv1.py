"""ImageNet's MobileNetV1 with ReLU: counts against the paper, taps against the authors' slices of its Sequential."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models import FeatureNet, build
from tests import tiny


def images(batch: int = 2, size: int = 64) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def net() -> FeatureNet:
    return build("mobilenetv1_relu", 1000, size=64, seed=0)


def test_parameters_and_multiply_accumulates_are_the_papers() -> None:
    """Table 4 of arXiv:1704.04861: 4.2 million parameters, 569 million multiply-adds at 224 pixels."""
    net = build("mobilenetv1_relu", 1000, size=224, seed=0)
    assert net.params() == 4_231_976
    assert round(net.macs() / 1e6) == 569
    assert net.shapes == [(128, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7)]
    assert (net.stem_shape, net.embedding_dim) == ((32, 112, 112), 1024)


def test_taps_are_those_of_the_authors(net: FeatureNet) -> None:
    """extract_feature(x, preReLU=True) of OFD and ReviewKD, computed from the same modules."""
    net.eval()
    model, x = net.model.model, images()
    with torch.no_grad():
        first = model[3][:-1](model[0:3](x))
        second = model[5][:-1](model[4:5](F.relu(first)))
        third = model[11][:-1](model[6:11](F.relu(second)))
        fourth = model[13][:-1](model[12:13](F.relu(third)))
        out = net(x)
    assert out.preacts is not None
    pairs = list(zip(out.preacts, (first, second, third, fourth), strict=True))
    assert all(torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in pairs)
    assert all(preact.min() < 0 for preact in out.preacts)
    assert all(torch.equal(F.relu(p), f) for p, f in zip(out.preacts, out.features, strict=True))
    assert torch.allclose(out.logits, net.model.fc(F.relu(fourth).mean((2, 3))), atol=1e-5)
    assert torch.equal(net.classify(out.features[-1]), out.logits)
    assert all(isinstance(model[last][-2], nn.BatchNorm2d) for last in (3, 5, 11, 13))
    assert net.bn_before_relu() == [model[last][-2] for last in (3, 5, 11, 13)]


def test_activations_are_relus_and_gradients_reach_every_weight(net: FeatureNet) -> None:
    assert not any(isinstance(module, nn.ReLU6) for module in net.modules())
    net.train()
    out = net(images(4).contiguous(memory_format=torch.channels_last))
    sum(x.square().mean() for x in [*out.preacts, out.logits]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_weights_are_named_as_in_the_authors_checkpoints(net: FeatureNet) -> None:
    state = net.model.state_dict()
    wanted = "model.0.0.weight model.0.1.running_mean model.1.0.weight model.1.3.weight model.13.4.bias fc.weight"
    assert set(wanted.split()) <= set(state)
    assert {key.split(".")[0] for key in state} == {"model", "fc"}
    assert state["model.13.3.weight"].shape == (1024, 1024, 1, 1) and state["model.12.0.weight"].shape == (512, 1, 3, 3)


def test_timms_contract(net: FeatureNet) -> None:
    model, x = net.model.eval(), images()
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        assert torch.equal(model(x), model.forward_head(final))
    assert [info["num_chs"] for info in model.feature_info] == [m.shape[1] for m in maps]
    assert [64 // info["reduction"] for info in model.feature_info] == [m.shape[2] for m in maps]
    assert all(isinstance(model.get_submodule(info["module"]), nn.Module) for info in model.feature_info)


def test_reviewkd_and_ofd_take_its_preactivations_on_imagenet() -> None:
    cfg = tiny.composed("dataset=imagenet", "pair=resnet50_MobileNetV1", "method=reviewkd")
    assert (cfg.method.student_preact, cfg.method.width, cfg.method.weight) == (True, 256, 8.0)
    teacher, student = tiny.net("cifar_ResNet50", 1), tiny.net("mobilenetv1_relu", 2)
    data = tiny.tiny_data()
    method = tiny.make("reviewkd", student, teacher, data, "method.student_preact=true", "method.width=256")
    seen = student(torch.randn(2, 3, 16, 16))
    assert all(torch.equal(a, b) for a, b in zip(method.levels(seen, True), seen.preacts, strict=False))
    assert [fusion.enter[0].out_channels for fusion in method.fusions] == [256] * 5
    assert tiny.make("ofd", student, teacher, data).connectors[3][0].in_channels == 1024
