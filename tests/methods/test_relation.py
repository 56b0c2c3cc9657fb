"""Methods on relations: what several methods share."""

from __future__ import annotations

import pytest
import torch

from distill.batch import Batch
from distill.config import OptimizerSpec
from distill.methods import kdsvd
from tests.methods.given_relation import method


@pytest.mark.parametrize("name", ["sp", "pkt", "cc", "cc-kernel", "rkd", "irg"])
def test_a_last_batch_of_one_is_finite_with_finite_gradients(name: str) -> None:
    built = method(name).eval()
    batch = Batch(torch.randn(1, 3, 16, 16), torch.zeros(1, dtype=torch.long), torch.arange(1))
    losses = built.distill(built.student(batch.inputs), built.teach(batch), batch)
    assert all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["sp", "pkt", "cc-kernel", "rkd", "irg"])
def test_equal_nets_have_nothing_to_learn(name: str) -> None:
    built = method(name).eval()
    batch = Batch(torch.randn(5, 3, 16, 16), torch.zeros(5, dtype=torch.long), torch.arange(5))
    seen = built.student(batch.inputs)
    losses = built.distill(seen, seen, batch)
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in losses.values())


def test_clipped_steps_pair_gradients_with_parameters_of_any_layout() -> None:
    """A fused optimiser goes through memory in order: a gradient laid out otherwise would move other weights."""
    schedule = OptimizerSpec(lr=0.1, optimizer={"name": "sgd"})
    conv = torch.nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last)
    before, stepper = conv.weight.detach().clone(), kdsvd.ClippedStepper([conv], schedule)
    slope = torch.arange(float(conv.weight.numel())).view(4, 3, 3, 3)
    stepper.step({"ce": (conv.weight * slope).sum(), "mhgd": (conv.weight * 0).sum()})
    assert torch.allclose(conv.weight, before - 0.1 * slope)
