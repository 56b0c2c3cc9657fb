"""What the tests of methods on feature maps share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.batch import Batch
from distill.config import OptimizerSpec
from distill.engine.optim import Stepper
from distill.engine.update import train_mode
from distill.method import Method, Phase
from tests import tiny

SCHEDULE = OptimizerSpec(
    lr=0.05, optimizer={"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.05}
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor, rel: float = 1e-9
) -> None:
    """Value and gradient with respect to the first input agree."""
    results: list[tuple[float, Tensor]] = []
    for function in (fast, slow):
        leaf = inputs[0].clone().requires_grad_()
        loss = function(leaf, *inputs[1:])
        results.append((loss.item(), torch.autograd.grad(loss, leaf)[0]))
    (value, gradient), (wanted, wanted_gradient) = results
    assert value == pytest.approx(wanted, rel=rel)
    assert wanted_gradient.abs().max() > 0
    torch.testing.assert_close(
        gradient, wanted_gradient, rtol=rel, atol=rel * wanted_gradient.abs().max().item()
    )


def halve(x: Tensor) -> Tensor:
    """Average 2x2 blocks, by slicing."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def run(method: Method, phase: Phase, steps: int = 2) -> set[str]:
    """Train a phase for some steps as the loop does; return the names of the parameters that have changed."""
    if phase.begin:
        phase.begin()
    train_mode(method, phase)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    schedule = SCHEDULE.merged(phase.schedule)
    steppers = [(u.stepper or Stepper)(u.trains, schedule.merged(u.optimizer)) for u in phase.updates]
    for batch in list(tiny.tiny_data().source(batch_size=8, seed=3).epoch(1))[:steps]:
        for update, stepper in zip(phase.updates, steppers, strict=True):
            stepper.set_lr(0, 1, 1)
            stepper.step(update.loss(batch))
    return {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}


def made(name: str, *overrides: str, pair: tuple[str, str] = ("cifar_resnet14", "cifar_resnet8")) -> Any:
    """Return the method of the name on a fresh tiny pair (teacher, student); Any, for its own attributes."""
    return tiny.seeded_method(name, tiny.tiny_data(), pair, *overrides)


def first_batch() -> Batch:
    return next(iter(tiny.tiny_data().source(batch_size=8, seed=3).epoch(1)))


def slow_attention(feature: Tensor) -> Tensor:
    b, c, h, w = feature.shape
    rows = []
    for n in range(b):
        energy: list[Any] = [
            sum(feature[n, k, i, j] ** 2 for k in range(c)) / c for i in range(h) for j in range(w)
        ]
        norm = sum(e * e for e in energy) ** 0.5
        rows.append(torch.stack([e / norm for e in energy]))
    return torch.stack(rows)
