"""apprentice: Apprentice, using knowledge distillation to improve low-precision network accuracy."""

from __future__ import annotations

import math

import pytest
import torch

from distill.methods.apprentice import imitation_loss
from tests import tiny
from tests.methods.given_quantized import run_updates


def test_apprentice_schemes_train_what_the_paper_says() -> None:
    data = tiny.tiny_data()
    pair = ("cifar_resnet14", "cifar_resnet8")
    b = tiny.seeded_method("apprentice", data, pair)
    assert b.companion is None and [phase.name for phase in b.phases()] == ["distill"]
    batch = next(data.source(batch_size=8, seed=3).epoch(1))
    assert set(b.loss(batch)) == {"ce", "kd"}
    a = tiny.seeded_method("apprentice", data, pair, "method.scheme=A")
    losses = a.joint_loss(batch)
    assert set(losses) == {"ce_teacher", "ce", "kd"}
    losses["kd"].backward()
    assert a.companion.model.fc.weight.grad.abs().sum() > 0 < a.student.model.fc.weight.grad.abs().sum()
    assert all(p.grad is None for p in a.teacher.parameters())
    c = tiny.seeded_method("apprentice", data, pair, "method.scheme=C")
    full, tune = c.phases()
    middle = c.student.model.layer2[0].conv1
    run_updates(c, full, data)
    assert middle.weight.unique().numel() > 16 and not middle.input_quantizer.ready
    run_updates(c, tune, data)
    assert middle.weight.unique().numel() <= 16 and middle.input_quantizer.ready
    with pytest.raises(ValueError, match="schemes A, B and C"):
        tiny.seeded_method("apprentice", data, pair, "method.scheme=D")


def test_imitation_is_cross_entropy_with_probabilities() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    p = [[math.exp(v) for v in row] for row in teacher.tolist()]
    q = [[math.exp(v) for v in row] for row in student.tolist()]
    total = 0.0
    for a, b in zip(p, q, strict=True):
        total -= sum(x / sum(a) * math.log(y / sum(b)) for x, y in zip(a, b, strict=True)) / 3
    loss = imitation_loss(student, teacher)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    loss.backward()
    assert student.grad[0, 0].item() == pytest.approx(
        (q[0][0] / sum(q[0]) - p[0][0] / sum(p[0])) / 3, abs=1e-6
    )
