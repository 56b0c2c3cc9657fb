"""Files: what a full disk refuses is tried again, and what killed writers leave is swept."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill import files
from distill.cli import main as cli
from distill.config.output_folder import check_output
from distill.files import Backoff, SaveError, best_effort, persist, refusal, remove_temporary, write_text
from distill.sweep import failures

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_pauses_grow_to_a_minute_and_begin_anew() -> None:
    backoff = Backoff()
    assert not backoff.due and [backoff.failed() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert not backoff.due
    backoff.succeeded()
    assert backoff.failed() == 1


def test_what_a_full_disk_refuses_is_tried_until_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries, slept = iter([refusal("x", FULL), refusal("x", FULL), None]), []
    monkeypatch.setattr("distill.files.time.sleep", slept.append)

    def write() -> str:
        if error := next(tries):
            raise error
        return "written"

    assert persist(write) == "written" and slept == [1, 2] and "x could not be written (No space" in caplog.text


def test_what_waiting_does_not_help_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.files.time.sleep", lambda _: pytest.fail("it waited"))

    def write() -> None:
        raise refusal("x", OSError(errno.EROFS, "Read-only file system"))

    with pytest.raises(SaveError, match="Read-only"):
        persist(write)
    assert not best_effort(write)


def test_only_what_no_process_writes_any_more_is_swept_from_a_shared_folder(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {f".a.json.{files.HOST}-{gone.pid}.tmp", f".b.json.{files.HOST}-{os.getpid()}.tmp", ".c.json.other-1.tmp"}
    names.add(".x.tmp")  # another program's
    for name in [*names, ".d.json.other-1.tmp"]:
        (tmp_path / name).touch()
    os.utime(tmp_path / ".d.json.other-1.tmp", (0, 0))
    remove_temporary(tmp_path, shared=True)
    assert {path.name for path in tmp_path.iterdir()} == names - {f".a.json.{files.HOST}-{gone.pid}.tmp"}
    remove_temporary(tmp_path)
    assert not list(tmp_path.iterdir())


def test_folders_of_killed_commands_are_swept_and_one_that_cannot_be_made_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"{failures.FAILURES_PREFIX}{gone.pid}").mkdir()
    with failures.collected_failures() as noted:
        assert [path.name for path in tmp_path.iterdir()] == [f"{failures.FAILURES_PREFIX}{os.getpid()}"]
        os.rmdir(tmp_path / f"{failures.FAILURES_PREFIX}{os.getpid()}")
        failures.note_failure(1, "seed=1", "x")
    assert noted == [{"code": 1, "what": "seed=1", "why": "x"}] and not list(tmp_path.iterdir())


def test_a_failure_of_which_a_full_disk_took_half_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(failures.VARIABLE, str(tmp_path / "failures.jsonl"))
    (tmp_path / "failures.jsonl").write_text('{"code": 1, "what": "se')
    failures.note_failure(2, "seed=2", "y")
    assert failures.read_failures(tmp_path / "failures.jsonl") == [{"code": 2, "what": "seed=2", "why": "y"}]


def test_a_full_disk_at_the_start_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, _: bytes) -> None:
            raise FULL

    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: Full())  # noqa: A002
    monkeypatch.setattr(cli, "read_command", lambda _: check_output(tmp_path))
    monkeypatch.setattr("sys.argv", ["distill"])
    assert cli.main([]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{tmp_path} could not be written (No space left on device): free some" in said


def test_a_folder_in_a_files_place_is_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()
    with pytest.raises(SaveError, match=r"result\.json could not be written \(Is a directory\): remove the folder"):
        write_text(tmp_path / "result.json", "x")
