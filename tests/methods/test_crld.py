"""Cross-view consistency: which samples count for which pair of views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.methods.crld import view_losses
from tests.methods.arithmetic import kl, logits, softmax

WEAK, STRONG = (logits(0), logits(1)), (logits(2), logits(3))
T = 3.0


def soft(student: torch.Tensor, teacher: torch.Tensor) -> np.ndarray:
    return T**2 * kl(softmax(teacher.numpy(), T), softmax(student.numpy(), T))


def test_views_count_where_the_teacher_is_sure() -> None:
    sure_weak, sure_strong = (np.median(softmax(view[1].numpy()).max(-1)) - 1e-6 for view in (WEAK, STRONG))
    within = soft(*WEAK) + soft(*STRONG)
    across = soft(STRONG[0], WEAK[1]) + soft(WEAK[0], STRONG[1])
    trusted = [softmax(view[1].numpy()).max(-1) >= sure for view, sure in ((WEAK, sure_weak), (STRONG, sure_strong))]
    assert all(0 < mask.sum() < 5 for mask in trusted)
    found = view_losses(WEAK, STRONG, T, float(sure_weak), float(sure_strong))
    assert found[0].item() == pytest.approx((within * trusted[0]).mean(), rel=1e-10)
    assert found[1].item() == pytest.approx((across * trusted[1]).mean(), rel=1e-10)


def test_nobody_is_sure_above_one() -> None:
    assert [loss.item() for loss in view_losses(WEAK, STRONG, T, 1.1, 1.1)] == [0.0, 0.0]
