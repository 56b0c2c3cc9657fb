"""nst: Like What You Like."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distill.methods.nst import nst_loss, prefers_positions
from tests.methods.given_maps import halve, random, same


def slow_nst(s: Tensor, t: Tensor) -> Tensor:
    def units(x: Tensor) -> list[Tensor]:
        return [row / torch.sqrt((row * row).sum()) for row in x.flatten(1)]

    def mean(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([torch.dot(x, y) ** 2 for x in a for y in b]).sum() / (len(a) * len(b))

    total = torch.zeros((), dtype=torch.float64)
    for n in range(len(s)):
        x, y = units(s[n]), units(t[n])
        total = total + mean(x, x) + mean(y, y) - 2 * mean(x, y)
    return total / len(s)


@pytest.mark.parametrize(("shapes", "positions"), [(((3, 4), (5, 4)), False), (((9, 2), (7, 2)), True)])
def test_nst_is_the_mean_over_channel_pairs_either_way(shapes: Any, positions: bool) -> None:
    (cs, hs), (ct, ht) = shapes
    assert prefers_positions(cs, ct, ht * ht) is positions
    same(nst_loss, slow_nst, random(2, cs, hs, hs), random(2, ct, ht, ht, seed=1))


def test_nst_pools_the_larger_map_and_bears_dead_channels() -> None:
    student, teacher = random(2, 3, 4, 4), random(2, 5, 2, 2, seed=1)
    assert nst_loss(student, teacher).item() == pytest.approx(
        slow_nst(halve(student), teacher).item(), rel=1e-9
    )
    dead = student.float().clone()
    dead[:, 0] = 0
    dead.requires_grad_()
    nst_loss(dead, teacher.float()).backward()
    assert dead.grad is not None and dead.grad.isfinite().all()


def test_nst_of_a_net_with_itself_is_zero() -> None:
    x = random(2, 4, 3, 3)
    assert nst_loss(x, x).item() == pytest.approx(0.0, abs=1e-12)
