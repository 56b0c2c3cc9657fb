"""cs-kd: Regularizing Class-wise Predictions via Self-knowledge Distillation."""

from __future__ import annotations

import pytest
import torch

from distill.engine.update import train_mode
from distill.methods.cs_kd import CSKD
from tests import tiny
from tests.slow import slow_kl, student


def test_cs_kd_teaches_from_the_partner_without_gradient_and_counts_the_first_half() -> None:
    data = tiny.tiny_data()
    method = tiny.by_hand(CSKD, student(), [], data.info)
    (phase,) = method.phases()
    batch = next(phase.source(data.source(8, 1)).epoch(1))
    batch.views["partner"].requires_grad_()
    train_mode(method, phase)
    losses = phase.updates[0].loss(batch)
    losses["kd"].backward()
    assert batch.views["partner"].grad is None
    assert method.counted[0].shape[0] == len(batch.labels) == 8
    with torch.no_grad():
        own = method.student(batch.inputs).logits.double().tolist()
        partner = method.student(batch.views["partner"]).logits.double().tolist()
    assert losses["kd"].item() == pytest.approx(16 * slow_kl(own, partner, 4.0), rel=1e-3, abs=1e-4)
