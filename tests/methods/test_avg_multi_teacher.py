"""avg-multi-teacher: Learning from Multiple Teacher Networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.methods.avg_multi_teacher import loss_to_mean, mean_of_losses
from distill.parts.min_norm import MinNorm
from tests import tiny
from tests.methods.given_multi import logits
from tests.slow import softmax


def slow_kl(target: list[float], student: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(target, student, strict=True))


def check_gradient(loss, at: Tensor) -> None:
    """The gradient of loss(at) at a few places against central differences."""
    at = at.clone().requires_grad_()
    loss(at).backward()
    for place in ((0, 0), (1, 2), (3, 4)):
        up, down = at.detach().clone(), at.detach().clone()
        up[place] += 1e-5
        down[place] -= 1e-5
        slope = (loss(up) - loss(down)).item() / 2e-5
        assert at.grad[place].item() == pytest.approx(slope, abs=1e-6)


def test_both_averages_by_hand() -> None:
    student, teachers, t = logits(4, 5), list(logits(3, 4, 5, seed=1)), 3.0
    losses = to_mean = 0.0
    for i in range(4):
        mine = softmax(student[i].tolist(), t)
        said = [softmax(each[i].tolist(), t) for each in teachers]
        losses += sum(slow_kl(p, mine) for p in said) / 3
        to_mean += slow_kl([sum(column) / 3 for column in zip(*said, strict=True)], mine)
    assert mean_of_losses(student, teachers, t).item() == pytest.approx(t * t * losses / 4, rel=1e-9)
    assert loss_to_mean(student, teachers, t).item() == pytest.approx(t * t * to_mean / 4, rel=1e-6)
    assert losses > to_mean  # different values ...
    check_gradient(lambda z: mean_of_losses(z, teachers, t), student)
    grads = []
    for average in (mean_of_losses, loss_to_mean):  # ... and the same gradient
        z = student.clone().requires_grad_()
        average(z, teachers, t).backward()
        grads.append(z.grad)
    assert torch.allclose(*grads, atol=1e-6)


def test_average_is_chosen_by_keyword_and_misspellings_are_refused() -> None:
    data = tiny.tiny_data()
    values = []
    for average in ("losses", "probabilities"):
        method = tiny.seeded_method(
            "avg-multi-teacher", data, ("cifar_resnet8", "cifar_resnet8"), f"method.average={average}"
        )
        values.append(method.loss(next(iter(data.source(batch_size=8, seed=1).epoch(1))))["kd"].item())
    assert values[0] > values[1] > 0
    with pytest.raises(ValueError, match="losses, probabilities"):
        tiny.seeded_method("avg-multi-teacher", data, ("cifar_resnet8", "cifar_resnet8"), "method.average=both")


def test_min_norm_of_special_cases() -> None:
    equal = MinNorm(3, 0.6)(torch.ones(3, 3))
    assert torch.allclose(equal.sum(), torch.ones((), dtype=torch.float64)) and equal.max() <= 0.6 + 1e-9
    assert torch.allclose(
        MinNorm(3, 0.1)(torch.diag(torch.tensor([1.0, 5.0, 9.0]))), torch.full((3,), 1 / 3, dtype=torch.float64)
    )
    assert torch.isfinite(MinNorm(3, 0.6)(torch.zeros(3, 3))).all()
    with pytest.raises(ValueError, match="avg-multi-teacher"):
        MinNorm(30, 0.6)
