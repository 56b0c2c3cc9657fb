"""A run, resolved once: what trains its teachers lies within, and nothing of it can be changed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from distill import config
from distill.config import DataSpec, EvaluateSpec, RunSpec, ScheduleSpec, frozen, resolve, thawed
from distill.config.rules import SCHEDULE
from tests.tiny import composed


def test_a_spec_has_the_names_and_the_folder_of_its_configuration() -> None:
    cfg = composed("method=crd", "teacher=resnet14", "student=resnet8", "seed=3")
    spec, who = resolve(cfg), config.identity(cfg)
    assert (spec.hash, str(spec.folder), spec.below, spec.seed) == (who["hash"], who["folder"], who["below"], 3)
    assert (spec.dataset.name, spec.teacher, spec.student.name, spec.method.name) == (
        "digits", "resnet14", "resnet8", "crd",
    )  # fmt: skip


def test_the_runs_that_train_a_chain_lie_within_one_another() -> None:
    cfg = composed("method=kd", "teacher.chain=[resnet20,resnet14,resnet8]")
    last = resolve(cfg).teachers[0].training
    assert last is not None and (last.method.name, last.student.name, last.teacher) == (
        "takd", "resnet8", "resnet20-resnet14",
    )  # fmt: skip
    middle = last.teachers[0].training
    first = middle and middle.teachers[0].training
    assert first is not None and (first.method.name, first.student.name, first.teachers) == ("none", "resnet20", ())
    assert last.hash == config.identity(config.teacher_config(cfg))["hash"]


@pytest.mark.parametrize("weights", ["pretrained", "none", "some.pt"])
def test_weights_that_are_not_trained_here_have_no_run(weights: str) -> None:
    (teacher,) = resolve(composed("method=kd", f"teacher.weights={weights}")).teachers
    assert teacher.training is None and teacher.weights == weights and teacher.pretrained is (weights == "pretrained")


def test_a_students_first_training_is_a_run_of_its_own() -> None:
    before = resolve(composed("student.upstream={dataset:{classes:[0,1]},schedule:digits}")).student.upstream
    assert before is not None and before.dataset.classes == (0, 1) and before.student.upstream is None


@pytest.mark.parametrize("protocol", ["schedule=digits", "dataset=cifar100 schedule=paper"])
def test_the_student_alone_is_found_where_method_none_puts_it(protocol: str) -> None:
    alone = resolve(composed("method=kd", *protocol.split())).alone
    by_hand = composed("method=none", *protocol.replace("paper", "crd").split())
    assert alone == Path(config.identity(by_hand)["folder"])
    assert resolve(composed("method=none")).alone is None


def test_nothing_of_a_spec_can_be_changed() -> None:
    spec = resolve(composed("method=crd"))
    with pytest.raises(FrozenInstanceError):
        spec.seed = 2  # type: ignore[misc]
    for mapping in (spec.method.node, spec.schedule.optimizer, spec.composed):
        with pytest.raises(TypeError, match="does not support item assignment"):
            mapping["name"] = "other"  # type: ignore[index]


def test_what_is_thawed_is_a_copy() -> None:
    given = {"a": [1, {"b": [2]}], "c": None}
    kept = frozen(given)
    copy = thawed(kept)
    copy["a"][1]["b"].append(3)
    assert thawed(kept) == given and kept["a"][1]["b"] == (2,)


@pytest.mark.parametrize("key", ["size", "mean", "pad", "flip"])
def test_a_data_set_without_a_value_that_it_needs_is_refused(key: str) -> None:
    node = config.plain(composed(), "dataset")
    with pytest.raises(ValueError, match=f"dataset.{key} has no value: give one, dataset.{key}="):
        DataSpec.of({**node, key: None})


def test_a_method_that_needs_a_teacher_says_so() -> None:
    cfg = composed("method=kd")
    cfg.teacher = None
    with pytest.raises(ValueError, match="method=kd needs a teacher"):
        resolve(cfg)


def test_the_words_of_the_machine_are_those_of_the_command_line() -> None:
    spec: RunSpec = resolve(composed("compile=true", "cuda_graphs=false", "teacher.cache=off", "threads=2"))
    machine = spec.machine
    assert (machine.compile, machine.cuda_graphs, spec.cache, machine.threads) == ("true", "false", "off", 2)


def test_a_schedule_has_a_field_for_each_key_and_none_beside() -> None:
    keys = {each.name for each in fields(ScheduleSpec)}
    assert keys == {*SCHEDULE, "drawn"}  # which a rule sets
    made = ScheduleSpec.of({"name": "x", "epochs": 2.0, "batch_size": 8, "lr": 1, "milestones": [1], "gamma": None})
    assert (made.epochs, made.lr, made.milestones, made.gamma) == (2, 1.0, (1.0,), 0.1)
    with pytest.raises(ValueError, match="schedule has no key 'epoch'"):
        ScheduleSpec.of({"epoch": 2})
    with pytest.raises(ValueError, match="schedule.lr has no value"):
        ScheduleSpec.of({"name": "x", "epochs": 2, "batch_size": 8, "lr": None})


@pytest.mark.parametrize(
    ("schedule", "rate"), [("crd", 0.01), ("sskd", 0.01), ("reviewkd", 0.02), ("dml", 0.1), ("mcl", 0.1)]
)
def test_a_small_net_has_a_share_of_the_rate_in_the_protocols_that_say_so_alone(schedule: str, rate: float) -> None:
    words = ("method=none", "student=ShuffleV2", f"schedule={schedule}")
    spec = resolve(composed(*words))
    assert spec.schedule.rate_of(spec.student.model, spec.student.lr_scale) == pytest.approx(rate)
    halved = resolve(composed(*words, "student.lr_scale=0.5"))
    assert halved.schedule.rate_of(halved.student.model, halved.student.lr_scale) == pytest.approx(rate / 2)


def test_the_share_of_a_protocol_is_hashed_as_the_nets_own_and_for_no_other_net() -> None:
    """Names of runs from when it was a key of the student stay, and so do those of all other nets."""
    cfg = composed("method=kd", "student=ShuffleV1", "teacher=resnet14", "schedule=crd")
    hashed = config.hashed_config(cfg)
    assert hashed["student"]["lr_scale"] == 0.2 and "lr_scales" not in hashed["schedule"]
    assert hashed["teacher"]["lr_scale"] == 1.0
    old = composed("method=kd", "student=ShuffleV1", "student.lr_scale=0.2", "teacher=resnet14", "schedule=crd")
    old.schedule.lr_scales = None
    assert config.identity(old)["hash"] == config.identity(cfg)["hash"]


def test_more_neighbours_or_labelled_images_than_there_are_is_refused() -> None:
    asked = EvaluateSpec(knn=True, probe=False, neighbours=20, images=0)
    asked.check(7)  # the default takes what there is
    for known, change in ((99, {"neighbours": 100}), (99, {"images": 100}), (99, {"images": 50, "neighbours": 60})):
        with pytest.raises(ValueError, match=r"there are 99 training images with labels: give less"):
            replace(asked, **change).check(known)
    replace(asked, images=100).check(None)


def test_a_run_that_another_needs_has_what_that_takes_from_its_own_keys() -> None:
    taken = "schedule.epochs=${seed}", "schedule.lr=${student.lr_scale}"
    (teacher,) = resolve(composed(*taken, "seed=7", "student.lr_scale=0.5")).teachers
    assert teacher.training is not None and (teacher.training.schedule.epochs, teacher.training.schedule.lr) == (7, 0.5)
    crd = resolve(composed("method=crd", "method.weight=0.3", "schedule.lr=${method.weight}"))
    assert crd.alone == resolve(composed("method=none", "schedule.lr=0.3")).folder
    upstream = "student.upstream={schedule: {name: digits, epochs: 9}}"
    before = resolve(composed("+student.args.p=${schedule.epochs}", "schedule.epochs=20", upstream)).student.upstream
    assert before is not None and (before.schedule.epochs, before.student.args["p"]) == (9, 20)
    before = resolve(composed("seed=${schedule.epochs}", "schedule.epochs=20", upstream)).student.upstream
    assert before is not None and before.seed == 20
    (teacher,) = resolve(composed("log_every=${schedule.epochs}", "teacher.schedule=cifar10")).teachers
    assert teacher.training is not None and teacher.training.log_every == 2
    crd = resolve(composed("method=crd", "output=runs/${method.name}"))
    (teacher,) = crd.teachers
    assert teacher.training is not None and teacher.training.output == Path("runs/none") != crd.output


def test_what_is_looked_up_by_the_method_is_each_runs_own() -> None:
    (teacher,) = resolve(composed("schedule.epochs='${by_method:9,{none: 5}}'")).teachers
    assert teacher.training is not None and teacher.training.schedule.epochs == 5
