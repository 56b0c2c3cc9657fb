"""tf-kd-self: Revisiting Knowledge Distillation via Label Smoothing Regularization."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from distill.engine.update import train_mode
from distill.methods.tf_kd_self import TfKDSelf
from tests import tiny
from tests.slow import student


def test_tf_kd_self_weighs_like_the_authors_mean_over_classes_with_their_multiplier() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(TfKDSelf, student(), [], data.info, ce=0.05, kd=0.95 * 50 / tiny.CLASSES)
    batch = next(data.source(8, 1).epoch(1))
    first, second = method.phases()
    second.begin()
    train_mode(method, second)
    losses = second.updates[0].loss(batch)
    with torch.no_grad():
        s, t = method.student(batch.inputs).logits, method.past[0](batch.inputs).logits
        authors = torch.nn.KLDivLoss(reduction="mean")(F.log_softmax(s / 6, 1), F.softmax(t / 6, 1)) * 36 * 50
    assert losses["kd"].item() == pytest.approx(0.95 * authors.item(), rel=1e-4)
    assert not method.past[0].training and second.evaluates and not first.evaluates
