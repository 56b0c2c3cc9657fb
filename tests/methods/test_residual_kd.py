"""residual-kd: Residual Knowledge Distillation."""

from __future__ import annotations

import pytest

from distill.engine.update import train_mode
from distill.methods.residual_kd import Together
from tests import tiny


def test_residual_phases_train_student_then_assistant() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("residual-kd", data, ("cifar_resnet14", "cifar_resnet8"))
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    groups = [
        {id(p) for module in phase.updates[0].trains for p in module.parameters()} for phase in method.phases()
    ]
    student = {id(p) for p in [*method.student.parameters(), *method.embed_student.parameters()]}
    assert groups[0] == student and not groups[1] & student
    train_mode(method, method.phases()[1])
    losses = method.assist(batch)
    known = method.embed_student(method.student(batch.inputs).embedding)
    missed = method.embed_assistant(method.assistant(batch.inputs).embedding)
    target = method.teacher(batch.inputs).embedding
    slow = (
        sum(
            (t - k - m) ** 2
            for t, k, m in zip(*(x.flatten().tolist() for x in (target, known, missed)), strict=True)
        )
        / target.numel()
    )
    assert losses["residual"].item() == pytest.approx(slow, rel=1e-3)
    sum(losses.values()).backward()
    assert all(p.grad is None for p in method.student.parameters())
    both = method.reported()["student+assistant"]
    assert isinstance(both, Together) and both(batch.inputs).shape == (8, 6)
    assert method.deployed() is method.student
