"""Steps of a run's own method, before anything is trained: what decides on this machine is timed on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.config import resolve
from distill.config.run_spec import MachineSpec
from distill.engine import choices, trial
from distill.engine.trial import TooLong
from distill.preflight import supposed
from distill.rehearsal import MachineTrial
from tests import tiny

CPU = torch.device("cpu")
PAIR = ("dataset=cifar10", "teacher=resnet8", "student=resnet8")


def trial_of(*words: str, images: int = 50_000) -> MachineTrial:
    spec = resolve(tiny.composed(*words))
    info = supposed(spec.dataset)
    assert info is not None
    return MachineTrial(spec, info, images)


def test_a_step_is_the_methods_own_and_so_is_their_number() -> None:
    """Of one that makes its images neither the data set's batches count nor the schedule's size of them."""
    plain = trial_of(*PAIR, "method=kd", "schedule.epochs=3")
    made = trial_of(*PAIR, "method=dafl", "method.steps=7", "method.batch_size=128", "schedule.epochs=3")
    assert plain.count * plain.batch == 3 * 50_000 and made.count * made.batch == 3 * 7 * 128
    before = [p.detach().clone() for p in made._rehearsal.method.generator.parameters()]
    for work, times in made.step("fp32"):
        assert times == 1
        work()
    after = made._rehearsal.method.generator.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), "the generator is in the step"
    assert resolve(tiny.composed(*PAIR, "method=dafl", "method.steps=7")).method.batches(99, 64, 3) == (21, 1024)
    assert resolve(tiny.composed(*PAIR, "method=kd")).method.batches(99, 64, 3) == (99, 64)


def test_updates_that_are_repeated_count_as_often() -> None:
    own = trial_of(*PAIR, "method=zskt", "method.steps=2", "method.batch_size=4", "method.student_steps=3")
    assert [times for _, times in own.step("fp32")] == [1, 2]


def test_each_precision_is_that_of_the_step_and_of_the_teachers_in_it() -> None:
    own, seen = trial_of(*PAIR, "method=kd"), []
    method = own._begun[0].of.method
    method.student.register_forward_hook(lambda *_: seen.append(torch.get_autocast_dtype("cpu")))
    method.student.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    for precision in ("bf16", "fp32", "bf16"):
        ((work, _),) = own.step(precision)
        work()
        assert seen[-1] == (precision == "bf16") and method.teacher_forward.forward.half == (precision == "bf16")
    assert seen[-2] is torch.bfloat16


def test_runs_that_differ_in_what_a_step_does_are_tried_apart_and_longer_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(self: Any) -> Any:
        raise AssertionError("the method was made")

    monkeypatch.setattr(MachineTrial, "_begun", property(never))
    kd, longer = trial_of(*PAIR, "method=kd"), trial_of(*PAIR, "method=kd", "schedule.epochs=999")
    other, net = trial_of(*PAIR, "method=dkd"), trial_of(*PAIR, "method=kd", "student=resnet14")
    assert kd.known_by == longer.known_by and kd.length != longer.length
    assert kd.known_by not in (other.known_by, net.known_by) and kd.words == "kd with resnet8"


def test_a_run_decides_by_its_method_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    monkeypatch.setattr(choices, "SECONDS_FROM", 0.0)
    asked = MachineSpec("cpu", "auto", "false", "auto", "auto", "auto", None, False)
    words = (*PAIR, "method=dafl", "method.batch_size=8")
    found = choices.decide(asked, CPU, 3000, {}, trial_of(*words))
    assert found.why.startswith("a step of resnet8: fp32 ") and found.precision in ("fp32", "bf16")
    monkeypatch.setattr(MachineTrial, "_begun", property(lambda self: 1 / 0))
    assert choices.decide(asked, CPU, 3000, {}, trial_of(*words)) == found


@pytest.mark.parametrize(("more", "tried"), [([], True), (["seed=2"], True), (["method=crd"], False),
                                             (["schedule.loss=bce"], False)])  # fmt: skip
def test_what_one_members_step_decides_is_not_the_packs(
    more: list[str], tried: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Threads and compiling of runs side by side were those that the first one's step is fastest with."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    monkeypatch.setattr(choices, "_by_time", lambda plain, *_: replace(plain, threads=7))
    asked = MachineSpec("cpu", "fp32", "false", "auto", "auto", "auto", "auto", False)
    own, other = trial_of(*PAIR, "method=kd"), trial_of(*PAIR, "method=kd", *more)
    assert (choices.decide(asked, CPU, 3000, {}, own, [own, other]).threads == 7) == tried
    assert choices.decide(asked, CPU, 3000, {}, own).threads == 7


def test_the_methods_of_a_table_share_a_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever their own steps take, and where a method's own step cannot be timed."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    monkeypatch.setattr(choices, "SECONDS_FROM", 0.0)
    monkeypatch.setattr(MachineTrial, "step", lambda self, precision: 1 / 0)
    asked = MachineSpec("cpu", "auto", "false", "auto", "auto", "auto", None, False)
    seconds = {"fp32": 2.0, "bf16": 1.0, "": 1.0}
    monkeypatch.setattr(trial, "fastest_steps", lambda steps, *_, **__: {name: seconds[name] for name in steps})
    names = ("none", "kd", "crd", "dafl")
    found = [choices.decide(asked, CPU, 3000, {}, trial_of(*PAIR, f"method={name}")) for name in names]
    assert {each.precision for each in found} == {"bf16"} and len({each.why for each in found}) == 1


def test_a_step_that_takes_too_long_is_not_tried_by_the_next_run_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    monkeypatch.setattr("distill.rehearsal._FIRST", -1.0)
    asked = MachineSpec("cpu", "auto", "false", "auto", "auto", "auto", None, False)
    plain = choices.without_trial(asked, CPU)
    found = choices.decide(asked, CPU, 3000, {}, trial_of(*PAIR, "method=kd"))
    assert found == replace(plain, precision=found.precision, why=found.why) and "kd with" not in found.why
    monkeypatch.setattr(trial, "fastest", lambda *_: 1 / 0)
    assert choices._step_of(plain, trial_of(*PAIR, "method=kd")) == (0.0, 0.0)


def test_a_method_whose_step_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.rehearsal._FIRST", -1.0)
    with pytest.raises(TooLong):
        trial.fastest_steps({"": trial_of(*PAIR, "method=kd").step("fp32")}, 2)
