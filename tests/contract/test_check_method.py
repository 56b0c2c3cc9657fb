"""`distill check-method`: what holds is said to hold, and each way to break the contract is found by its clause."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.__main__ import main
from distill.config import groups, plugins
from distill.contract import clauses
from distill.contract.world import World, world_of

START = """
import torch
from torch.nn import functional as F
from distill.method import Method


class Mine(Method):
    def __init__(self, student, teachers, data, *, ce=1.0, kd=0.0, temperature=4.0):
        super().__init__(student, teachers, data, ce=ce, kd=kd, temperature=temperature)
        self.factor = 1.0
        {begin}

    def loss(self, batch):
        student, teacher = self.student(batch.inputs), self.teach(batch)
        losses = {supervised}
        return losses | {{"own": self.factor * {own}}}

    def after_step(self):
        {after}
"""
USUAL = {
    "begin": "pass", "after": "pass", "supervised": "self.supervised(student.logits, batch)",
    "own": "F.mse_loss(student.logits, teacher.logits)",
}  # fmt: skip
BROKEN: dict[str, tuple[Callable[[World], None], dict[str, str], str]] = {
    "reads a value": (
        clauses.no_step_waits_for_the_device,
        {"own": "F.mse_loss(student.logits, teacher.logits) * (1 if student.logits.sum().item() > 0 else 2)"},
        "waits for the device: _local_scalar_dense",
    ),
    "takes rows by a mask": (
        clauses.no_step_waits_for_the_device,
        {"own": "F.mse_loss(*(out.logits[batch.labels > 2] for out in (student, teacher)))"},
        "waits for the device: index by a mask",
    ),
    "copies": (
        clauses.no_step_waits_for_the_device,
        {"own": "F.mse_loss(student.logits, torch.tensor(teacher.logits.tolist()))"},
        r"waits for the device: \.tolist\(\)",
    ),
    "repeats": (
        clauses.no_step_waits_for_the_device,
        {"own": "F.mse_loss(*(out.logits.repeat_interleave(batch.labels, 0) for out in (student, teacher)))"},
        "waits for the device: repeat_interleave",
    ),
    "never trained": (
        clauses.everything_trainable_is_trained_and_no_teacher_is,
        {"begin": "self.idle = torch.nn.Linear(3, 3)"},
        "no update trains idle.bias, idle.weight",
    ),
    "not told": (
        clauses.the_running_accuracy_is_told,
        {"supervised": '{"ce": F.cross_entropy(student.logits, batch.truth)}'},
        "no step says how many are right",
    ),
    "one label": (
        clauses.mixed_labels_change_what_reads_labels,
        {"supervised": '{"ce": F.cross_entropy(student.logits, batch.labels)}'},
        "the loss 'ce' reads a mixed image's first label alone",
    ),
    "half": (
        clauses.its_losses_are_named_finite_numbers,
        {"own": "F.mse_loss(student.logits, teacher.logits).half()"},
        "the loss 'own' is torch.float16",
    ),
    "forgets": (
        clauses.a_run_that_was_cut_off_goes_on_to_the_same_bits,
        {"after": "self.factor *= 0.5"},
        "is another after a resume",
    ),
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], World]:
    """Make the world of a method that is written into a module of the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(groups, "_own", [])
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    node = (
        "_target_: sloppy.Mine\nname: sloppy\nabout: {kind: response, taps: [logits], phases: [distill], teachers: 1}\n"
    )
    (tmp_path / "own/method").mkdir(parents=True)
    (tmp_path / "own/method/sloppy.yaml").write_text(f"{node}ce: 1.0\nkd: 0.0\ntemperature: 4.0\n")

    def make(parts: dict[str, str]) -> World:
        (tmp_path / "sloppy.py").write_text(START.format(**USUAL | parts))
        groups.use_folder("own")
        return world_of("sloppy", [], "own")

    yield make
    sys.modules.pop("sloppy", None)


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_a_clause_is_found(case: str, world: Callable[[dict[str, str]], World]) -> None:
    clause, parts, said = BROKEN[case]
    with pytest.raises(clauses.Broken, match=said):
        clause(world(parts))


def test_what_keeps_the_contract_passes_every_clause(world: Callable[[dict[str, str]], World]) -> None:
    made = world({})
    for clause in clauses.CLAUSES:
        clause(made)


def test_a_method_without_a_teacher_can_be_asked() -> None:
    world = world_of("mcl", [], None)
    assert world.spec.teachers == () and world.name == "mcl"


def test_an_unknown_method_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", "kdd"]) == 2
    assert "there is no method 'kdd': did you mean kd" in capsys.readouterr().err
