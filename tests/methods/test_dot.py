"""dot: DOT."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from distill.config import OptimizerSpec
from distill.engine.optim import Stepper
from distill.methods.dot import DotStepper
from tests import tiny
from tests.methods.given_response import method

SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01}
SCHEDULE = OptimizerSpec(lr=0.1, optimizer=SGD | {"dot_delta": 0.075})


def line(weight: float = 2.0) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, weight)
    return layer


def two_losses(layer: nn.Linear) -> dict[str, Tensor]:
    w = layer.weight.sum()
    return {"ce": 0.1 * w**2, "kd": 0.9 * (w - 1) ** 2 / 2, "extra": 0.5 * w}


def test_dot_against_explicit_arithmetic() -> None:
    layer = line()
    stepper = DotStepper([layer], SCHEDULE)
    w, v_task, v_kd = 2.0, 0.0, 0.0
    for step in range(6):
        stepper.set_lr(step, 6, 1)
        stepper.step(two_losses(layer))
        g_task, g_kd = 0.2 * w, 0.9 * (w - 1) + 0.5
        v_task = 0.825 * v_task + g_task + 0.01 * w
        v_kd = 0.975 * v_kd + g_kd
        w -= 0.1 * (v_task + v_kd)
        assert layer.weight.item() == pytest.approx(w, rel=1e-12)


def test_dot_with_delta_0_is_sgd_on_the_sum() -> None:
    ours, theirs = line(), line()
    stepper = DotStepper([ours], SCHEDULE.merged({"dot_delta": 0.0}))
    plain = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        stepper.step(two_losses(ours))
        plain.zero_grad()
        torch.stack(list(two_losses(theirs).values())).sum().backward()
        plain.step()
        assert ours.weight.item() == pytest.approx(theirs.weight.item(), rel=1e-12)


def test_dot_goes_on_from_its_state() -> None:
    whole = line()
    stepper = DotStepper([whole], SCHEDULE)
    for _ in range(3):
        stepper.step(two_losses(whole))
    resumed = line(whole.weight.item())
    other = DotStepper([resumed], SCHEDULE)
    other.load_state_dict(copy.deepcopy(stepper.state_dict()))
    for _ in range(3):
        stepper.step(two_losses(whole))
        other.step(two_losses(resumed))
    assert torch.equal(whole.weight, resumed.weight)
    fresh = DotStepper([line(resumed.weight.item())], SCHEDULE)
    assert not fresh.state_dict()["optimizer"]["state"]


def test_dot_schedules_and_clips_both_halves() -> None:
    layer = line()
    stepper = DotStepper([layer], SCHEDULE.merged({"clip_grad": 0.1, "milestones": [1]}))
    assert stepper.set_lr(1, 1, 2) == pytest.approx(0.01)
    assert [group["lr"] for group in stepper.optimizer.param_groups] == pytest.approx([0.01, 0.01])
    stepper.step(two_losses(layer))  # both gradients are longer than 0.1
    assert layer.weight.item() == pytest.approx(2.0 - 0.01 * (0.1 + 0.02 + 0.1), rel=1e-5)


def test_dot_is_wired_with_its_delta_and_refuses_what_it_cannot_split() -> None:
    built = method("dot", "method.delta=0.05")
    update = built.phases()[0].updates[0]
    assert update.stepper is DotStepper and update.optimizer == {"dot_delta": 0.05}
    with pytest.raises(ValueError, match="both losses"):
        method("dot", "method.ce=0")
    with pytest.raises(ValueError, match="out of"):
        DotStepper([line()], SCHEDULE.merged({"dot_delta": 0.2}))
    with pytest.raises(ValueError, match="name=sgd"):
        DotStepper([line()], SCHEDULE.merged({"name": "adamw", "dot_delta": 0.0}))
    with pytest.raises(ValueError, match="momentum that stays"):
        DotStepper([line()], SCHEDULE.merged({"damped": True}))


def test_rates_of_layers_and_spared_decay_are_those_of_any_other_method_in_both_parts() -> None:
    net = tiny.net("test_vit", 1, img_size=16, patch_size=8)
    spec = OptimizerSpec(lr=2.0, layer_decay=0.7, no_decay=True, optimizer=SGD)
    plain = Stepper([net], spec).optimizer.param_groups
    wanted = {id(p): (group["lr_scale"], group["weight_decay"]) for group in plain for p in group["params"]}
    stepper = DotStepper([net], spec.merged({"dot_delta": 0.075}))
    stepper.use(4.0)
    found = {id(p): group for group in stepper.optimizer.param_groups for p in group["params"]}
    for p, twin in zip(*stepper.gradients, strict=True):
        (share, decay), task, other = wanted[id(p)], found[id(p)], found[id(twin)]
        assert task["lr"] == other["lr"] == pytest.approx(4.0 * share)
        assert (task["weight_decay"], other["weight_decay"]) == (decay, 0.0)
        assert (task["momentum"], other["momentum"]) == (pytest.approx(0.825), pytest.approx(0.975))
    assert len({share for share, _ in wanted.values()}) > 3 and {decay for _, decay in wanted.values()} == {0.0, 0.01}


def test_adaptive_clipping_spares_the_classifier_in_both_parts() -> None:
    net = tiny.net("cifar_resnet8", 1)
    stepper = DotStepper([net], SCHEDULE)
    heads = {id(p) for p in net.classifier.parameters()}
    twins = {id(twin) for p, twin in zip(*stepper.gradients, strict=True) if id(p) in heads}
    assert stepper.heads == heads | twins and len(stepper.heads) == 4
