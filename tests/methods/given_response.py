"""What the tests of methods on logits share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.methods.arithmetic import logits

T = 3.0


Rows = list[list[float]]


STUDENT, TEACHER, LABELS = logits(0), logits(1), torch.tensor([0, 5, 2, 2, 3])


def agrees(loss: Callable[[Tensor], Tensor], slow: Callable[[Rows], float], x: Tensor) -> None:
    """Check a loss's value against loops, and its gradient against the loops' central differences."""
    leaf = x.clone().requires_grad_()
    value = loss(leaf)
    assert value.shape == () and value.item() == pytest.approx(slow(x.tolist()), rel=1e-9, abs=1e-12)
    value.backward()
    assert leaf.grad is not None
    for k in range(3):
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        step = 1e-5 * direction
        slope = (slow((x + step).tolist()) - slow((x - step).tolist())) / 2e-5
        assert (leaf.grad * direction).sum().item() == pytest.approx(slope, rel=2e-5, abs=1e-7)


def gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def without(row: list[float], k: int) -> list[float]:
    return row[:k] + row[k + 1 :]


def method(name: str, *overrides: str) -> Any:
    return tiny.seeded_method(name, tiny.tiny_data(), ("cifar_resnet8", "cifar_resnet8"), *overrides)
