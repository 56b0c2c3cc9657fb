"""What null stands for: a run that says so is the run that says null."""

from __future__ import annotations

import json

import pytest

from distill import config
from distill.config.nulls import DEFAULTS
from distill.engine import hyperrule
from tests.compositions import composed

SAID = [f"++{group}.{key}={json.dumps(value)}" for group, keys in DEFAULTS.items() for key, value in keys.items()
        if value is not None]  # fmt: skip
USUAL = ("schedule.mixup=0", "evaluate.knn=false", "evaluate.probe=false", "teacher.dataset.rotate=0",
         "+teacher.dataset.erasing=0")  # fmt: skip


def hash_of(*words: str) -> str:
    return config.identity(composed(*words))["hash"]


@pytest.mark.parametrize("word", [*SAID, *USUAL])
def test_what_null_stands_for_makes_no_other_run(word: str) -> None:
    assert hash_of(word) == hash_of()


def test_the_kinds_of_keys_that_null_stands_for() -> None:
    assert {"resize", "rotate", "labels"} <= set(DEFAULTS["dataset"]) and not {"pad", "flip"} & set(DEFAULTS["dataset"])
    assert {"label_smoothing", "restart", "zero_head"} <= set(DEFAULTS["schedule"])


@pytest.mark.parametrize(
    ("around", "word"),
    [
        ("schedule=bit", "schedule.mixup=0"),  # null is the rule's alpha
        ("dataset.labels=false", "evaluate.knn=false"),  # null measures by neighbours
        ("dataset.rotate=5", "teacher.dataset.rotate=0"),  # null sees what the student sees
        ("evaluate.knn=true", "evaluate.neighbours=5"),
        ("dataset=digits", "schedule.warmup_lr=0"),  # null is the first step's share
    ],
)
def test_where_null_stands_for_something_else_the_same_word_makes_another_run(around: str, word: str) -> None:
    assert hash_of(around, word) != hash_of(around)


def test_what_labels_or_neighbours_usually_are_makes_no_other_run_either() -> None:
    assert hash_of("dataset.labels=false", "evaluate.knn=true") == hash_of("dataset.labels=false")
    assert hash_of("evaluate.knn=true", "evaluate.neighbours=20") == hash_of("evaluate.knn=true")


def test_the_rule_takes_no_resize_for_one_that_is_asked_for() -> None:
    spec = config.resolve(composed("schedule=bit", "dataset.resize=false"))
    assert hyperrule.adapt(spec.schedule, spec.dataset) is not None


def test_a_null_that_takes_away_what_a_schedules_file_says_makes_another_run() -> None:
    def hash_with(schedule: str) -> str:
        return hash_of(f"student.upstream={{schedule: {{name: deit{schedule}}}}}")

    assert hash_with(", mixup: null") != hash_with("")


@pytest.mark.parametrize(("said", "short"), [
    ("{schedule: {name: digits, epochs: 0}}", "null"),
    ("{schedule: {name: digits, epochs: 0, lr: 0.7}, dataset: {classes: [0, 1]}}", "null"),
    ("{schedule: {name: digits}}", "{schedule: digits}"),
    ("{schedule: {name: digits, epochs: 20, warmup_epochs: 0}}", "{schedule: digits}"),
    ("{schedule: digits, dataset: null}", "{schedule: digits}"),
    ("{schedule: digits, dataset: {name: digits, size: 8, fraction: 1.0}}", "{schedule: digits}"),
    ("{schedule: digits, dataset: {name: mnist, size: 32}}", "{schedule: digits, dataset: {name: mnist}}"),
])  # fmt: skip
def test_what_stands_in_upstream_anyway_makes_no_other_run(said: str, short: str) -> None:
    assert hash_of(f"student.upstream={said}") == hash_of(f"student.upstream={short}")


def test_what_upstream_changes_makes_another_run() -> None:
    said = ["null", "{schedule: digits}", "{schedule: {name: digits, epochs: 9}}", "{schedule: cifar10}",
            "{schedule: digits, dataset: {name: mnist}}", "{schedule: digits, dataset: {classes: [0, 1]}}"]  # fmt: skip
    assert len({hash_of(f"student.upstream={each}") for each in said}) == len(said)
    part = hash_of("dataset.fraction=0.5", "student.upstream={schedule: digits, dataset: {fraction: 0.5}}")
    assert part != hash_of("dataset.fraction=0.5", "student.upstream={schedule: digits}")
