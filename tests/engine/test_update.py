"""An update's losses: named numbers, under names that mean nothing else in a row and hide no other loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distill.engine.update import checked
from distill.method import Phase, Update
from distill.methods.kd import KD
from tests import tiny

ONE = torch.tensor(1.0)


@pytest.mark.parametrize(("losses", "said"), [
    (ONE, "the method's losses are a Tensor: return a dictionary"),
    ((loss for loss in [ONE]), "the method's losses are a generator: return a dictionary"),
    ({"own": 0.5}, "the loss 'own' is a float, not a tensor"),
    ({"own": torch.ones(8)}, r"the loss 'own' is a tensor of shape \[8\]"),
    ({"loss": ONE}, "a loss is called 'loss', which means something else in metrics.jsonl"),
    ({"correct": ONE}, "a loss is called 'correct'"),
    ({"test_accuracy": ONE}, "a loss is called 'test_accuracy'"),
    ({}, "the method has no loss with these weights"),
])  # fmt: skip
def test_what_are_no_named_numbers_is_refused(losses: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked(losses)


def test_a_loss_that_would_hide_soft_targets_is_refused() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("kd", data, tiny.SMALLEST)
    method.distill = lambda student, teacher, batch: {"kd": student.logits.sum()}
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    with pytest.raises(ValueError, match="'kd' is the base class's loss"):
        method.loss(batch)
    method.kd = 0.0
    assert list(method.loss(batch)) == ["ce", "kd"]


def test_a_loss_that_would_hide_anothers_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.tiny_data()
    twice = ("first", "second")
    monkeypatch.setattr(KD, "phases", lambda self: [Phase("distill", [Update(n, self.loss, [self]) for n in twice])])
    method = tiny.seeded_method("kd", data, tiny.SMALLEST)
    with pytest.raises(ValueError, match="two updates of a phase have a loss 'ce'"):
        next(tiny.fit(method, data, tmp_path).steps())
