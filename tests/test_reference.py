"""Every method against what the authors' own code computes: value, gradients, whole optimiser steps."""

from __future__ import annotations

import pytest
import torch

from tests.reference_cases import FOLDER, Reference, cases, run
from tests.reference_cases.chains import OFD_HEADS, compare
from tests.reference_cases.response import mlkd

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


def test_mlkd_of_the_paper_departs_from_its_authors_code() -> None:
    """about.departs of form=paper: the code's gradient is shorter, and in nearly the same direction."""
    ref = Reference("mlkd_plain")
    mlkd(ref, "method.form=paper")
    ours = torch.cat([ref.input(f"s_{view}").grad.flatten() for view in ("weak", "strong")])
    theirs = torch.cat([ref[f"grad/s_{view}"].flatten() for view in ("weak", "strong")])
    assert 0.5 < theirs.norm() / ours.norm() < 0.85
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.9


def test_ofd_of_a_still_teacher_departs_from_its_authors_code() -> None:
    """about.departs of teacher_mode=eval, here with nets of random weights."""
    ref = Reference("chain_ofd")
    compare(ref, "ofd", ("method.teacher_mode=eval",), OFD_HEADS, "student")
    assert ref.seen["expect/parts"] > 0.05
