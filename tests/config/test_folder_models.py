"""A net of a folder with weights that is trained without them is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill import config
from tests.compositions import composed


@pytest.mark.parametrize(("words", "file", "told"), [
    ("student.model=local-dir:{0}", "model.safetensors", True),
    ("student.model=local-dir:{0} student.weights=pretrained", "model.safetensors", False),
    ("student.model=local-dir:{0}", "notes.txt", False),
    ("student.model=test_resnet", "model.safetensors", False),
])  # fmt: skip
def test_weights_of_a_folder_that_are_not_taken_are_told(words: str, file: str, told: bool, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 10}))
    (tmp_path / file).touch()
    spec = config.resolve(composed("method=none", "student=timm", *words.format(tmp_path).split()))
    assert [caution.startswith("local-dir:") for caution in spec.cautions] == [True] * told


def test_a_teacher_that_is_trained_from_nothing_is_told_where_it_is_trained(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 10}))
    (tmp_path / "model.safetensors").touch()
    words = ("method=kd", "student=resnet8", "teacher=timm", f"teacher.model=local-dir:{tmp_path}")
    taught = config.resolve(composed(*words))
    assert not taught.cautions and "teacher.weights=pretrained takes it" in taught.teachers[0].training.cautions[0]
    started = config.resolve(composed(*words, "teacher.start=pretrained"))
    assert not started.teachers[0].training.cautions
