"""DeepKD: its two terms are KD's, its three buffers follow the authors' optimiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from distill.config import OptimizerSpec
from distill.losses import kd_loss
from distill.methods.deepkd import DeepStepper, non_target_mass, others_loss
from distill.methods.dkd import target_loss
from tests.methods.arithmetic import kl, logits, softmax

STUDENT, TEACHER, LABELS, T = logits(0), logits(1), torch.tensor([0, 5, 2, 2, 3]), 3.0
SCHEDULE = OptimizerSpec(lr=0.1, optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 0.01})


def test_each_samples_terms_add_up_to_its_soft_targets() -> None:
    for i in range(5):
        student, teacher, label = STUDENT[i : i + 1], TEACHER[i : i + 1], LABELS[i : i + 1]
        both = target_loss(student, teacher, label, T) + non_target_mass(teacher, label, T) * others_loss(
            student, teacher, label, T, 0
        )
        assert both.item() == pytest.approx(kd_loss(student, teacher, T).item(), rel=1e-10)


def test_top_k_keeps_the_teachers_first_classes() -> None:
    rows = []
    for student, teacher, label in zip(STUDENT.numpy(), TEACHER.numpy(), LABELS.tolist(), strict=True):
        kept = [k for k in np.argsort(-teacher)[:4] if k != label]
        rows.append(T**2 * kl(softmax(teacher[kept], T), softmax(student[kept], T)))
    assert others_loss(STUDENT, TEACHER, LABELS, T, 4).item() == pytest.approx(np.mean(rows), rel=1e-6)


def steps(form: str) -> tuple[float, float]:
    """Three steps of one weight by our optimiser, and by the formulas of `form`, for gradients 1, 2 w and 3 w^2."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    deltas = {"deepkd_deltas": (0.05, -0.1, 0.02), "deepkd_form": form}
    stepper = DeepStepper([layer], SCHEDULE.merged(deltas))
    w, buffers = 0.5, {"ce": 0.0, "nckd": 0.0, "tckd": 0.0}
    momenta = {"ce": 0.8 if form == "authors" else 0.95, "nckd": 0.92, "tckd": 0.8}
    decayed = "tckd" if form == "authors" else "ce"
    for _ in range(3):
        weight = layer.weight.squeeze()
        stepper.step({"ce": weight, "tckd": weight.square(), "nckd": weight**3})
        gradients = {"ce": 1.0, "nckd": 3 * w**2, "tckd": 2 * w}
        for name in ("ce", "nckd", "tckd"):  # one after the other: a decay reads what the others have moved
            gradient = gradients[name] + (0.01 * w if name == decayed else 0)
            buffers[name] = momenta[name] * buffers[name] + gradient
            w -= 0.1 * buffers[name]
    return layer.weight.item(), w


@pytest.mark.parametrize("form", ["authors", "paper"])
def test_three_buffers_follow_the_formulas(form: str) -> None:
    ours, expected = steps(form)
    assert ours == pytest.approx(expected, rel=1e-5)


def test_the_forms_differ_as_the_yaml_says() -> None:
    assert abs(steps("authors")[0] - steps("paper")[0]) > 0.01
