"""Slow arithmetic in plain Python and float64, to hold losses against, and a step of training by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import pytest
import torch

from distill.engine.update import train_mode
from tests import tiny


def softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    top = max(values)
    exponentials = [math.exp((value - top) / temperature) for value in values]
    return [each / sum(exponentials) for each in exponentials]


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def slow_kl(student: list[list[float]], teacher: list[list[float]], temperature: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(student)


def slow_ce(logits: list[list[float]], labels: list[int]) -> list[float]:
    return [-math.log(softmax(row)[label]) for row, label in zip(logits, labels, strict=True)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient_agrees(loss, slow, at: torch.Tensor, tolerance: float = 1e-6) -> None:
    """The autograd gradient of `loss` is the central difference of `slow` at every entry."""
    point = at.clone().requires_grad_()
    loss(point).backward()
    for place in itertools.product(*(range(size) for size in at.shape)):
        step = torch.zeros_like(at)
        step[place] = 1e-5
        difference = (slow(at + step) - slow(at - step)) / 2e-5
        assert point.grad[place].item() == pytest.approx(difference, abs=tolerance)


def student(seed: int = 1, name: str = "cifar_resnet8"):
    return tiny.net(name, seed)


def one_step(method, phase, batch, lr: float = 0.1) -> set[str]:
    """Run each update of a phase once with SGD; return the names of parameters that moved."""
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    train_mode(method, phase)
    for update in phase.updates:
        parameters = [p for module in update.trains for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=lr)
        sum(update.loss(batch).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    method.after_step()
    return {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}
