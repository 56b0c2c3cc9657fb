"""The alpha-beta divergence: its general form, its limits, and the divergences that are its corners."""

from __future__ import annotations

import numpy as np
import pytest

from distill.methods.abkd import alpha_beta, jensen_shannon
from tests.methods.arithmetic import kl, logits, softmax

STUDENT, TEACHER, T = logits(0), logits(1), 2.0
P, Q = softmax(TEACHER.numpy(), T), softmax(STUDENT.numpy(), T)
CORNERS = {
    (1.0, 0.0): kl(P, Q).mean(),
    (0.0, 1.0): kl(Q, P).mean(),
    (0.5, 0.5): 2 * ((np.sqrt(P) - np.sqrt(Q)) ** 2).sum(-1).mean(),
    (1.0, 1.0): ((P - Q) ** 2).sum(-1).mean() / 2,
    (0.0, 0.0): ((np.log(P) - np.log(Q)) ** 2).sum(-1).mean() / 2,
    (1.0, -1.0): (P / Q - np.log(P / Q) - 1).sum(-1).mean(),  # Itakura and Saito's
}


@pytest.mark.parametrize(("alpha", "beta"), CORNERS)
def test_corners_are_the_known_divergences(alpha: float, beta: float) -> None:
    assert alpha_beta(STUDENT, TEACHER, T, alpha, beta).item() == pytest.approx(CORNERS[alpha, beta], rel=1e-10)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.2), (1.2, -0.3), (0.4, 0.9)])
def test_general_form_is_the_papers(alpha: float, beta: float) -> None:
    total = alpha + beta
    terms = P**alpha * Q**beta - alpha / total * P**total - beta / total * Q**total
    expected = -terms.sum(-1).mean() / (alpha * beta)
    assert alpha_beta(STUDENT, TEACHER, T, alpha, beta).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (0.7, -0.7), (0.0, 0.0)])
def test_limits_join_the_general_form(alpha: float, beta: float) -> None:
    near = alpha_beta(STUDENT, TEACHER, T, alpha + 1e-5, beta + 1e-5)
    assert near.item() == pytest.approx(alpha_beta(STUDENT, TEACHER, T, alpha, beta).item(), rel=1e-3)


def test_jensen_shannon_is_the_mean_divergence_from_the_middle() -> None:
    middle = (P + Q) / 2
    expected = (kl(P, middle) + kl(Q, middle)).mean() / 2
    assert jensen_shannon(STUDENT, TEACHER, T).item() == pytest.approx(expected, rel=1e-12)
    assert jensen_shannon(STUDENT, TEACHER, T).item() == pytest.approx(jensen_shannon(TEACHER, STUDENT, T).item())


@pytest.mark.parametrize(("alpha", "beta"), [*CORNERS, (0.8, 0.2)])
def test_equal_nets_have_no_divergence_and_no_gradient(alpha: float, beta: float) -> None:
    leaf = TEACHER.clone().requires_grad_()
    loss = alpha_beta(leaf, TEACHER, T, alpha, beta)
    loss.backward()
    assert leaf.grad is not None
    assert abs(loss.item()) < 1e-12 and leaf.grad.abs().max() < 1e-12
