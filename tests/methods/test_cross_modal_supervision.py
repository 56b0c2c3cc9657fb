"""cross-modal-supervision: Cross Modal Distillation for Supervision Transfer."""

from __future__ import annotations

import pytest
import torch

from distill.engine.evaluate import accuracy
from distill.methods.cross_modal_supervision import stage_index, transfer_loss
from tests import tiny
from tests.methods.given_crossmodal import data, method_on


def test_transfer_loss_and_stages() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 2, 2, requires_grad=True), torch.randn(2, 3, 2, 2)
    gaps = [(a - b) for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)]
    loss = transfer_loss(student, teacher)
    assert loss.item() == pytest.approx(sum(g * g for g in gaps) / 24, rel=1e-5)
    loss.backward()
    assert student.grad.flatten()[5].item() == pytest.approx(2 * gaps[5] / 24, rel=1e-4)
    net = tiny.net("cifar_resnet8")
    assert (stage_index(net, -1), stage_index(net, 1), stage_index(net, 3)) == (2, 0, 2)
    with pytest.raises(ValueError, match="1 to 3"):
        stage_index(net, 4)


def test_methods_ask_the_teacher_about_its_own_view() -> None:
    viewed = data(student="ab", teacher="L")
    batch = next(viewed.source(batch_size=6, seed=1).epoch(1))
    method = method_on("cross-modal-supervision", viewed)
    assert method.regressor is None, "stages of one shape are compared as they are"
    wanted = method.teacher(batch.views["teacher"]).features[-1]
    loss = method.match_only(batch)["transfer"]
    method.student.eval()
    method.student.train()
    assert torch.allclose(method.teach(batch).features[-1], wanted) and loss > 0
    assert 0 <= accuracy(method.student, viewed) <= 100
