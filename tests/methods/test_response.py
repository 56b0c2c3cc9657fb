"""Methods on logits: what several methods share."""

from __future__ import annotations

import pytest

from tests.methods.given_response import STUDENT, TEACHER, method


@pytest.mark.parametrize("name", ["kd", "dkd", "ctkd", "mlkd", "dot"])
def test_standardize_is_a_switch_that_is_off_by_default(name: str) -> None:
    assert method(name).standardize is False
    assert method(name, "method.standardize=true").standardize is True


@pytest.mark.parametrize("name", ["kd", "dkd", "ctkd"])
def test_standardize_makes_the_soft_targets_blind_to_the_students_scale(name: str) -> None:
    on, off = method(name, "method.standardize=true"), method(name)
    for built, same in ((on, True), (off, False)):
        first, second = (built.soft_targets(c * STUDENT, TEACHER).item() for c in (1.0, 2.0))
        assert (first == pytest.approx(second, rel=1e-5)) is same
