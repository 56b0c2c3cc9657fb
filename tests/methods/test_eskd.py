"""eskd: On the Efficacy of Knowledge Distillation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from distill.engine.update import train_mode
from distill.methods.eskd import ESKD
from tests.methods.given_self import guided
from tests.slow import one_step


def test_eskd_trains_its_teacher_first_and_drops_it_late() -> None:
    data, method = guided(ESKD, teacher_epochs=2, share=0.5)
    first, second = method.phases()
    batch = next(data.source(8, 1).epoch(1))
    assert first.epochs == 2 and not first.evaluates and second.epochs is None
    assert all(name.startswith("guide.") for name in one_step(method, first, batch))
    assert all(name.startswith("student.") for name in one_step(method, second, batch))
    train_mode(method, second)
    method.epochs, calls = 4, []
    method.guide.register_forward_hook(lambda *_: calls.append(method.epoch))
    weights = {}
    for method.epoch in (1, 2, 3, 4):
        weights[method.epoch] = method.loss(batch)
    assert calls == [1, 2] and not method.guide.training
    assert set(weights[2]) == {"ce", "kd"} and set(weights[3]) == {"ce"}
    logits = method.student(batch.inputs).logits
    assert weights[4]["ce"].item() == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-4)


def test_eskd_without_teacher_epochs_takes_the_given_teacher() -> None:
    data, method = guided(ESKD, teacher_epochs=0)
    assert [phase.name for phase in method.phases()] == ["distill"] and method.reported() == {}
    batch = next(data.source(8, 1).epoch(1))
    assert torch.equal(method.teach(batch).logits, method.teacher(batch.inputs).logits)
    assert not any(key.startswith("guide") for key in method.state_dict())
