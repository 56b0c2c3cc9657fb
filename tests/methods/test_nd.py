"""KD++: the norm-and-direction loss in loops, the class means, and the ramp that starts at nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.methods.nd import direction_norm_loss
from tests import tiny

G = torch.Generator().manual_seed(0)
STUDENT, TEACHER, CENTRES = (torch.randn(n, 4, generator=G, dtype=torch.float64) for n in (5, 5, 3))
LABELS = torch.tensor([0, 2, 1, 1, 0])


def test_loss_is_the_part_along_the_class_mean_over_the_longer_norm() -> None:
    rows = []
    for student, teacher, label in zip(STUDENT.numpy(), TEACHER.numpy(), LABELS.tolist(), strict=True):
        centre = CENTRES[label].numpy()
        longer = max(np.linalg.norm(student), np.linalg.norm(teacher))
        rows.append(1 - student @ centre / np.linalg.norm(centre) / longer)
    assert direction_norm_loss(STUDENT, TEACHER, CENTRES, LABELS).item() == pytest.approx(np.mean(rows), rel=1e-10)


def test_a_student_along_its_class_mean_and_as_long_as_the_teacher_has_no_loss() -> None:
    along = torch.nn.functional.normalize(CENTRES[LABELS]) * TEACHER.norm(dim=1, keepdim=True)
    assert abs(direction_norm_loss(along, TEACHER, CENTRES, LABELS).item()) < 1e-12


def test_soft_targets_begin_with_the_second_epoch() -> None:
    method = tiny.seeded_method("nd", tiny.tiny_data())
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    shares = []
    for method.epoch in (1, 2, 11, 21, 30):
        shares.append(method.soft_targets(student, teacher).item())
    np.testing.assert_allclose(np.array(shares) / shares[-1], [0, 1 / 20, 10 / 20, 1, 1], rtol=1e-5)
