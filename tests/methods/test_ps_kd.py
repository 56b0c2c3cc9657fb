"""ps-kd: Self-Knowledge Distillation with Progressive Refinement of Targets."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from distill.methods.ps_kd import PSKD, progressive_loss
from tests import tiny
from tests.slow import draw, gradient_agrees, softmax, student


def test_progressive_targets_mix_labels_and_past_predictions() -> None:
    logits, past, labels, alpha = draw(4, 5), draw(4, 5, seed=1).softmax(1), [0, 4, 2, 2], 0.3

    def slow(z: torch.Tensor) -> float:
        total = 0.0
        for row, old, label in zip(z.tolist(), past.tolist(), labels, strict=True):
            target = [alpha * old[c] + (1 - alpha) * (c == label) for c in range(5)]
            total -= sum(t * math.log(p) for t, p in zip(target, softmax(row), strict=True))
        return total / 4

    target = torch.tensor(labels)
    assert progressive_loss(logits, target, past, alpha).item() == pytest.approx(slow(logits))
    gradient_agrees(lambda z: progressive_loss(z, target, past, alpha), slow, logits)


def test_past_predictions_are_one_hot_at_first_then_those_of_the_augmented_view() -> None:
    data = tiny.tiny_data()
    method = tiny.by_hand(PSKD, student(), [], data.info)
    method.epoch, method.epochs = 1, 4
    assert torch.equal(method.past.bank, F.one_hot(data.info.labels, tiny.CLASSES).float())
    assert "past.bank" in method.state_dict()
    batch = next(data.source(8, 1).epoch(1))
    logits = method.student(batch.inputs).logits
    first = method.loss(batch)["ce"]
    assert first.item() == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    before = method.past.bank.clone()
    method.after_step()
    seen = torch.zeros(tiny.IMAGES, dtype=torch.bool)
    seen[batch.index] = True
    assert torch.equal(method.past[~seen], before[~seen])
    assert torch.allclose(method.past[batch.index], logits.softmax(1))
    method.epoch = 2  # alpha_2 = 0.8 x 2 / 4
    mixed = 0.6 * F.one_hot(batch.labels, tiny.CLASSES) + 0.4 * logits.softmax(1)
    expected = -(mixed * logits.log_softmax(1)).sum(1).mean()
    assert method.loss(batch)["ce"].item() == pytest.approx(expected.item(), rel=1e-4)
