"""A default that was published for a hundred classes is told where there are far fewer or more: about.classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill import config
from distill.config.classes import classes_of, note_of_classes
from distill.config.groups import load_node, options
from distill.signals import StopSignals
from tests import tiny
from tests.compositions import composed
from tests.data.test_data import write_folder


@pytest.mark.parametrize(("words", "told"), [
    ("method=ttm dataset=cifar10", "method.weight=45 was published for 100 classes, and cifar10 has 10: "),
    ("method=ttm dataset=imagenet", "method.weight=45 was published for 100 classes, and imagenet has 1000: "),
    ("method=crld dataset=stl10", "sure_strong=0.2 was published for 100 or 200 or 1000 classes, and stl10 has 10: "),
    ("method=ttm dataset=cifar100 dataset.classes=[1,2,3]", "and cifar100 has 3: "),
    ("method=ttm dataset=cifar100", None),
    ("method=ttm dataset=tinyimagenet", None),  # 200: not far
    ("method=ttm dataset=cifar10 method.weight=5", None),
    ("method=crld dataset=imagenet", None),
    ("method=wkd-l dataset=imagenet", None),  # conf/tuned has another
    ("method=kd dataset=cifar10", None),
])  # fmt: skip
def test_a_default_of_other_classes_is_told(words: str, told: str | None) -> None:
    note = note_of_classes(composed(*words.split()))
    assert note is None if told is None else told in str(note)


def test_the_classes_of_a_folder_are_counted(tmp_path: Path) -> None:
    words = ["dataset=folder", f"dataset.root={write_folder(tmp_path, count=2)}", "dataset.name=pets", "method=ttm"]
    assert "and pets has 3: " in str(config.resolve(composed(*words)).cautions)
    assert classes_of(composed(*words, "dataset.labels=false")) is None
    assert classes_of(composed("dataset=folder", f"dataset.root={tmp_path}/none")) is None


def test_a_run_begins_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from distill.run import Experiment

    words = ["method=ttm", "student=resnet8", "teacher=resnet8", "teacher.weights=none", f"output={tmp_path}"]
    Experiment(config.resolve(tiny.composed(*words)), StopSignals(), quiet=True)
    assert [each for each in caplog.messages if "was published for 100 classes" in each] == [
        "method.weight=45 was published for 100 classes, and digits has 10: another may be needed (distill search)"
    ]


def test_every_key_is_one_of_its_method_with_a_number() -> None:
    for name in options("method"):
        node = load_node("method", name) or {}
        for key, counts in (node["about"].get("classes") or {}).items():
            assert isinstance(node[key], (int, float)), (name, key)
            assert all(isinstance(each, int) for each in ([counts] if isinstance(counts, int) else counts))
