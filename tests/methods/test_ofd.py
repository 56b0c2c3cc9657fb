"""ofd: A Comprehensive Overhaul of Feature Distillation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill.methods.ofd import margins, partial_l2
from tests import tiny
from tests.methods.given_maps import first_batch, made, random, same


def test_ofd_is_the_papers_case_distinction() -> None:
    margin = torch.tensor([-0.5, -0.1, -1.0], dtype=torch.float64)

    def slow(s: Tensor, t: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for n in range(len(s)):
            for c in range(3):
                m = margin[c]
                for x, y in zip(s[n, c].flatten(), t[n, c].flatten(), strict=True):
                    if x > m and y <= m:
                        total = total + (x - m) ** 2
                    elif y > 0 or (x > y and m < y <= 0):
                        total = total + (x - y) ** 2
        return total / len(s)

    def fast(s: Tensor, t: Tensor) -> Tensor:
        return partial_l2(s, torch.maximum(t, margin[:, None, None]))

    same(fast, slow, random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1))


def test_ofd_margins_are_means_of_the_negative_part() -> None:
    """Against the integral; -3 s where hardly anything lies below zero; a dead channel gives a number."""
    norm = nn.BatchNorm2d(6).double()
    norm.weight.data = torch.tensor([1.0, -0.5, 2.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    norm.bias.data = torch.tensor([0.0, 0.3, -4.0, 3.0, 3.2, 0.0], dtype=torch.float64)
    found = margins(norm)
    for i in range(4):
        s, b = abs(norm.weight[i].item()), norm.bias[i].item()
        x = torch.linspace(b - 12 * s, 0, 400_001, dtype=torch.float64)
        p = torch.exp(-(((x - b) / s) ** 2) / 2)
        assert found[i].item() == pytest.approx(
            (torch.trapezoid(x * p, x) / torch.trapezoid(p, x)).item(), rel=1e-5
        )
    assert found[4].item() == pytest.approx(-3.0)
    assert abs(found[5].item()) < 1e-9


def test_ofd_weighs_stages_by_depth_and_takes_margins_from_the_teachers_norms() -> None:
    method, batch = made("ofd", "method.weight=0.5"), first_batch()
    teacher = method.teacher
    for norm in teacher.bn_before_relu():
        nn.init.uniform_(norm.bias, -1, 1)
    method = tiny.make("ofd", method.student, teacher, tiny.tiny_data(), "method.weight=0.5")
    method.eval()
    student, shown = method.student(batch.inputs), method.teach(batch)
    assert student.preacts and shown.preacts
    wanted, adapters = 0.0, list(method.get_submodule("connectors").children())
    for stage, norm in enumerate(teacher.bn_before_relu()):
        clipped = torch.maximum(shown.preacts[stage], margins(norm)[:, None, None])
        wanted += float(partial_l2(adapters[stage](student.preacts[stage]), clipped)) / 2 ** (2 - stage)
    assert float(method.distill(student, shown, batch)["ofd"]) == pytest.approx(0.5 * wanted, rel=1e-5)


def test_ofd_asks_the_teacher_with_the_batchs_statistics_and_leaves_its_own_alone() -> None:
    method, batch = made("ofd"), first_batch()
    asked = tiny.make("ofd", method.student, method.teacher, tiny.tiny_data(), "method.teacher_mode=eval")
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    live, still = method.teach(batch).preacts, asked.teach(batch).preacts
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())
    assert not any(module.training for module in method.teacher.modules())
    method.teacher.train()
    with torch.no_grad():
        wanted = method.teacher(batch.inputs).preacts
    assert all(torch.equal(a, b) for a, b in zip(live, wanted, strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(live, still, strict=True))
