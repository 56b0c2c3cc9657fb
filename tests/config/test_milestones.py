"""A run whose epochs alone were cut keeps its first rate: milestones after the last epoch are told."""

from __future__ import annotations

import pytest

from distill import config
from distill.config.groups import options
from distill.config.milestones import note_of_milestones, note_of_rises
from tests.compositions import composed

CRD = "dataset=cifar100 method=kd"


@pytest.mark.parametrize(("words", "told"), [
    (f"{CRD} schedule.epochs=7", "the rate never falls: training ends after 7 epochs, and schedule.milestones has "
     "150, 180 and 210 (in the shares of schedule=crd: schedule.milestones=[4,5,6])"),
    (f"{CRD} schedule.epochs=200", "the rate falls after epoch 150 and 180 alone: training ends after 200 epochs, and "
     "schedule.milestones has 210 (in the shares of schedule=crd: schedule.milestones=[125,150,175])"),
    (f"{CRD} schedule.epochs=1", "the rate never falls: training ends after 1 epoch, and schedule.milestones has "
     "150, 180 and 210"),
    (f"{CRD} schedule.epochs=100 schedule.milestones=[50,100]", "the rate falls after epoch 50 alone: "),
    (f"{CRD} schedule.epochs=211", None),
    (CRD, None),
    (f"{CRD} schedule.epochs=7 schedule.milestones=[4,6]", None),
    (f"{CRD} schedule.epochs=7 schedule.decay=cosine", None),
    (f"{CRD} schedule.epochs=7 schedule=deit", None),
])  # fmt: skip
def test_milestones_after_the_last_epoch_are_told(words: str, told: str | None) -> None:
    note = note_of_milestones(composed(*words.split()))
    assert note is None if told is None else str(note).startswith(told)


def test_no_experiment_or_schedule_has_milestones_that_it_does_not_reach() -> None:
    schedules = [name for name in options("schedule") if name != "paper"]
    for words in [*(f"schedule={name}" for name in schedules), *(f"experiment={one}" for one in options("experiment"))]:
        cfg = composed(*words.split())
        assert note_of_milestones(cfg) is None and note_of_rises(cfg) is None, words


@pytest.mark.parametrize(("words", "told"), [
    (f"{CRD} schedule=deit schedule.epochs=3", "the rate still rises when training ends after 3 epochs: "
     "schedule.warmup_epochs=5, give less"),
    ("dataset=mnist method=kd schedule=hinton_mnist schedule.epochs=40", "the momentum still rises when training ends "
     "after 40 epochs: schedule.momentum_epochs=500, give less"),
    (f"{CRD} schedule=deit schedule.epochs=6", None),
    (f"{CRD} schedule.epochs=0", None),  # a first training of none
    ("method=kd schedule=bit schedule.epochs=1 schedule.warmup_epochs=2", None),
])  # fmt: skip
def test_a_rise_that_does_not_end_is_told(words: str, told: str | None) -> None:
    assert note_of_rises(composed(*words.split())) == told


def test_a_run_is_told() -> None:
    assert "the rate never falls" in config.resolve(composed(*f"{CRD} schedule.epochs=7".split())).cautions[0]
