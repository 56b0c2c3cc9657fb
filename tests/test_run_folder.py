"""A run's folder: what counts as finished, what is named as damaged, and what is read of a killed run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill import run_folder
from distill.result import BadResult
from distill.run_folder import BEST, DONE_FILE, LOG, METRICS, RESULT, STUDENT_FILE, TRACKING, RunFolder, find_runs

WHOLE = {"dataset": "digits", "student": "resnet8", "method": "kd", "accuracy": {"last": 50.0, "best": 51.0}}


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "s1")
    folder.finish(WHOLE | {"seed": 1, "own": [1.5]})
    return folder


def test_a_finished_run_is_done_and_gives_its_result(finished: RunFolder) -> None:
    assert finished.done and finished.damage is None
    assert finished.result is not None and (finished.result.accuracy.last, finished.result.seed) == (50.0, 1)


def test_the_file_is_the_content_key_by_key(finished: RunFolder) -> None:
    content = WHOLE | {"seed": 1, "own": [1.5]}
    assert (finished.path / "result.json").read_text() == json.dumps(content, indent=2) + "\n"
    assert finished.read_result().to_json() == content


def test_a_result_without_done_is_not_finished(finished: RunFolder) -> None:
    """A run that was killed between the two is run to its end again from its last checkpoint."""
    (finished.path / "DONE").unlink()
    assert not finished.done and finished.result is None and finished.damage is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "is missing: put the file back"),
        ('{"dataset": "digi', "is damaged .it is no JSON from line 1 on.: .*delete the folder"),
        (json.dumps(WHOLE | {"epochs": 10**400}), "is damaged .*a number beyond 64 bits"),
        (json.dumps(WHOLE | {"device": "\x1b]0;x\x07"}), "is damaged .*control characters"),
        (json.dumps(WHOLE | {"device": "\ud800"}), "is damaged .*no Unicode"),
        (json.dumps(WHOLE)[:-1] + ', "seed": NaN}', "is damaged .*NaN, which is no number"),
        (json.dumps(WHOLE)[:-1] + ', "method": "kd"}', "is damaged .*a key twice"),
        (json.dumps(WHOLE)[:-1] + ', "more": ' + 90 * "[" + 90 * "]" + "}", "is damaged .*nested too deeply"),
        (json.dumps(WHOLE | {"accuracy": {"last": 101}}), r"is damaged .*last is '101'"),
        (json.dumps(WHOLE | {"params": True}), r"is damaged .*params is 'True'"),
        (json.dumps(WHOLE | {"convention": [1]}), r"is damaged .*convention is '.1.'"),
        ("[1]", "is not a run's"),
        (json.dumps(WHOLE | {"version": 2}), "has schema 2, and this program reads 1: read it with the distill"),
    ],
)
def test_done_beside_a_result_that_cannot_be_read_is_named(
    finished: RunFolder, content: str | None, why: str
) -> None:
    (finished.path / "result.json").unlink()
    if content is not None:
        (finished.path / "result.json").write_text(content)
    assert not finished.done
    with pytest.raises(ValueError, match=f"{finished} has DONE, but its result.json {why}"):
        _ = finished.result


def test_nothing_is_written_of_a_result_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadResult, match="lacks method, accuracy"):
        RunFolder(tmp_path).finish({"dataset": "digits", "student": "resnet8"})
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_killed_run_are_the_whole_ones(tmp_path: Path) -> None:
    rows = [{"kind": kind, "step": step} for step in (1, 2) for kind in ("step", "epoch")]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '[1]\n{"kind": "epoch", "st')
    assert RunFolder(tmp_path).rows() == rows
    assert RunFolder(tmp_path).rows("epoch") == rows[1::2]
    assert RunFolder(tmp_path / "none").rows() == []


def test_rows_of_a_kind_are_found_however_they_are_spaced(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind":"epoch","step":1}\n{"step": 2, "kind" : "epoch"}\n')
    assert [row["step"] for row in RunFolder(tmp_path).rows("epoch")] == [1, 2]


def test_a_folder_is_locked_while_another_holds_its_lock(finished: RunFolder) -> None:
    assert not finished.locked
    with finished.lock:
        assert finished.locked
    assert not finished.locked


def test_the_runs_of_another_user_are_not_all_running(finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, timeout: float) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with finished.lock:
        monkeypatch.setattr(run_folder, "FileLock", denied)
        assert finished.locked
        monkeypatch.undo()
    monkeypatch.setattr(run_folder, "FileLock", denied)
    assert not run_folder.is_locked(finished.path / ".lock")


def test_runs_are_found_whatever_state_they_are_in(tmp_path: Path) -> None:
    for name, file in {"a": "result.json", "b": "DONE", "c": "metrics.jsonl", "d/e": "log.txt"}.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "DONE").touch()
    (tmp_path / "a" / "probe").mkdir()
    (tmp_path / "a" / "probe" / "result.json").touch()
    assert [str(run.path.relative_to(tmp_path)) for run in find_runs(tmp_path)] == ["a", "b", "c", "d/e"]


def test_no_other_module_knows_the_names_of_its_files() -> None:
    names = {RESULT, DONE_FILE, METRICS, TRACKING, LOG, STUDENT_FILE, BEST}
    package = Path(run_folder.__file__).parent
    found = {
        (path.name, node.value)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    }
    assert {name for name, _ in found} == {"run_folder.py"} and {value for _, value in found} == names


def test_it_imports_no_torch() -> None:
    code = "import sys, distill.run_folder; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(finished: RunFolder) -> None:
    for name in ("metrics.jsonl", "tracking.json", "result.json"):
        (finished.path / name).unlink(missing_ok=True)
        os.mkfifo(finished.path / name)
    assert finished.rows() == [] and finished.config == {} and "result.json is no file" in str(finished.damage)


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    RunFolder(tmp_path).refuse_folders()
    (tmp_path / "tracking.json").mkdir()
    with pytest.raises(ValueError, match=r"tracking.json is a folder, where the run writes a file: take it away"):
        RunFolder(tmp_path).refuse_folders()


def test_a_row_with_a_value_of_another_kind_is_none(tmp_path: Path) -> None:
    good = {"kind": "epoch", "phase": "distill", "epoch": 1, "step": 3, "test_accuracy": None}
    bad = [{"test_accuracy": "x"}, {"step": True}, {"epoch": [1]}, {"phase": {}}, {"kind": 3}]
    lines = [json.dumps(good | change) for change in ({}, *bad)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert RunFolder(tmp_path).rows() == [good]
