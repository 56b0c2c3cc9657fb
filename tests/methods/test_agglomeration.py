"""Several foundation models in one student: costs, dropped teachers and statistics, by slow arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.methods.agglomeration import RunningStatistics, keep_mask, match
from tests import tiny

PAIR = ("cifar_resnet14", "cifar_resnet8")


def test_costs_are_of_directions_and_of_values() -> None:
    student, teacher = torch.randn(4, 3, 5, dtype=torch.float64), 2 * torch.randn(4, 3, 5, dtype=torch.float64)
    ours, theirs = student.numpy(), teacher.numpy()
    cosines = (ours * theirs).sum(2) / np.linalg.norm(ours, axis=2) / np.linalg.norm(theirs, axis=2)
    gap = np.abs(ours - theirs)
    smooth = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean(2)
    expected = 0.9 * (1 - cosines) + 0.1 * smooth
    np.testing.assert_allclose(match(student, teacher, 0.9, 0.1).numpy(), expected, rtol=1e-9)


def test_the_teacher_that_is_furthest_always_stays() -> None:
    costs = torch.rand(3, 500)
    assert torch.equal(keep_mask(costs, 1.0), (costs == costs.amax(0)).float()) and keep_mask(costs, 0.0).all()
    torch.manual_seed(0)
    share = keep_mask(costs, 0.5).mean().item()
    assert share == pytest.approx((1 + 2 * 0.5) / 3, abs=0.04)


def test_rows_are_standardised_by_the_batches_before_theirs() -> None:
    """The first one as it is; standard_normalize of the authors' utils.py, written again in numpy."""
    own, mean, std = RunningStatistics(4), np.zeros(4), np.ones(4)
    for share in (1.0, 0.25, 0.001):
        rows = 3 + 2 * torch.randn(6, 7, 4)
        flat = rows.double().numpy().reshape(-1, 4)
        made, expected = own(rows, share), (flat - mean) / (std + 1e-6)
        np.testing.assert_allclose(made.flatten(0, 1).numpy(), expected, rtol=1e-4, atol=1e-4)
        mean = mean * (1 - share) + flat.mean(0) * share
        std = std * (1 - share) + (flat.std(0, ddof=1) + 1e-6) * share
    np.testing.assert_allclose(own.mean.numpy(), mean, rtol=1e-4)
    np.testing.assert_allclose(own.std.numpy(), std, rtol=1e-4)


def test_the_share_of_a_batch_falls_from_all_to_a_thousandth() -> None:
    method = tiny.seeded_method("unic", tiny.tiny_data())
    method.epoch, method.epochs = 1, 11
    assert method.share == 1.0
    method.epoch = 6
    assert method.share == pytest.approx(0.5005)
    method.epoch = 11
    assert method.share == pytest.approx(0.001)


def test_teachers_of_two_sizes_teach_one_student() -> None:
    """Each at its own size, of a width of its own."""
    data = tiny.tiny_data()
    method = tiny.seeded_method("am-radio", data)
    batch = next(data.source(batch_size=4, seed=1).epoch(1))
    plain = method.loss(batch)["match"].item()
    method.teachers[0].size, method.teachers[0].resizes = 32, True
    assert method.loss(batch)["match"].item() != plain


def test_soft_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="method.kd=1"):
        tiny.seeded_method("unic", tiny.tiny_data(), PAIR, "method.kd=1")
