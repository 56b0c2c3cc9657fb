"""kdsvd: Self-supervised Knowledge Distillation Using Singular Value Decomposition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.methods.kdsvd import ClippedStepper, rbf_loss
from tests.methods.given_maps import first_batch, made, random, same


def test_the_sign_that_a_solver_happens_to_return_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = made("kdsvd"), first_batch()
    method.eval()
    student, teacher = method.student(batch.inputs), method.teach(batch)
    before = method.distill(student, teacher, batch)["kdsvd"].item()
    eigh = torch.linalg.eigh
    turned = []

    def other(x: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(x)
        turned.append(x.shape[-1] == 32)  # the second stage's alone: turning all of them cancels out
        return values, -vectors if turned[-1] else vectors

    monkeypatch.setattr(torch.linalg, "eigh", other)
    assert method.distill(student, teacher, batch)["kdsvd"].item() == pytest.approx(before, rel=1e-5)
    assert before > 0 and any(turned) and not all(turned)


def test_kdsvd_loss_is_a_sum_over_channels_and_a_mean_over_the_batch() -> None:
    deep, teacher = random(2, 4, 1, seed=1), (random(2, 3, 1, seed=2), random(2, 4, 1, seed=3))

    def slow(shallow: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for n in range(2):
            for i in range(4):
                for j in range(3):
                    a = torch.exp(-((deep[n, i, 0] - shallow[n, j, 0]) ** 2) / 8)
                    b = torch.exp(-((teacher[1][n, i, 0] - teacher[0][n, j, 0]) ** 2) / 8)
                    total = total + (a - b) ** 2
        return total / 2

    same(lambda shallow: rbf_loss((shallow, deep), teacher), slow, random(2, 3, 1))
    broken = random(2, 3, 1)
    broken[0, 0] = math.nan
    assert rbf_loss((broken, deep), teacher).isfinite()


def test_kdsvd_of_its_first_authors_is_a_clipped_sum_over_the_batch() -> None:
    forms = (("true", "sum"), ("false", "mean"))
    clipped, plain = (made("kdsvd", f"method.clip={clip}", f"method.over_batch={over}") for clip, over in forms)
    assert [one.phases()[0].updates[0].stepper for one in (clipped, plain)] == [ClippedStepper, None]
    batch = first_batch()
    losses = [one.distill(one.student(batch.inputs), one.teach(batch), batch) for one in (clipped, plain)]
    summed, mean = (each["kdsvd"] for each in losses)
    assert summed.item() == pytest.approx(len(batch.labels) * mean.item(), rel=1e-4)
    with pytest.raises(ValueError, match="kdsvd clips to them: set one, or clip=false"):
        made("kdsvd", "method.clip=true", "method.ce=0")
