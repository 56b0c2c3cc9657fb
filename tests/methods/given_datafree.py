"""What the tests of data-free methods share."""

from __future__ import annotations

from typing import Any

import pytest
import torch


class Untouchable:
    """The run's source, of which a data-free method may know the seed and the batch size."""

    seed, batch_size = 1, 8

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a data-free method touched the training data: {name}")


def check_gradient(loss: Any, x: torch.Tensor) -> None:
    """Compare autograd with central differences in float64 at a few places."""
    x = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    for place in range(0, x.numel(), max(1, x.numel() // 5)):
        step = torch.zeros(x.numel(), dtype=torch.float64)
        step[place] = 1e-5
        step = step.view_as(x)
        slope = (loss(x.detach() + step) - loss(x.detach() - step)) / 2e-5
        assert gradient.flatten()[place].item() == pytest.approx(float(slope), rel=1e-4, abs=1e-7)
