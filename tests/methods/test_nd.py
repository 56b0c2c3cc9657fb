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


@pytest.mark.parametrize("std", [None, 0.01])
def test_the_map_and_the_students_classifier_start_alike(std: float | None) -> None:
    words = [] if std is None else [f"method.linear_std={std}"]
    method = tiny.seeded_method("nd", tiny.tiny_data(), ("cifar_resnet8x4", "cifar_resnet8"), *words)
    for layer in (method.embed[-1], method.student.classifier):
        uniform = 1 / (3 * layer.in_features) ** 0.5  # deviation of torch's weights
        assert layer.weight.std().item() == pytest.approx(uniform if std is None else std, rel=0.1)
        assert layer.bias.std().item() == pytest.approx(std or 0.0, rel=0.6)


def test_equal_widths_leave_the_students_classifier_as_it_is() -> None:
    bias = tiny.seeded_method("nd", tiny.tiny_data()).student.classifier.bias
    assert bias.abs().sum() > 0
