"""Every method against what the authors' own code computes: value, gradients, whole optimiser steps."""

from __future__ import annotations

import pytest

from tests.reference_cases import FOLDER, cases, run

NOT_CASES = {"chain_nets"}  # nets and batches that the chain files share
FILES = sorted(path.stem for path in FOLDER.glob("*.npz") if path.stem not in NOT_CASES)


@pytest.mark.parametrize("name", FILES)
def test_a_method_computes_what_its_authors_compute(name: str) -> None:
    if name not in cases():
        pytest.fail(f"tests/reference/{name}.npz is compared by no case in tests/reference_cases")
    case, differences = cases()[name], run(name)
    assert not differences.beyond, {key: differences.each[key] for key in differences.beyond}
    assert not differences.missing, f"not compared, and no reason given in `leave`: {differences.missing}"
    if case.departs:
        assert differences.value >= case.value or (differences.gradient or 0) >= case.gradient, differences
        return
    assert differences.value <= case.value, differences.each
    assert (differences.gradient or 0) <= case.gradient, differences.each


def test_a_wider_tolerance_has_its_reason() -> None:
    wide = [case for case in cases().values() if max(case.value, case.gradient, *case.single.values()) > 1e-5]
    unsaid = [case.name for case in wide if not case.why]
    assert unsaid == []
