"""ctkd: Curriculum Temperature for Knowledge Distillation."""

from __future__ import annotations

import math

import pytest
import torch

from distill.methods import ctkd
from tests.methods.given_response import STUDENT, TEACHER, Rows, agrees, gradient, kl, method
from tests.slow import mean, softmax


def soft(s: Rows, t: Rows, temperatures: list[float], eps: float = 0.0) -> float:
    rows = zip(s, t, temperatures, strict=True)
    return mean([h**2 * kl([p + eps for p in softmax(b, h)], softmax(a, h)) for a, b, h in rows])


def test_ctkd_loss_with_one_temperature_and_with_one_a_sample() -> None:
    each = [1.5, 3.0, 15.6, 20.0, 4.0]
    column = torch.tensor(each, dtype=torch.float64)[:, None]
    teacher = TEACHER.tolist()
    agrees(lambda s: ctkd.tempered_loss(s, TEACHER, column), lambda s: soft(s, teacher, each, 1e-7), STUDENT)
    one = torch.tensor([7.0], dtype=torch.float64)
    agrees(lambda s: ctkd.tempered_loss(s, TEACHER, one), lambda s: soft(s, teacher, [7.0] * 5), STUDENT)

    def of_temperature(h: Rows) -> float:
        return soft(STUDENT.tolist(), teacher, [row[0] for row in h], 1e-7)

    agrees(lambda h: ctkd.tempered_loss(STUDENT, TEACHER, h), of_temperature, column)


def test_ctkd_bears_a_teacher_that_is_certain_at_one_temperature_a_sample() -> None:
    sure = torch.tensor([[200.0, 0.0, 0.0]])
    loss = ctkd.tempered_loss(torch.tensor([[0.0, 200.0, 0.0]]), sure, torch.tensor([[1.0]]))
    assert loss.item() == pytest.approx(200 + 1e-7 * (2 * math.log(1e-7) + 201), rel=1e-6)


def test_ctkd_curriculum_grows_from_almost_nothing_to_full_reversal() -> None:
    assert ctkd.curriculum(0, 10) == 0 and ctkd.curriculum(5, 10) == pytest.approx(0.5)
    assert ctkd.curriculum(10, 10) == ctkd.curriculum(240, 10) == 1
    assert ctkd.curriculum(1, 10) == pytest.approx(0.5 * (1 - math.cos(0.1 * math.pi)))
    assert ctkd.curriculum(1, 0) == 1  # where the authors' code divides by zero


@pytest.mark.parametrize("epoch", [1, 5, 30])
def test_ctkd_temperature_climbs_the_loss(epoch: int) -> None:
    """theta's gradient is -lambda times the loss's own slope, and the run starts at T = 15.6."""
    built = method("ctkd").double()
    built.epoch = epoch
    built.soft_targets(STUDENT, TEACHER).backward()

    def loss(theta: float) -> float:
        return soft(STUDENT.tolist(), TEACHER.tolist(), [1 + 20 / (1 + math.exp(-theta))] * 5)

    slope = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
    assert built.theta.grad.item() == pytest.approx(-ctkd.curriculum(epoch, 10) * slope, rel=1e-5)
    assert built.temperature_of(STUDENT, TEACHER).item() == pytest.approx(15.6212, abs=1e-4)


def test_ctkd_instance_wise_temperatures_leave_the_students_gradient_alone() -> None:
    built = method("ctkd", "method.kind=instance").double()
    built.epoch = 10
    leaf = STUDENT.clone().requires_grad_()
    temperature = built.temperature_of(leaf, TEACHER)
    assert temperature.shape == (5, 1) and temperature.unique().numel() == 5
    built.soft_targets(leaf, TEACHER).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.predictor.parameters())
    other = STUDENT.clone().requires_grad_()
    ctkd.tempered_loss(other, TEACHER, temperature.detach()).backward()
    assert torch.allclose(gradient(leaf), gradient(other))


def test_ctkd_refuses_what_could_not_work() -> None:
    cases = (("kind=local", "global .* instance"), ("t_start=0", "use 1 and 20"), ("kd=0", "method.kd"))
    for override, words in cases:
        with pytest.raises(ValueError, match=words):
            method("ctkd", f"method.{override}")
