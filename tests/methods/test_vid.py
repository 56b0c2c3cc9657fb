"""vid: Variational Information Distillation for Knowledge Transfer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill.methods.vid import Regressor, vid_loss
from tests.methods.given_maps import halve, made, random, run, same


def test_vid_is_a_gaussian_likelihood_in_mean_and_variance() -> None:
    teacher, theta = random(2, 3, 2, 2, seed=1), random(3, seed=2)

    def slow(mean: Tensor, target: Tensor, raw: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for n in range(2):
            for c in range(3):
                v = torch.log(1 + torch.exp(raw[c])) + 1e-5
                for m, t in zip(mean[n, c].flatten(), target[n, c].flatten(), strict=True):
                    total = total + 0.5 * ((m - t) ** 2 / v + torch.log(v))
        return total / mean.numel()

    same(vid_loss, slow, random(2, 3, 2, 2), teacher, theta)
    mean = random(2, 3, 2, 2)
    same(lambda raw: vid_loss(mean, teacher, raw), lambda raw: slow(mean, teacher, raw), theta)


def test_vid_trains_its_variances_which_start_at_five() -> None:
    method = made("vid")
    start = [torch.nn.functional.softplus(r.theta.detach()) + 1e-5 for r in method.regressors]
    assert all(torch.allclose(v, torch.full_like(v, 5.0), rtol=1e-5) for v in start)
    changed = run(method, method.phases()[0])
    assert {f"regressors.{i}.theta" for i in range(3)} <= changed
    assert not any(isinstance(m, nn.BatchNorm2d) for m in method.regressors.modules())


def test_vid_does_not_overflow_and_pools_the_larger_map() -> None:
    huge = torch.full((2,), 300.0, dtype=torch.float16, requires_grad=True)
    vid_loss(torch.ones(1, 2, 2, 2, dtype=torch.float16), torch.zeros(1, 2, 2, 2), huge).backward()
    assert huge.grad is not None and huge.grad.isfinite().all()
    regressor = Regressor(3, 4, 5.0).double()
    student, teacher = random(2, 3, 4, 4), random(2, 4, 2, 2, seed=1)
    assert regressor(student, teacher).item() == pytest.approx(regressor(halve(student), teacher).item())
