"""The first methods: what several methods share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distill.losses import kd_loss, kl_div, pool_to
from distill.models.reading import frozen_statistics
from distill.parts.heads import conv_regressor, stage
from tests import tiny
from tests.methods.given_parts import slow_kd


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0])
def test_kd_value_and_gradient(t: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7, dtype=torch.float64) * 3, torch.randn(5, 7, dtype=torch.float64) * 3
    student.requires_grad_()
    loss = kd_loss(student, teacher, t)
    assert loss.item() == pytest.approx(slow_kd(student, teacher, t), rel=1e-10)
    loss.backward()
    for i, j in ((0, 0), (2, 3), (4, 6)):
        nudged = student.detach().clone()
        nudged[i, j] += 1e-5
        up = slow_kd(nudged, teacher, t)
        nudged[i, j] -= 2e-5
        assert student.grad[i, j].item() == pytest.approx((up - slow_kd(nudged, teacher, t)) / 2e-5, abs=1e-6)


def test_kl_is_summed_over_classes_not_averaged() -> None:
    student, teacher = torch.randn(4, 100), torch.randn(4, 100)
    wrong = nn.KLDivLoss(reduction="mean")(student.log_softmax(1), teacher.softmax(1))
    assert kl_div(student, teacher).item() == pytest.approx(100 * wrong.item(), rel=1e-4)


def test_losses_leave_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = kd_loss(torch.ones(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3), 4.0)
    assert half.dtype == torch.float32


def test_pool_to_shrinks_the_larger_map() -> None:
    big = torch.arange(16.0).reshape(1, 1, 4, 4)
    a, b = pool_to(big, torch.zeros(1, 3, 2, 2))
    assert a.flatten().tolist() == [2.5, 4.5, 10.5, 12.5] and b.shape == (1, 3, 2, 2)


@pytest.mark.parametrize(
    ("student", "teacher", "kind"),
    [
        ((4, 16, 16), (6, 8, 8), nn.Conv2d),
        ((4, 8, 8), (6, 16, 16), nn.ConvTranspose2d),
        ((4, 8, 8), (6, 8, 8), nn.Conv2d),
        ((4, 9, 9), (6, 7, 7), nn.Conv2d),
    ],
)
def test_regressors_reach_the_teachers_shape(student, teacher, kind) -> None:
    regressor = conv_regressor(student, teacher)
    assert isinstance(regressor[0], kind) and isinstance(regressor[-1], nn.ReLU)
    assert tuple(regressor(torch.randn(2, *student)).shape) == (2, *teacher)


def test_regressors_refuse_what_one_convolution_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4, 4\).*\(6, 32, 32\)"):
        conv_regressor((4, 4, 4), (6, 32, 32))
    with pytest.raises(ValueError, match="stage 4 of net does not exist"):
        stage([(1, 2, 2)] * 3, 4, "net")


PAIR = ("cifar_resnet14", "cifar_resnet8")


@pytest.mark.parametrize("name", ["crd", "crd+kd", "crd-cross-modal", "crd-ensemble"])
def test_the_type_of_the_memory_banks_is_a_switch(name: str) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data, PAIR, "method.bank=bfloat16", "method.negatives=4")
    banks = {key: value.dtype for key, value in method.state_dict().items() if key.endswith(".bank")}
    assert banks and set(banks.values()) == {torch.bfloat16}
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    assert all(loss.isfinite() for loss in method.loss(batch).values())
    with pytest.raises(ValueError, match="method.bank=int8 .* use float32 or bfloat16"):
        tiny.seeded_method(name, data, PAIR, "method.bank=int8")


def test_asking_a_peer_leaves_its_statistics_alone() -> None:
    net = tiny.net("cifar_resnet8").train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad(), frozen_statistics(net):
        asked = net(images).logits
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(asked, net(images).logits, atol=1e-6), "it normalises with the batch, as in training"


@pytest.mark.parametrize("norm", ["batchnormact", "evonormb0", "instance", "synced"])
def test_whatever_keeps_statistics_of_batches_leaves_them_alone_when_it_is_only_asked(norm: str) -> None:
    from timm.layers import BatchNormAct2d, EvoNorm2dB0

    layers = {"batchnormact": BatchNormAct2d(4), "evonormb0": EvoNorm2dB0(4), "synced": nn.SyncBatchNorm(4)}
    layer = layers.get(norm) or nn.InstanceNorm2d(4, track_running_stats=True)
    torch.manual_seed(0)
    asked, learnt, images = layer.train(), copy.deepcopy(layer), torch.randn(3, 4, 5, 5) * 3 + 1
    with torch.no_grad(), frozen_statistics(nn.Sequential(asked)):
        answer = asked(images)
    assert all(torch.equal(v, learnt.state_dict()[k]) for k, v in asked.state_dict().items())
    assert torch.equal(answer, learnt(images)), "it normalises as in training"
    before = {k: v.clone() for k, v in asked.state_dict().items()}
    asked(images)
    assert any(not torch.equal(v, before[k]) for k, v in asked.state_dict().items()), "afterwards it goes on counting"
