"""schedule=finetune: what the number of training images and the student's start choose, and that it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from distill import config
from distill.config.by_size import chosen_by_size, count_of
from tests.compositions import composed
from tests.data.test_data import write_folder


def keys(*words: str) -> tuple[int, int, float]:
    cfg = composed("method=none", *words)
    return tuple(config.plain(cfg, f"schedule.{key}") for key in ("epochs", "batch_size", "lr"))


@pytest.mark.parametrize(("words", "expected"), [
    (["dataset=digits"], (100, 128, 0.0005)),
    (["dataset=digits", "student.weights=pretrained"], (100, 128, 0.00005)),
    (["dataset=stl10", "student.weights=pretrained"], (51, 256, 0.0001)),
    (["dataset=cifar100", "student.weights=pretrained"], (10, 256, 0.0001)),
    (["dataset=cifar100"], (100, 256, 0.001)),
    (["dataset=cifar100", "schedule.epochs=7"], (7, 256, 0.001)),
])  # fmt: skip
def test_size_and_start_choose(words: list[str], expected: tuple[int, int, float]) -> None:
    assert keys("schedule=finetune", *words) == expected


def test_an_own_folder_has_it_without_a_word_and_says_what_was_chosen(tmp_path: Path) -> None:
    root = write_folder(tmp_path, count=70)
    words = ["dataset=folder", f"dataset.root={root}", "dataset.name=pets"]
    assert keys(*words) == (100, 16, 0.0000625)
    spec = config.resolve(composed("method=none", *words, "schedule.epochs=9"))
    assert spec.note == (
        "schedule=finetune, for 210 training images and a student that starts from nothing: 9 epochs of 16 images at a "
        "rate of 6.25e-05"
    )
    assert spec.schedule.no_decay and spec.schedule.optimizer["name"] == "adamw"
    assert count_of(composed("dataset=folder", f"dataset.root={tmp_path}/none")) is None


def test_images_that_keys_of_the_data_set_leave_out_are_said_to_be_counted(tmp_path: Path) -> None:
    words = ["dataset=folder", f"dataset.root={write_folder(tmp_path, count=4)}"]
    spec = config.resolve(composed("method=none", *words, "dataset.shots=1", "dataset.holdout=0.5"))
    assert spec.note and "for 12 training images (counted before dataset.shots, dataset.holdout) and" in spec.note


def test_images_that_are_skipped_are_not_counted(tmp_path: Path) -> None:
    root = write_folder(tmp_path, count=4)
    (root / "train" / "cat" / "0.png").write_bytes(b"no image")
    words = ["dataset=folder", f"dataset.root={root}", "dataset.workers=0"]
    assert count_of(composed("method=none", *words, "dataset.damaged=skip")) == 11
    assert count_of(composed("method=none", *words)) == 12  # refused, where the folder is read
    spec = config.resolve(composed("method=none", *words, "dataset.damaged=skip"))
    assert spec.note and "for 11 training images" in spec.note


def test_a_teacher_has_the_schedule_of_its_own_start(tmp_path: Path) -> None:
    words = ["method=kd", "teacher=timm", "teacher.model=resnet18", "teacher.start=pretrained", "student=resnet8"]
    spec = config.resolve(composed(*words, "dataset=stl10", "schedule=finetune"))
    training = spec.teachers[0].training
    assert training is not None and (spec.schedule.lr, training.schedule.lr) == (0.001, 0.0001)


def test_a_record_keeps_what_its_images_chose(tmp_path: Path) -> None:
    """When images are added, or the folder is on another machine, it is the same run of the same teacher still."""
    root = write_folder(tmp_path, count=70)
    nets = ("method=kd", "teacher=timm", "teacher.model=resnet18", "student=resnet8")
    spec = config.resolve(composed(*nets, "dataset=folder", f"dataset.root={root}", "dataset.name=pets"))
    record = OmegaConf.create(config.thawed(spec.composed))
    record.dataset.root = str(tmp_path / "elsewhere")
    again = config.resolve(record)
    assert again.schedule == spec.schedule and again.hash == spec.hash
    assert [each.training.hash for each in again.teachers if each.training] == [
        each.training.hash for each in spec.teachers if each.training
    ]


def test_a_file_alone_knows_no_data() -> None:
    node = config.load_node("schedule", "finetune")
    with pytest.raises(ValueError, match="chosen by a run's own data"):
        chosen_by_size("epochs", _root_=node)
