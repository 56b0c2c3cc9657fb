"""Differences to the student alone, their intervals and verdicts: against scipy and by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from test_report import write_run

from distill.report.collect import collect
from distill.report.gains import NO_SPREAD, ONE_SEED, PAIRED, WELCH, Gain, corrected, gain, share
from distill.report.overview import overview
from distill.report.ranking import Ranking, first, rankings
from distill.report.stats import Sample
from distill.report.summary import summarize

OURS, ALONE = {"1": 71.0, "2": 70.5, "3": 72.2}, {"1": 70.1, "2": 69.9, "3": 71.0}


def test_seeds_that_both_have_are_paired_as_scipy_does() -> None:
    got = gain(OURS, ALONE)
    expected = scipy.stats.ttest_rel(list(OURS.values()), list(ALONE.values()))
    interval = expected.confidence_interval(0.95)
    assert (got.test, got.difference) == (PAIRED, pytest.approx(0.9))
    assert got.p == pytest.approx(expected.pvalue)
    assert got.difference - got.half == pytest.approx(interval.low)
    assert got.difference + got.half == pytest.approx(interval.high)


def test_pairing_goes_by_seed_whatever_the_order() -> None:
    assert gain(dict(reversed(OURS.items())), ALONE).p == pytest.approx(gain(OURS, ALONE).p)


def test_other_seeds_are_tested_as_welch_does_and_the_verdict_says_so() -> None:
    ours = {"1": 75.0, "2": 75.5, "4": 76.2, "5": 75.1}
    got = gain(ours, ALONE)
    expected = scipy.stats.ttest_ind(list(ours.values()), list(ALONE.values()), equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert got.test == WELCH and got.p == pytest.approx(expected.pvalue)
    assert got.half == pytest.approx((interval.high - interval.low) / 2)
    assert got.verdict == "above, Welch"


def test_pairing_sees_what_welch_does_not() -> None:
    """Seeds differ by whole points and the method adds a tenth to each."""
    alone = {str(seed): 70.0 + seed for seed in range(5)}
    ours = {seed: value + 0.1 + 0.01 * (int(seed) % 2) for seed, value in alone.items()}
    other = {f"{seed}'": value for seed, value in ours.items()}
    assert gain(ours, alone).verdict == "above" and gain(other, alone).verdict == "within noise (above), Welch"


@pytest.mark.parametrize("ours", [{"1": 99.0}, {"7": 99.0}])
def test_one_seed_gets_no_verdict(ours: dict[str, float]) -> None:
    assert gain(ours, {"1": 50.0}).verdict == ONE_SEED
    assert gain(ours, ALONE).verdict == ONE_SEED and gain(ALONE, ours).verdict == ONE_SEED


def test_differences_that_are_all_equal_get_no_verdict() -> None:
    """Test sets are small: three seeds may gain one image each, which is no proof."""
    assert gain({key: value + 0.3 for key, value in ALONE.items()}, ALONE).verdict == NO_SPREAD
    assert gain(ALONE, ALONE) == Gain(0.0, 0.0, 0.0, None, PAIRED)


def test_means_that_are_equal_by_chance_are_noise() -> None:
    even = gain({"1": 71.1, "2": 69.9, "3": 70.5}, {"1": 70.5, "2": 70.5, "3": 70.5})
    assert corrected([even, even])[0].verdict == "within noise (equal)"


def test_holm_corrects_for_the_number_of_methods() -> None:
    ps = [0.01, None, 0.04, 0.03, 0.005]
    got = corrected([None if p is None else Gain(1.0, 1.0, 1.0, p, PAIRED) for p in ps])
    # by hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, then not less than the one before
    expected = [0.03, None, 0.06, 0.06, 0.02]
    assert [one and one.corrected for one in got] == [p and pytest.approx(p) for p in expected]
    assert [one.verdict for one in got if one] == ["above", *["above before correction"] * 2, "above"]


def test_a_share_of_a_gap_inside_its_own_error_is_blank() -> None:
    teacher = Sample(72.0, None, 1)
    half = scipy.stats.t.ppf(0.975, 2) * 1.0 / math.sqrt(3)
    assert share(71.0, Sample(72.0 - half + 1e-6, 1.0, 3), teacher) is None
    wide = Sample(72.0 - half - 1e-6, 1.0, 3)
    assert share(71.0, wide, teacher) == pytest.approx((71 - wide.mean) / (72 - wide.mean))
    assert share(71.0, Sample(60.0, None, 1), teacher) is None  # one seed: the error is not known
    assert share(71.0, Sample(73.0, 0.1, 3), teacher) is None  # the teacher is worse


# ---------------------------------------------------------------- rankings


def alone(root: Path, student: str = "resnet20", seeds: int = 3, last: float = 69.0) -> None:
    for seed in range(seeds):
        write_run(root, seed, last + seed / 10, method="none", student=student, teacher=None, teacher_accuracy=None)


def ranked(root: Path) -> list[Ranking]:
    return rankings(summarize(collect([root]).runs))


def test_best_first_with_the_student_alone_among_them(tmp_path: Path) -> None:
    alone(tmp_path)
    for method, last in (("kd", 68.0), ("crd", 71.0)):
        for seed in range(3):
            write_run(tmp_path, seed, last + seed**2 / 10, method=method)
    (one,) = ranked(tmp_path)
    assert [entry.name for entry in one.entries] == ["crd", "student alone", "kd"]
    assert one.comparisons == 2 and one.alone is one.entries[1]
    assert [entry.below for entry in one.entries] == [False, False, True]
    crd = one.entries[0].gain
    assert crd is not None and crd.p is not None and crd.corrected == pytest.approx(2 * crd.p)


def test_what_has_no_teacher_stands_in_every_ranking_of_its_student(tmp_path: Path) -> None:
    alone(tmp_path)
    for teacher in ("resnet56", "resnet110"):
        write_run(tmp_path, method="kd", teacher=teacher)
    write_run(tmp_path, method="byot", teacher=None, teacher_accuracy=None)
    alone(tmp_path, "resnet56", 1)
    found = ranked(tmp_path)
    assert [one.title for one in found] == ["resnet110 → resnet20", "resnet56 → resnet20", "Trained alone"]
    methods = [{entry.row.one.method for entry in one.entries} for one in found]
    assert methods == [{"kd", "byot", "none"}, {"kd", "byot", "none"}, {"none"}]
    assert [entry.name for entry in found[2].entries] == ["resnet56"]


def test_names_tell_what_the_commands_set(tmp_path: Path) -> None:
    for value in (1, 4):
        command = f"python -m distill method=kd method.temperature={value} seed=1 method.weight=2"
        write_run(tmp_path, method="kd", hash=f"t{value}", command=command)
    assert [entry.name for entry in ranked(tmp_path)[0].entries] == ["kd (temperature=1)", "kd (temperature=4)"]


def test_methods_by_pairs_count_the_pairs_of_their_mean(tmp_path: Path) -> None:
    """crd gains 2 on one pair; of the other nobody has trained the student alone."""
    for student in ("resnet20", "resnet32"):
        for method, last in (("kd", 71.0), ("crd", 72.0)):
            write_run(tmp_path, last=last, method=method, student=student)
    write_run(tmp_path, last=70.0, method="none", teacher=None, teacher_accuracy=None)
    found = collect([tmp_path])
    (across,) = [table for table in overview(found, summarize(found.runs)).tables if table.key == "matrix"]
    rows = {row[0].text: (row[-2].text, row[-1].text) for row in across.rows}
    assert rows["crd"] == ("+2.00", "1") and rows["kd"] == ("+1.00", "1") and rows["student alone"] == ("–", "–")


def test_the_first_of_many_keep_the_student_alone(tmp_path: Path) -> None:
    alone(tmp_path, last=10.0)
    for number in range(30):
        write_run(tmp_path, 1, 60.0 + number / 10, method=f"m{number:02}")
    (one,) = ranked(tmp_path)
    assert [entry.name for entry in first(one.entries, 3)] == ["m29", "m28", "student alone"]


@pytest.mark.parametrize("changes", [{"epochs": 20}, {"protocol": "sskd"}, {"evaluated_on": "holdout"}])
def test_a_student_alone_of_another_protocol_is_no_measure(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_run(tmp_path, method="none", teacher=None, teacher_accuracy=None, **changes)
    write_run(tmp_path)
    kd = next(entry for one in ranked(tmp_path) for entry in one.entries if entry.name == "kd")
    assert kd.gain is None and kd.row.closed is None
