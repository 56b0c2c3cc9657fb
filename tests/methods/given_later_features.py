"""What the tests of later methods on features share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.batch import Batch
from distill.config import OptimizerSpec
from distill.data import DataInfo
from distill.engine.optim import Stepper
from distill.engine.update import train_mode
from distill.method import Method
from distill.models import FeatureNet
from tests import tiny

B, K = 8, 6


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def info() -> DataInfo:
    return tiny.tiny_data().info


def net(name: str = "cifar_resnet8", seed: int = 0, **args: Any) -> FeatureNet:
    return tiny.net(name, seed, **args)


def teacher(name: str = "cifar_resnet14", **args: Any) -> FeatureNet:
    return tiny.frozen(net(name, 9, **args))


def made(
    kind: type[Method], student: str = "cifar_resnet8", teacher_name: str = "cifar_resnet14", **options: Any
) -> Any:
    torch.manual_seed(3)
    return tiny.by_hand(kind, net(student), [teacher(teacher_name)], info(), **options)


def batch(count: int = B, seed: int = 0) -> Batch:
    images = rand(count, 3, 16, 16, seed=seed).float()
    return Batch(images, torch.arange(count) % K, torch.arange(count))


def same_value_and_gradient(loss: Any, slow: Any, *inputs: Tensor) -> None:
    """Value, and gradient for the first input, against the slow version's finite differences (float64)."""
    x = inputs[0].clone().requires_grad_(True)
    value = loss(x, *inputs[1:])
    assert value.item() == pytest.approx(slow(inputs[0], *inputs[1:]), rel=1e-9)
    value.backward()
    assert x.grad is not None
    flat, step = inputs[0].flatten(), 1e-5
    for i in range(0, flat.numel(), max(flat.numel() // 12, 1)):
        ends = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[i] += sign * step
            ends.append(slow(moved.view(inputs[0].shape), *inputs[1:]))
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert x.grad.flatten()[i].item() == pytest.approx(numeric, rel=2e-4, abs=1e-8)


def changed(method: Method, run: Any) -> set[str]:
    """Names of the parameters that `run` changes, up to the second dot."""
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    run()
    return {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}


def take_steps(method: Method, number: int, steps: int = 2, make: Callable[[int], Batch] | None = None) -> None:
    """Train the method's phase `number` for a few steps, as the loop does."""
    phase = method.phases()[number]
    schedule = OptimizerSpec(lr=0.05, optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4})
    steppers = [Stepper(u.trains, schedule.merged(phase.schedule)) for u in phase.updates]
    train_mode(method, phase)
    for step in range(steps):
        for update, stepper in zip(phase.updates, steppers, strict=True):
            stepper.step(update.loss(make(step) if make else batch(seed=step)))


def cell_means(x: list, size: int) -> list:
    """Adaptive average pooling of a square map, by its definition."""
    n = len(x)
    edges = [(math.floor(i * n / size), math.ceil((i + 1) * n / size)) for i in range(size)]

    def mean(rows: tuple[int, int], cols: tuple[int, int]) -> float:
        cells = [x[r][c] for r in range(*rows) for c in range(*cols)]
        return sum(cells) / len(cells)

    return [[mean(rows, cols) for cols in edges] for rows in edges]


def slow_mse(a: Tensor, b: Tensor) -> float:
    x, y = a.flatten().tolist(), b.flatten().tolist()
    return sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) / len(x)
