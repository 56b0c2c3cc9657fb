"""logit-mse: Do Deep Nets Really Need to be Deep."""

from __future__ import annotations

from distill.methods import logit_mse
from tests.methods.given_response import STUDENT, TEACHER, Rows, agrees
from tests.slow import mean


def test_logit_mse_is_a_mean_over_samples_and_classes() -> None:
    def slow(s: Rows) -> float:
        pairs = zip(s, TEACHER.tolist(), strict=True)
        return mean([(a - b) ** 2 for x, y in pairs for a, b in zip(x, y, strict=True)])

    agrees(lambda s: logit_mse.logit_mse_loss(s, TEACHER), slow, STUDENT)
