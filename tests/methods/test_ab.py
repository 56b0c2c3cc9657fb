"""ab: Knowledge Transfer via Distillation of Activation Boundaries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill.methods.ab import boundary_loss
from tests.methods.given_maps import first_batch, made, random, run, same


def test_ab_is_the_papers_case_distinction() -> None:
    def slow(s: Tensor, t: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for x, y in zip(s.flatten(), t.flatten(), strict=True):
            if x > -0.7 and y <= 0:
                total = total + (x + 0.7) ** 2
            elif x <= 0.7 and y > 0:
                total = total + (x - 0.7) ** 2
        return total / len(s)

    teacher = random(3, 4, 2, 2, seed=1)
    teacher[0, 0] = 0.0  # exactly on the boundary: not firing
    same(lambda s, t: boundary_loss(s, t, 0.7), slow, random(3, 4, 2, 2), teacher)


def test_ab_halves_shallower_stages_and_reads_preactivations() -> None:
    method, batch = made("ab"), first_batch()
    method.eval()
    student, teacher = method.student(batch.inputs), method.teach(batch)
    assert student.preacts and teacher.preacts and min(float(p.min()) for p in teacher.preacts) < 0
    each = [boundary_loss(s, t) for s, t in zip(student.preacts, teacher.preacts, strict=True)]
    wanted = 3 / 1000 * (each[0] / 4 + each[1] / 2 + each[2])
    assert float(method.match(student, teacher)) == pytest.approx(float(wanted), rel=1e-6)
    assert all(isinstance(connector, nn.Identity) for connector in method.connectors)


def test_ab_leaves_the_last_batchnorm_of_a_wrn_as_it_starts_in_the_first_phase() -> None:
    method = made("ab", pair=("cifar_wrn_16_2", "cifar_wrn_16_1"))
    init, distill = method.phases()
    before = {name: value.clone() for name, value in method.student.model.bn1.state_dict().items()}
    changed = run(method, init)
    assert all(torch.equal(value, before[name]) for name, value in method.student.model.bn1.state_dict().items())
    assert not any(name.startswith(("student.model.bn1", "student.model.fc")) for name in changed)
    assert {"student.model.bn1.weight", "student.model.fc.weight"} <= run(method, distill)


def test_ab_connects_what_differs_in_shape_or_has_no_relu() -> None:
    wide = made("ab", pair=("cifar_wrn_16_2", "cifar_wrn_16_1"))
    assert all(isinstance(connector[-1], nn.BatchNorm2d) for connector in wide.connectors)
    linear = made("ab", pair=("cifar_vgg8", "cifar_MobileNetV2"))
    changed = run(linear, linear.phases()[0])
    assert any(key.startswith("connectors") for key in changed)
