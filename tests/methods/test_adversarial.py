"""Adversarial methods: what several methods share."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from distill.config import resolve
from distill.engine.optim import Stepper, learning_rate
from distill.engine.update import train_mode
from distill.parts.discriminators import own_optimizer, real_or_fake
from tests import tiny
from tests.methods.given_adversarial import logits, sigmoid
from tests.slow import mean


def test_real_or_fake_is_binary_cross_entropy_and_does_not_overflow() -> None:
    scores = logits(9)
    assert real_or_fake(scores, True).item() == pytest.approx(mean(-math.log(sigmoid(s)) for s in scores.tolist()))
    assert real_or_fake(scores, False).item() == pytest.approx(
        mean(-math.log(1 - sigmoid(s)) for s in scores.tolist())
    )
    far = torch.tensor([-800.0, 800.0])
    assert real_or_fake(far, True).item() == pytest.approx(400) and torch.isfinite(real_or_fake(far, False))


def test_discriminators_have_adam_at_a_constant_rate_of_their_own() -> None:
    merged = resolve(tiny.composed()).schedule.merged(own_optimizer(0.001))
    stepper = Stepper([nn.Linear(2, 2)], merged)
    assert isinstance(stepper.optimizer, (torch.optim.Adam, torch.optim.AdamW))
    assert stepper.optimizer.param_groups[0]["weight_decay"] == 0
    assert {learning_rate(merged, step, 10, 20) for step in range(0, 200, 7)} == {0.001}


@pytest.mark.parametrize("name", ["adv-logits", "adv-features", "fm-adversarial"])
def test_each_side_is_trained_by_its_own_update_alone(name: str) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data, ("cifar_resnet14", "cifar_resnet8"))
    (phase,) = method.phases()
    owners = [{id(p) for module in update.trains for p in module.parameters()} for update in phase.updates]
    assert sum(map(len, owners)) == len(set().union(*owners)) == len(list(method.parameters()))
    schedule = resolve(tiny.composed()).schedule
    steppers = [Stepper(update.trains, schedule.merged(update.optimizer)) for update in phase.updates]
    train_mode(method, phase)
    for batch in list(data.source(batch_size=8, seed=1).epoch(1))[:2]:
        for update, stepper, mine in zip(phase.updates, steppers, owners, strict=True):
            before = {id(p): p.detach().clone() for p in method.parameters()}
            stepper.step(update.loss(batch))
            changed = {id(p) for p in method.parameters() if not torch.equal(p, before[id(p)])}
            assert changed and changed <= mine, update.name
        method.after_step()


@pytest.mark.parametrize("name", ["adv-logits", "adv-features"])
def test_discriminators_learn_to_tell_and_students_to_pass(name: str) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data, ("cifar_resnet14", "cifar_resnet8"))
    train_mode(method, method.phases()[0])
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    method.loss(batch)
    judge = torch.optim.Adam(method.discriminator.parameters(), 0.01)
    first = method.critic_loss(batch)["discriminator"].item()
    for _ in range(40):
        judge.zero_grad()
        method.critic_loss(batch)["discriminator"].backward()
        judge.step()
    assert method.critic_loss(batch)["discriminator"].item() < 0.5 * first
    caught = method.loss(batch)["adversarial"].item()
    student = torch.optim.Adam(
        [*method.student.parameters(), *getattr(method, "embed", nn.Identity()).parameters()], 0.01
    )
    for _ in range(15):
        student.zero_grad()
        method.loss(batch)["adversarial"].backward()
        student.step()
    assert method.loss(batch)["adversarial"].item() < 0.7 * caught
