"""What the tests of methods on relations share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny

Vectors = list[list[float]]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = normal(0, 5, 3), normal(1, 5, 4)


def agrees(loss: Callable[[Tensor], Tensor], slow: Callable[[Tensor], float], x: Tensor) -> None:
    """Check a loss's value against loops, and its gradient against the loops' central differences."""
    leaf = x.clone().requires_grad_()
    value = loss(leaf)
    assert value.shape == () and value.item() == pytest.approx(slow(x), rel=1e-6, abs=1e-12)
    value.backward()
    assert leaf.grad is not None
    for k in range(3):
        direction = normal(k + 50, *x.shape)
        slope = (slow(x + 1e-6 * direction) - slow(x - 1e-6 * direction)) / 2e-6
        assert (leaf.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


def rows(x: Tensor) -> Vectors:
    return x.flatten(1).tolist()


def dot(a: list[float], b: list[float]) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True))


def squared(a: list[float], b: list[float]) -> float:
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))


def minus(a: list[float], b: list[float]) -> list[float]:
    return [p - q for p, q in zip(a, b, strict=True)]


def unit(a: list[float]) -> list[float]:
    length = math.sqrt(dot(a, a))
    return [p / length for p in a]


def method(name: str, *overrides: str) -> Any:
    return tiny.seeded_method(name, tiny.tiny_data(), ("cifar_wrn_16_2", "cifar_resnet8"), *overrides)
