"""aekd: Agree to Disagree."""

from __future__ import annotations

import pytest
import torch

from distill.engine.update import train_mode
from distill.methods.aekd import AEKD, logit_gradients
from distill.parts.several import kl_rows
from tests import tiny
from tests.methods.given_multi import logits


def test_one_teacher_is_refused() -> None:
    net = tiny.net("cifar_resnet8")
    with pytest.raises(ValueError, match="two or more"):
        tiny.by_hand(AEKD, net, [tiny.frozen(tiny.net("cifar_resnet8"))], tiny.tiny_data().info)


def test_aekd_gradients_are_autograds() -> None:
    student, teachers = logits(6, 5).requires_grad_(), list(logits(3, 6, 5, seed=2))
    rows = []
    for m in range(3):
        (grad,) = torch.autograd.grad(kl_rows(student, teachers, 4.0)[m].mean(), student, retain_graph=True)
        rows.append(grad.mean(0))
    ours = logit_gradients(student, teachers, 4.0)
    ratio = torch.stack(rows) / ours
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-6)  # the same up to a common factor


def test_aekd_with_hints_trains_each_regressor_from_the_second_epoch() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("aekd", data, ("cifar_resnet14", "cifar_resnet8"), "method.weight=100")
    train_mode(method, method.phases()[0])
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    for epoch, counts in ((1, False), (2, True)):
        method.epoch = epoch
        method.zero_grad()
        losses = method.loss(batch)
        assert (losses["hint"].item() > 0) is counts
        sum(losses.values()).backward()
        for head in method.regressors:  # the authors' torch.tensor([...]) would cut this
            assert bool(head[0].weight.grad.abs().sum() > 0) is counts
