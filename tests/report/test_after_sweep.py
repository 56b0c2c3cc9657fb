"""What a sweep says at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_report import write_run

from distill.report.after_sweep import comparison
from distill.sweep import launched


def test_the_comparison_is_of_the_sweep_and_the_student_alone_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swept = [write_run(tmp_path, seed, 71.0 + seed / 10) for seed in range(3)]
    write_run(tmp_path, method="crd")  # of another sweep
    for seed in range(3):
        write_run(tmp_path, seed, 69.0 + seed / 5, method="none", teacher=None, teacher_accuracy=None)
        write_run(tmp_path, seed, method="none", hash="x", protocol="sskd", teacher=None, teacher_accuracy=None)
    comparison([*swept, tmp_path / "a" / "run" / "not" / "begun"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "±" in line]
    assert rows[0][:9] == ["kd", "3", "71.10", "±", "0.06", "+1.90", "±", "0.06", "+1.65"]
    assert rows[1][:4] == ["student", "alone", "3", "69.20"] and len(rows) == 2


def test_a_sweep_without_a_finished_run_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.txt").touch()
    comparison([tmp_path, tmp_path / "nothing"])
    assert capsys.readouterr().out == ""


def test_a_pipe_gets_whole_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / ("long" * 40)
    comparison([write_run(output)])
    assert f"python -m distill report {output} --out report.html\n" in capsys.readouterr().out


def test_folders_are_noted_once_and_taken_once() -> None:
    launched.take_launched()
    launched.note_launched([Path("b"), None, Path("a")])
    launched.note_launched([Path("b")])
    assert (launched.take_launched(), launched.take_launched()) == ([Path("b"), Path("a")], [])
