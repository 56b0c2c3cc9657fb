"""Two sets of results side by side, and the LaTeX table of a paper."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from test_report import write_run

from distill.cli import verbs

BEFORE, AFTER = (70.0, 70.4, 71.1), (70.5, 70.8, 71.9)


def report(*arguments: object) -> int:
    return verbs.run("report", *map(str, arguments))


def rows(capsys: pytest.CaptureFixture[str], root: Path) -> list[dict[str, str]]:
    assert report(root / "new", "--against", root / "old", "--format", "csv") == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def seeds(root: Path, values: tuple[float, ...] = BEFORE, **changes: Any) -> None:
    for seed, last in enumerate(values):
        write_run(root, seed, last, **changes)


def test_the_same_configuration_is_compared_seed_by_seed(tmp_path: Path, capsys: Any) -> None:
    seeds(tmp_path / "old")
    seeds(tmp_path / "new", AFTER)
    (row,) = rows(capsys, tmp_path)
    expected = scipy.stats.ttest_rel(AFTER, BEFORE)
    assert float(row["p"]) == pytest.approx(expected.pvalue) and row["differs"] == ""
    assert float(row["difference"]) == pytest.approx(sum(AFTER) / 3 - sum(BEFORE) / 3)


def test_a_changed_configuration_is_matched_and_the_change_is_named(tmp_path: Path, capsys: Any) -> None:
    seeds(tmp_path / "old", epochs=200, hash="old")
    seeds(tmp_path / "new", AFTER, hash="new", protocol="sskd")
    (row,) = rows(capsys, tmp_path)
    assert row["differs"] == "protocol: crd → sskd; epochs: 200 → 240" and row["other_hash"] == "old"


def test_two_that_could_be_meant_are_not_guessed_between(tmp_path: Path, capsys: Any) -> None:
    for hash_ in ("a", "b"):
        seeds(tmp_path / "old", hash=hash_)
    seeds(tmp_path / "new", hash="c")
    seeds(tmp_path / "new", method="crd", hash="d")
    assert rows(capsys, tmp_path) == []
    assert report(tmp_path / "new", "--against", tmp_path / "old") == 0
    said = capsys.readouterr().out
    assert "0 configurations of new (2) are also in old (2)." in said and "Only in new: crd (" in said


def test_the_page_of_two_sets_has_a_chart_of_the_differences(tmp_path: Path, capsys: Any) -> None:
    seeds(tmp_path / "old")
    seeds(tmp_path / "new", AFTER)
    assert report(tmp_path / "new", "--against", tmp_path / "old", "--out", tmp_path / "page.html") == 0
    text = (tmp_path / "page.html").read_text()
    assert "new against old" in text and text.count("no change 0.00") == 2  # wide and narrow


def test_three_reports_are_not_one(tmp_path: Path, capsys: Any) -> None:
    seeds(tmp_path)
    assert report(tmp_path, "--against", tmp_path, "--table", "crd_table1") == 2
    assert "give one of them" in capsys.readouterr().err


def test_the_table_of_a_paper_marks_the_best_two_of_each_pair(tmp_path: Path, capsys: Any) -> None:
    seeds(tmp_path, (69.0, 69.1, 69.2), method="none", teacher=None, teacher_accuracy=None)
    seeds(tmp_path)
    seeds(tmp_path, AFTER, method="crd+kd")
    seeds(tmp_path, (60.0, 60.0, 60.0), method="at")
    seeds(tmp_path, teacher="resnet110", teacher_accuracy=74.31)
    assert report(tmp_path, "--format", "paper") == 0
    lines = capsys.readouterr().out.splitlines()
    body = lines[lines.index(r"\toprule") + 1 : lines.index(r"\bottomrule")]
    assert body == [
        r"Teacher & resnet110 & resnet56 \\",
        r"Student & resnet20 & resnet20 \\",
        r"\midrule",
        r"Teacher & 74.31 & 72.34 \\",
        r"Student & 69.10 & 69.10 \\",
        r"\midrule",
        r"kd & \textbf{70.50} {\scriptsize $\pm$ 0.56} & \underline{70.50} {\scriptsize $\pm$ 0.56} \\",
        r"at & -- & 60.00 {\scriptsize $\pm$ 0.00} ($\downarrow$) \\",
        r"crd+kd & -- & \textbf{71.07} {\scriptsize $\pm$ 0.74} ($\uparrow$) \\",
    ]
