"""A method's key is refused where it means nothing beside the batch, the images, the classes or another key of it."""

from __future__ import annotations

import pytest

from distill.config.check import check_override
from distill.config.groups import load_node, options
from distill.config.limits import check_limits, parsed
from distill.config.values import check_data
from tests import tiny


@pytest.mark.parametrize(("words", "said"), [
    ("method=mcl method.per_class=1000", "must be at most half of schedule.batch_size, which is 8: the default is 2"),
    ("method=semckd method.batch_size=7", "must be equal to schedule.batch_size, which is 8: leave it away"),
    ("method=deepinversion method.jitter=1000", "must be below dataset.size, which is 8: the default is 2"),
    ("method=cmi method.pad=8", "must be below dataset.size, which is 8: leave it away"),
    ("method=cmi method.negatives=50000", "must be at most method.bank, which is 4096"),
    ("method=deepkd method.top_k=10", "must be below dataset.num_classes, which is 10"),
    ("method=sdd method.grids=[1,2,400]", "must be at most dataset.size, which is 8"),
    ("method=rco method.anchors=5", "must be at most method.teacher_epochs, which is 2"),
    ("method=pseudo-label-queue method.queue=7", "must be at least schedule.batch_size, which is 8"),
])  # fmt: skip
def test_what_is_beyond_a_limit_is_refused(words: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_limits(tiny.composed(*words.split()))
    assert said in str(caught.value)


@pytest.mark.parametrize("words", ["method=mcl method.per_class=4", "method=semckd", "method=rco", "method=bss",
                                   "method=deepinversion method.jitter=7"])  # fmt: skip
def test_what_is_within_it_or_a_default_is_not(words: str) -> None:
    check_limits(tiny.composed(*words.split()))


def test_every_limit_is_of_keys_that_there_are() -> None:
    for name in options("method"):
        node = load_node("method", name) or {}
        for key, limit in (node["about"].get("limits") or {}).items():
            other = parsed(limit)[1]
            assert key in node and ("." in other or other in node), name
    with pytest.raises(ValueError, match="about.limits says 'under 3 size'"):
        parsed("under 3 size")


def test_crops_without_a_pixel_and_schedules_for_folders_are_refused() -> None:
    node = {"name": "cifar100", "size": 32, "in_chans": 1, "mean": [0.5], "std": [0.5], "pad": 32}
    with pytest.raises(ValueError, match="dataset.pad=32 leaves crops of 32 pixels without any of their image"):
        check_data(node)
    with pytest.raises(ValueError, match="^schedule=deit asks for dataset.auto_augment=rand.* take another schedule"):
        check_data({**node, "pad": 4, "auto_augment": "rand-m9-mstd0.5-inc1"}, "deit")
    with pytest.raises(ValueError, match="^dataset.auto_augment=rand-m9.* leave it away for cifar100"):
        check_data({**node, "pad": 4, "auto_augment": "rand-m9-mstd0.5-inc1"}, "crd")


def test_a_default_that_the_number_of_images_chooses_is_not_worked_out_to_check_what_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def listed(*_: object) -> None:
        raise AssertionError("the default folder was listed")

    monkeypatch.setattr("distill.config.by_size.count_of", listed)
    check_override(tiny.compositions.composed("dataset=folder", "schedule=finetune"), "schedule.epochs", 3)
