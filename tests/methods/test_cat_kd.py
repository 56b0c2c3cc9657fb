"""cat-kd: Class Attention Transfer Based Knowledge Distillation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill import config
from distill.engine.update import train_mode
from distill.methods import cat_kd
from distill.methods.cat_kd import CATKD, cat_loss
from distill.models import build
from tests import tiny
from tests.methods.given_later_features import (
    batch,
    cell_means,
    changed,
    info,
    made,
    net,
    rand,
    same_value_and_gradient,
    take_steps,
    teacher,
)


def test_cat_loss() -> None:
    def slow(student: Tensor, target: Tensor) -> float:
        total, count = 0.0, 0
        for x, y in zip(student.flatten(0, 1).tolist(), target.flatten(0, 1).tolist(), strict=True):
            p, q = sum(cell_means(x, 2), []), sum(cell_means(y, 2), [])
            p = [v / math.sqrt(sum(u * u for u in p)) for v in p]
            q = [v / math.sqrt(sum(u * u for u in q)) for v in q]
            total += sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
            count += 4
        return total / count

    loss = lambda s, t: cat_loss(s, t, 2)  # noqa: E731
    same_value_and_gradient(loss, slow, rand(2, 3, 5, 5), rand(2, 3, 4, 4, seed=1))
    zero = torch.zeros(1, 2, 4, 4, requires_grad=True)
    cat_loss(zero, torch.ones(1, 2, 4, 4), 2).backward()
    assert torch.isfinite(zero.grad).all(), "a map of zeros has no length"


def test_cat_kd_moves_batchnorm_statistics_once_a_step() -> None:
    counted, plain = made(CATKD, "cifar_wrn_16_1"), net("cifar_wrn_16_1")
    train_mode(counted, counted.phases()[0])
    counted.loss(batch())
    plain.train()(batch().inputs)
    key = "model.bn1.running_mean"
    torch.testing.assert_close(counted.student.state_dict()[key], plain.state_dict()[key])
    assert counted.student.state_dict()["model.bn1.num_batches_tracked"] == 1


def test_cat_kd_lays_weights_on_the_last_map_where_positions_are_not_classified() -> None:
    vit = dict(patch_size=4, embed_dim=32, depth=4, num_heads=2)
    method = tiny.by_hand(CATKD, net(), [teacher("vit_tiny_patch16_224", **vit)], info())
    assert (method._student_pointwise, method._teacher_pointwise) == (True, False)
    assert math.isfinite(method.loss(batch())["cat"].item())
    with pytest.raises(ValueError, match=r"pools class activation maps to 5x5.*\(64, 4, 4\).*method="):
        made(CATKD, size=5)


def test_cat_kd_takes_the_students_bias_away_unless_told_otherwise() -> None:
    method = made(CATKD)
    assert "student.model.fc.bias" not in changed(method, lambda: take_steps(method, 0))
    assert not method.student.classifier.bias.any()
    kept = made(CATKD, bias=True)
    assert "student.model.fc.bias" in changed(kept, lambda: take_steps(kept, 0))


def test_cat_kd_starts_its_classifier_as_the_authors_convolution_starts() -> None:
    wide = build("cifar_resnet8", 2000, seed=1)
    cat_kd.as_a_convolution_starts(wide)
    assert wide.classifier.weight.std().item() == pytest.approx((2 / 2000) ** 0.5, rel=0.01)
    vgg = build("cifar_vgg8", 2000, seed=1)
    cat_kd.as_a_convolution_starts(vgg)
    assert vgg.classifier.weight.abs().max().item() == pytest.approx(512**-0.5, rel=0.01)
    mobile = build("mobilenetv1_relu", 1000, seed=1)
    cat_kd.as_a_convolution_starts(mobile)
    assert mobile.classifier.weight.abs().max().item() == pytest.approx(1024**-0.5, rel=0.01)


def test_cat_kd_leaves_a_student_that_was_trained_before_as_it_is() -> None:
    data, teacher = tiny.tiny_data(), tiny.net("cifar_resnet14")
    for begun in (True, False):
        student = tiny.net("cifar_resnet8")
        student.begun, before = begun, student.classifier.weight.clone()
        tiny.make("cat-kd", student, teacher, data)
        assert torch.equal(student.classifier.weight, before) == begun


def test_cat_kd_weights_of_pairs() -> None:
    cfg = tiny.composed("dataset=cifar100", "method=cat-kd", "teacher=resnet32x4", "student=ShuffleV1")
    assert (config.plain(cfg, "method.weight"), config.plain(cfg, "method.size")) == (600.0, 4)
    cfg = tiny.composed("dataset=cifar100", "method=cat-kd", "teacher=resnet56", "student=resnet20")
    assert (config.plain(cfg, "method.weight"), config.plain(cfg, "method.size")) == (0.7, 2)


def test_positions_are_compared_with_the_logits_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[bool] = []
    cams = cat_kd.pointwise_cams
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(
        cat_kd, "pointwise_cams", lambda *given: allowed.append(torch.backends.cudnn.allow_tf32) or cams(*given)
    )
    made(CATKD)
    assert allowed == [False, False] and torch.backends.cudnn.allow_tf32
