"""`distill check-method`: what holds is said to hold, and each way to break the contract is found by its clause."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.__main__ import main
from distill.config import groups, options, plugins
from distill.contract import clauses, command
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

    def before_epoch(self):
        {before}
"""
USUAL = {
    "begin": "pass", "after": "pass", "before": "pass", "supervised": "self.supervised(student.logits, batch)",
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
    "makes a tensor on the host": (
        clauses.no_step_waits_for_the_device,
        {"own": "(student.logits + torch.zeros(6)).square().mean()"},
        r"takes a tensor of the host beside those of the device \(add\): make it .* \(sloppy.py, line 16\)",
    ),
    "makes labels on the host": (
        clauses.no_step_waits_for_the_device,
        {"own": "F.cross_entropy(student.logits, torch.arange(len(student.logits)) % 6)"},
        r"takes a tensor of the host beside those of the device \(nll_loss_forward\)",
    ),
    "keeps a tensor that is no buffer": (
        clauses.no_step_waits_for_the_device,
        {"begin": "self.mean = torch.zeros(6)", "own": "(student.logits - self.mean).square().mean()"},
        r"takes a tensor of the host beside those of the device \(sub\)",
    ),
    "copies numbers": (
        clauses.no_step_waits_for_the_device,
        {"own": "(student.logits + torch.tensor([0.5] * 6, device=student.logits.device)).square().mean()"},
        "waits for the device: tensor copies numbers of the host",
    ),
    "waits after the step": (
        clauses.no_step_waits_for_the_device,
        {"after": "self.seen = self.student.training and next(self.student.parameters()).sum().item()"},
        "waits for the device: _local_scalar_dense",
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
    "divides by nothing as it goes back": (
        clauses.its_losses_are_named_finite_numbers,
        {"own": "(student.logits - student.logits.detach()).square().sum().sqrt()"},
        r"the gradients of student\..* and .* more are not finite",
    ),
    "makes a head of too little": (
        clauses.its_losses_are_named_finite_numbers,
        {"begin": "self.head = torch.nn.Linear(3)"},
        r"see its YAML for their kinds, or mend its code \(sloppy.py, line 11\)",
    ),
    "forgets the mean": (
        clauses.its_losses_are_named_finite_numbers,
        {"own": "F.mse_loss(student.logits, teacher.logits, reduction='none')"},
        r"the loss 'own' is a tensor of shape \[8, 6\]",
    ),
    "a number of Python": (
        clauses.its_losses_are_named_finite_numbers,
        {"own": "0.5"},
        "the loss 'own' is a float",
    ),
    "trains its teacher": (
        clauses.everything_trainable_is_trained_and_no_teacher_is,
        {"begin": "self.teacher.requires_grad_(True)"},
        "Mine has a teacher ask for gradients",
    ),
    "holds its teacher": (
        clauses.everything_trainable_is_trained_and_no_teacher_is,
        {"begin": "self.master = self.teacher"},
        "self.master makes the teacher a part of what is trained and saved",
    ),
    "makes weights late": (
        clauses.everything_trainable_is_trained_and_no_teacher_is,
        {"own": "F.mse_loss((getattr(self, 'late', None) or self.add_module('late', torch.nn.Linear(6, 6)) or "
                "self.late)(student.logits), teacher.logits)"},
        "a step makes late.bias, late.weight, which no optimiser has",
    ),
    "hides weights": (
        clauses.everything_trainable_is_trained_and_no_teacher_is,
        {"begin": "self.heads = {'wide': [torch.nn.Linear(6, 6)]}"},
        "Mine.heads holds weights that would never be trained",
    ),
    "reads more than its taps": (
        clauses.its_taps_name_the_teachers_maps_and_embedding_that_it_reads,
        {"own": "F.mse_loss(student.embedding, teacher.embedding)"},
        "the method reads the teacher's embedding, which no teacher cache holds: name them in method.about.taps",
    ),
    "leaves eval mode": (
        clauses.a_step_leaves_modes_as_they_are,
        {"own": "F.mse_loss(self.student.eval()(batch.inputs).logits, teacher.logits)"},
        "a step leaves student in eval mode",
    ),
    "forgets": (
        clauses.a_run_that_was_cut_off_goes_on_to_the_same_bits,
        {"after": "self.factor *= 0.5"},
        "is another after a resume",
    ),
    "forgets within an epoch": (
        clauses.a_run_that_was_cut_off_goes_on_to_the_same_bits,
        {"after": "self.factor *= 0.5", "before": "self.factor = 1.0"},
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
    with pytest.raises((clauses.Broken, ValueError), match=said):
        clause(world(parts))


def test_an_error_of_the_methods_own_is_told_with_its_line(world: Callable[[dict[str, str]], World]) -> None:
    answers = dict(command.answers(world({"own": "student.nothing"})))
    line = START[: START.index("return losses |")].count("\n") + 1
    assert answers["its losses are named finite numbers"] == (
        f"AttributeError: 'Outputs' object has no attribute 'nothing' (sloppy.py, line {line})"
    )


def test_what_keeps_the_contract_passes_every_clause(world: Callable[[dict[str, str]], World]) -> None:
    made = world({})
    for clause in clauses.CLAUSES:
        clause(made)


@pytest.mark.parametrize("parts", [
    {"after": "self.base = getattr(self, 'base', None) or next(self.student.parameters()).sum().item()"},
    {"own": "(student.logits - self.__dict__.setdefault('base', student.logits.detach().mean(0))).square().mean()"},
    {"before": "self.masks = [torch.ones(6, device=next(self.student.parameters()).device)]",
     "own": "(student.logits * self.masks[0]).square().mean()"},
    {"own": "(student.logits + torch.zeros(6, device=student.logits.device) * torch.rand(())).square().mean()"},
    {"own": "torch.autocast(student.logits.device.type, enabled=False)(F.mse_loss)(student.logits, teacher.logits)"},
], ids=["looks once", "keeps its first", "makes as an epoch begins", "makes there", "autocast"])  # fmt: skip
def test_what_waits_for_nothing_passes(parts: dict[str, str], world: Callable[[dict[str, str]], World]) -> None:
    clauses.no_step_waits_for_the_device(world(parts))


@pytest.mark.parametrize("name", options("method"))
def test_every_method_can_be_asked(name: str) -> None:
    """eskd could not, whose first phase has another length on the digits."""
    assert world_of(name, [], None).name == name


def test_a_method_without_a_teacher_can_be_asked() -> None:
    world = world_of("mcl", [], None)
    assert world.spec.teachers == () and world.name == "mcl"


def test_an_unknown_method_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", "kdd"]) == 2
    assert "there is no method 'kdd': did you mean kd" in capsys.readouterr().err
