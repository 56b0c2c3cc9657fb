"""qkd: QKD, quantization-aware knowledge distillation."""

from __future__ import annotations

import pytest
import torch

from distill.losses import kl_div
from tests import tiny
from tests.methods.given_quantized import run_updates


def test_qkd_phases_train_what_the_paper_says() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("qkd", data)
    assert [phase.name for phase in method.phases()] == ["self-study", "co-study", "tutor"]
    for phase, teacher_moves in zip(method.phases(), (False, True, False), strict=True):
        teacher = {k: v.clone() for k, v in method.tutor.state_dict().items()}
        student = method.student.model.fc.bias.detach().clone()
        run_updates(method, phase, data)
        moved = any(not torch.equal(v, teacher[k]) for k, v in method.tutor.state_dict().items())
        assert moved is teacher_moves, phase.name
        assert not torch.equal(student, method.student.model.fc.bias)
    fresh = tiny.net("cifar_resnet14", seed=2)
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in method.teacher.state_dict().items())
    batch = next(data.source(batch_size=8, seed=3).epoch(1))
    method.student_loss(batch)
    losses = method.teacher_loss(batch)
    wanted = 4 * kl_div(method.tutor(batch.inputs).logits, method.counted[0], 2.0)
    assert losses["kd_teacher"].item() == pytest.approx(wanted.item(), rel=1e-4)


def test_the_teacher_that_is_trained_counts_each_batch_once() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("qkd", data)
    method.co_study()
    norm = method.train().tutor.model.bn1
    batch, before = next(data.source(batch_size=8, seed=3).epoch(1)), norm.num_batches_tracked.clone()
    method.student_loss(batch)
    method.teacher_loss(batch)
    assert norm.num_batches_tracked == before + 1
