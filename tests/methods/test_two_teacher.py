"""two-teacher: A Two-Teacher Framework for Knowledge Distillation."""

from __future__ import annotations

import pytest
import torch

from distill.engine.update import train_mode
from distill.methods.two_teacher import map_loss
from tests import tiny
from tests.methods.given_multi import logits


def test_two_teacher_takes_logits_from_the_first_and_the_map_from_the_second() -> None:
    data = tiny.tiny_data()
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    method = tiny.seeded_method("two-teacher", data, ("cifar_resnet14", "cifar_resnet8"))
    train_mode(method, method.phases()[0])
    before = {key: value.item() for key, value in method.loss(batch).items()}
    with torch.no_grad():
        method.teachers[1].classifier.weight.mul_(3)  # no logits are taken from it
    assert method.loss(batch)["kd"].item() == pytest.approx(before["kd"], rel=1e-6)
    with torch.no_grad():
        method.teachers[1].model.layer2[0].conv1.weight.mul_(3)
        method.teachers[0].model.layer3[0].conv1.weight.mul_(3)
    after = method.loss(batch)
    assert after["hint"].item() != pytest.approx(before["hint"], rel=1e-4)
    assert after["kd"].item() != pytest.approx(before["kd"], rel=1e-4)


def test_map_loss_is_a_mean() -> None:
    a, b = logits(2, 3, 2, 2), logits(2, 3, 2, 2, seed=1)
    slow = sum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 24
    assert map_loss(a, b).item() == pytest.approx(slow)
