"""teacher.schedule and teacher.dataset: the run that trains a teacher, its identity, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distill import config
from distill.config.check import check
from distill.config.teacher_nodes import training
from distill.run import run
from distill.run_folder import RunFolder
from distill.teachers.store import own_weights
from tests.tiny import composed

HINTON = ("dataset=mnist", "schedule=hinton_mnist_adam_student", "teacher=mlp1200", "student=mlp800", "method=kd")


def digest(*overrides: str) -> str:
    return config.identity(composed(*overrides))["hash"]


def test_the_teacher_is_the_run_that_a_user_would_start_under_its_own_schedule() -> None:
    taught = config.teacher_config(composed(*HINTON, "teacher.schedule=hinton_mnist_adam", "teacher.seed=2"))
    by_hand = composed(
        "dataset=mnist", "schedule=hinton_mnist_adam", "student=mlp1200", "method=none", "seed=2",
        "schedule.epochs=120", "schedule.batch_size=250", "schedule.init_epochs=30",
    )  # fmt: skip
    assert config.identity(taught) == config.identity(by_hand)
    assert (taught.schedule.max_norm, taught.dataset.pad) == (2.0, 2)


def test_the_students_schedule_and_images_stay_its_own() -> None:
    cfg = composed(*HINTON, "teacher.schedule=hinton_mnist_adam")
    config.teacher_config(cfg)
    assert (cfg.schedule.name, cfg.dataset.pad) == ("hinton_mnist_adam_student", 0)


def test_what_only_the_teacher_sees_is_in_both_identities() -> None:
    alone = composed("method=none", "student=vgg8", "seed=0", "dataset.pad=3", "dataset.rotate=15")
    cfg = composed("method=kd", "teacher=vgg8", "teacher.dataset.pad=3", "teacher.dataset.rotate=15")
    assert config.identity(config.teacher_config(cfg)) == config.identity(alone)
    assert config.identity(cfg)["hash"] != digest("method=kd", "teacher=vgg8")


def test_the_hash_holds_the_content_of_the_teachers_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(*HINTON, "teacher.schedule=hinton_mnist_adam")
    assert before != digest(*HINTON)
    known = config.load_node

    def longer(group: str, name: str) -> object:
        node = known(group, name)
        if (group, name) == ("schedule", "hinton_mnist_adam"):
            node.schedule.epochs = 3000
        return node

    monkeypatch.setattr(sys.modules["distill.config.hashing"], "load_node", longer)
    assert digest(*HINTON, "teacher.schedule=hinton_mnist_adam") != before


@pytest.mark.parametrize("schedule", ["dafl", "mlkd", "cmi"])
def test_a_protocol_names_that_of_its_teachers(schedule: str) -> None:
    common = ("dataset=cifar100", f"schedule={schedule}", "teacher=vgg13", "student=vgg8", "method=kd")
    taught = config.teacher_config(composed(*common))
    assert taught.schedule.name == ("crd" if schedule == "mlkd" else f"{schedule}_teacher")
    assert digest(*common) != digest(*common, "teacher.schedule=null")


def test_reviewkds_teachers_train_as_its_students() -> None:
    """CIFAR-100/README.md: by the same train.py (script/baseline.sh)."""
    taught = config.teacher_config(
        composed("dataset=cifar100", "schedule=reviewkd", "teacher=vgg13", "student=vgg8", "method=reviewkd")
    )
    schedule = taught.schedule
    assert (schedule.name, schedule.optimizer.nesterov) == ("reviewkd", True)
    assert taught.dataset.mean[0] == pytest.approx(0.49137)


@pytest.mark.parametrize("schedule", ["kdzoo", "sskd", "reviewkd", "cmi"])
def test_a_protocol_takes_its_teachers_best_epoch(schedule: str) -> None:
    """example_train_script.sh's model_best.pth.tar, teacher.py's best.pth, issue 8 of ReviewKD, train_scratch.py."""
    common = ("dataset=cifar100", f"schedule={schedule}", "teacher=vgg13", "student=vgg8", "method=kd")
    (teacher,) = config.resolve(composed(*common)).teachers
    (last,) = config.resolve(composed(*common, "teacher.epoch=last")).teachers
    assert teacher.best and not last.best and teacher.training == last.training
    assert digest(*common) != digest(*common, "teacher.epoch=last") == digest(*common, "teacher.epoch=null")
    assert not config.resolve(composed(*common, "teacher.weights=none")).teachers[0].best
    paper = ("dataset=cifar100", "schedule=paper", "teacher=vgg13", "student=vgg8", "method=sskd")
    assert config.resolve(composed(*paper)).teachers[0].best


def test_which_epoch_teaches_is_asked_of_all_that_are_trained() -> None:
    models = "teacher.models=[resnet8,{name: vgg8, epoch: last}]"
    several = config.resolve(composed("method=aekd", models, "teacher.epoch=best"))
    assert [teacher.best for teacher in several.teachers] == [True, False]
    chain = config.resolve(composed("method=takd", "teacher.chain=[resnet20,resnet8]", "teacher.epoch=best"))
    (assistant,) = chain.teachers
    assert assistant.best and assistant.training and assistant.training.teachers[0].best


def test_one_of_several_that_is_not_trained_has_no_best_epoch() -> None:
    with pytest.raises(ValueError, match="epoch=best is of a training"):
        check(composed("method=aekd", "teacher.models=[resnet8,{name: vgg8, weights: none, epoch: best}]"))


def test_weights_that_are_there_need_no_schedule() -> None:
    common = ("dataset=cifar100", "schedule=mlkd", "method=kd", "teacher.weights=none")
    assert digest(*common) == digest(*common, "teacher.schedule=null")


def test_without_either_no_identity_changes() -> None:
    cfg = composed("method=kd")
    assert (
        config.hashed_config(cfg)["teacher"]["schedule"] is None
        and config.hashed_config(cfg)["teacher"]["dataset"] is None
    )


def test_several_teachers_are_trained_alike() -> None:
    cfg = composed("method=aekd", "teacher.models=[resnet8,vgg8]", "teacher.dataset.pad=2")
    pads = [config.teacher_config(cfg, spec).dataset.pad for spec in config.teacher_specs(cfg)]
    assert pads == [2, 2] and cfg.dataset.pad == 1


def test_the_nets_before_it_in_a_chain_are_trained_as_the_last() -> None:
    cfg = composed("method=takd", "teacher.chain=[resnet20,resnet8]", "teacher.dataset.pad=2")
    assistant = config.teacher_config(cfg)
    by_hand = composed("method=takd", "teacher=resnet20", "student=resnet8", "seed=0", "dataset.pad=2")
    assert config.identity(assistant) == config.identity(by_hand)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["teacher.schedule=hinton_mnst_adam"], "did you mean hinton_mnist_adam"),
        (["teacher.schedule=hinton_mnist_adam"], "dataset.size=28"),
        (["teacher.dataset.pad_mode=mirror"], "one of zeros, reflect"),
        (["+teacher.dataset.classes=[0,1]"], r"teacher.dataset.classes is for dataset.classes=\[0, 1\], not None"),
        (["+teacher.dataset.labels=false"], "teacher.dataset.labels is for dataset.labels=False, not None"),
    ],
)
def test_what_cannot_be_honoured_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        check(composed("method=kd", *overrides))
    assert "\n" not in str(refused.value)


def test_a_key_that_the_data_set_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="imagenet has no key 'pad'"):
        training({"dataset": {"pad": 2}}, {"name": "imagenet"}, dict)


def test_the_teacher_is_trained_so_and_errors_are_counted(output: Path) -> None:
    common = ("device=cpu", "dataset=digits", "schedule.batch_size=256", "schedule.milestones=[]", f"output={output}")
    cfg = composed("method=kd", "teacher=resnet8", "student=resnet8", "teacher.dataset.pad=3", *common)
    result = run(cfg, config.identity(cfg)["folder"], table=False)
    by_hand = composed("method=none", "student=resnet8", "seed=0", "dataset.pad=3", *common)
    taught = RunFolder(config.identity(by_hand)["folder"]).result
    assert taught and taught.accuracy.last == pytest.approx(100 - taught.document["errors"] / 3.6)  # of 360 digits
    assert result["teacher_accuracy"] == pytest.approx(taught.accuracy.last)
    assert isinstance(result["errors"], int) and "errors_of_omitted" not in result


def test_the_best_epoch_teaches_and_its_weights_are_held_against_the_result(output: Path) -> None:
    common = ("device=cpu", "dataset=digits", "schedule.batch_size=256", "schedule.milestones=[]", f"output={output}")
    own = ("teacher=resnet8", "student=resnet8", "schedule.epochs=2", "teacher.epoch=best")
    cfg = composed("method=kd", *own, *common)
    result = run(cfg, config.identity(cfg)["folder"], table=False)
    folder = RunFolder(next(output.glob("digits/none-resnet8/*/s0")))
    taught = folder.read_result()
    assert result["teacher_accuracy"] == pytest.approx(taught.accuracy.best)
    assert "best epoch" in result["teacher_origin"]
    assert own_weights(folder, best=True) == folder.best and own_weights(folder) == folder.student
    document = taught.document
    folder.finish({**document, "best_weights": "another's"})
    with pytest.raises(ValueError, match="best.safetensors is not what its run measured"):
        own_weights(folder, best=True)
    folder.best.unlink()
    with pytest.raises(ValueError, match="does not hold its best epoch's weights"):
        own_weights(folder, best=True)
