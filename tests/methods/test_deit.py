"""DeiT's hard, soft and token distillation, beside timm's task and arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.task import TokenDistillationTask
from torch import nn

from distill.batch import Batch
from distill.contract.world import SMALLER
from distill.methods.deit import hard_label_loss
from tests import tiny
from tests.methods.arithmetic import kl, logits, softmax

DISTILLED, VIT = "deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224"


def pair_of(method: str, student: str, *overrides: str):
    """The method of a small ViT as teacher, and a batch."""
    data = tiny.tiny_data()
    nets = (tiny.net(name, seed, **SMALLER[name]) for name, seed in ((student, 1), (VIT, 2)))
    return tiny.make(method, *nets, data, *overrides), next(data.source(batch_size=8, seed=3).epoch(1))


def test_hard_labels_are_the_teachers_decisions() -> None:
    student, teacher = logits(0), logits(1)
    rows = np.log(softmax(student.numpy()))[np.arange(len(student)), teacher.numpy().argmax(1)]
    assert hard_label_loss(student, teacher).item() == pytest.approx(-rows.mean(), rel=1e-12)


@pytest.mark.parametrize(("method", "kind", "words"), [
    ("deit-token", "hard", ()),
    ("deit-token", "soft", ("method.weight=0.0", "method.kd=0.5", "method.temperature=3.0")),
])  # fmt: skip
def test_each_head_has_its_own_target_as_in_timms_task(method: str, kind: str, words: tuple[str, ...]) -> None:
    made, batch = pair_of(method, DISTILLED, *words)
    made.eval()
    made.teacher.model.pretrained_cfg = made.student.model.pretrained_cfg  # both see images alike
    task = TokenDistillationTask(made.student.model, made.teacher.model, nn.CrossEntropyLoss(), distill_type=kind,
                                 task_loss_weight=0.5, temperature=3.0, device=torch.device("cpu"))  # fmt: skip
    losses = made.loss(batch)
    made.student.model.set_distilled_training(True)
    task.train()
    theirs = task(batch.inputs, batch.labels)
    assert sum(losses.values()).item() == pytest.approx(theirs["loss"].item(), rel=1e-4)


def test_the_mean_of_both_heads_is_what_is_evaluated_and_counted() -> None:
    made, batch = pair_of("deit-token", DISTILLED)
    made.eval()
    made.loss(batch)
    outputs = made.student(batch.inputs)
    assert torch.allclose(outputs.logits, (outputs.heads[0] + outputs.heads[1]) / 2, atol=1e-6)
    assert torch.allclose(made.counted[0], outputs.logits, atol=1e-6)


def test_one_head_learns_labels_and_soft_targets_alike() -> None:
    data = tiny.tiny_data()
    made = tiny.make("deit-soft", tiny.net("cifar_resnet8", 1), tiny.net("cifar_resnet8", 2), data).eval()
    batch: Batch = next(data.source(batch_size=8, seed=3).epoch(1))
    with torch.no_grad():
        student, teacher = (net(batch.inputs).logits.double().numpy() for net in (made.student, made.teacher))
        losses = made.loss(batch)
    rows = np.log(softmax(student))[np.arange(8), batch.labels.numpy()]
    assert losses["ce"].item() == pytest.approx(-0.9 * rows.mean(), rel=1e-5)
    expected = 0.1 * 9 * kl(softmax(teacher, 3.0), softmax(student, 3.0)).mean()
    assert losses["kd"].item() == pytest.approx(expected, rel=1e-4) and "hard" not in losses


def test_token_distillation_needs_a_token() -> None:
    with pytest.raises(ValueError, match="has no distillation token: take student=timm .* or method=deit-hard"):
        pair_of("deit-token", VIT)
