"""dafl: Data-Free Learning of Student Networks."""

from __future__ import annotations

import math

import pytest
import torch

from distill.engine.update import train_mode
from distill.methods.dafl import activation_loss
from distill.parts.datafree import balance_loss, certainty_loss
from tests import tiny
from tests.methods.given_datafree import Untouchable, check_gradient


def test_generator_losses_of_logits() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4)
    rows = [[math.exp(float(v)) for v in row] for row in logits]
    p = [[v / sum(row) for v in row] for row in rows]
    mean = [sum(row[c] for row in p) / 3 for c in range(4)]
    assert balance_loss(logits, 10.0).item() == pytest.approx(sum(m * math.log10(m) for m in mean), rel=1e-5)
    assert balance_loss(logits).item() == pytest.approx(sum(m * math.log(m) for m in mean), rel=1e-5)
    assert certainty_loss(logits).item() == pytest.approx(-sum(math.log(max(row)) for row in p) / 3, rel=1e-5)
    assert activation_loss(logits).item() == pytest.approx(-sum(abs(float(v)) for v in logits.flatten()) / 12, rel=1e-5)
    for loss in (balance_loss, certainty_loss, activation_loss, lambda t: balance_loss(t, 10.0)):
        check_gradient(loss, logits)


def test_dafl_is_one_backward_pass_of_the_authors() -> None:
    """Both get the gradients of a joint backward pass, though the generator has stepped before the student does."""
    method = tiny.seeded_method("dafl", tiny.tiny_data())
    phase = method.phases()[0]
    train_mode(method, phase)
    batch = next(phase.source(Untouchable()).epoch(1))
    images = method.generator(batch.inputs)
    z = method.teacher(images)
    joint = method.certainty * certainty_loss(z.logits) + method.balance * balance_loss(z.logits, 10.0)
    joint += method.activation * activation_loss(z.embedding)
    joint += method.learn(images.detach())[0]["kd"]
    trained = {"generator": method.generator, "student": method.student}
    wanted = {
        name: torch.autograd.grad(joint, list(net.parameters()), retain_graph=True) for name, net in trained.items()
    }
    assert [update.name for update in phase.updates] == list(trained)
    for update in phase.updates:
        method.zero_grad()
        sum(update.loss(batch).values()).backward()
        for p, gradient in zip(trained[update.name].parameters(), wanted[update.name], strict=True):
            assert torch.allclose(p.grad, gradient, atol=1e-6)
        (other,) = set(trained) - {update.name}
        assert all(p.grad is None for p in trained[other].parameters())
        with torch.no_grad():  # a step
            for p in trained[update.name].parameters():
                p.mul_(1.5)
    assert all(p.grad is None for p in method.teacher.parameters())
    method.after_step()
    with pytest.raises(AssertionError):  # nothing of a step is left to the next one
        method.student_loss(batch)
