"""What commands for a GPU leave where their limit comes first, and that their dry runs take the lines they are to."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_graphs import trained
from tests.replay import Replay, Stream, streams

GPU = Path(__file__).resolve().parents[2] / "scripts" / "gpu"
TESTS = """
import time

def test_passes():
    assert True

def test_fails_in_ours():
    from distill.files import replacing
    with replacing("/proc/no/such/folder"):
        pass

def test_hangs():
    time.sleep(600)
"""


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, GPU / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The exit code, and what is left, of a check whose limit comes when its third test hangs."""
    folder, ends = tmp_path_factory.mktemp("check"), subprocess.Popen.wait
    (folder / "test_there.py").write_text(TESTS)

    def until_it_hangs(process: Any, timeout: float | None = None) -> int:
        while timeout is not None and process.poll() is None:
            running = folder / "running.json"
            if running.exists() and "test_hangs" in running.read_text():
                raise subprocess.TimeoutExpired("check", timeout)
            time.sleep(0.02)
        return ends(process, timeout)

    words = ["check.py", "--workers", "1", "--out", str(folder), "--tests", str(folder / "test_there.py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "wait", until_it_hangs)
        patch.setattr(sys, "argv", words)
        patch.setattr("signal.signal", lambda *_: None)
        yield script("check").main(), folder


def test_a_check_that_is_cut_off_says_so_and_ends_what_runs(left: tuple[int, Path]) -> None:
    code, folder = left
    assert code == 124 and not (folder / "running.json").exists()
    cut = (folder / "failures.md").read_text().split("Cut off after 110 s")[1]
    assert "test_hangs" in cut and "test_passes" not in cut


def test_what_was_known_before_is_kept_with_the_error_and_the_place_in_ours(left: tuple[int, Path]) -> None:
    rows = [json.loads(line) for line in (left[1] / "tests.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["passed", "failed"]
    assert rows[1]["error"].startswith("FileNotFoundError: ") and rows[1]["frame"].startswith("distill/files.py:")
    page = (left[1] / "failures.md").read_text()
    assert rows[1]["error"] in page and rows[1]["frame"] in page and rows[1]["test"] in page


def test_the_error_is_the_first_that_came_by_a_line_of_ours() -> None:
    text = """/usr/lib/os.py:3: in mkdir\nE   OSError: no\n\nDuring handling of the above exception, ...:
distill/a.py:1: in f\n/usr/lib/os.py:3: in mkdir\nE   KeyError: 'x'\nE     more of it\n
The above exception was the direct ...:\ntests/t.py:3: in g\ndistill/b.py:2: in g\nE   ValueError: y"""
    told = script("check").told
    assert told(text) == {"error": "KeyError: 'x'", "frame": "distill/a.py:1"}
    assert told("worker 'gw0' crashed") == {"error": "worker 'gw0' crashed", "frame": "none of ours"}


def test_a_rehearsal_has_streams_that_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = trained("kd", tmp_path / "plain", Replay, 2)
    with streams():
        beside, (step,) = trained("kd", tmp_path / "beside", Replay, 2)
        assert step.replayed and isinstance(step.stream, Stream)
        monkeypatch.setattr(Stream, "wait_stream", lambda self, other: None)
        with pytest.raises(AssertionError, match="another stream may still write"):
            trained("kd", tmp_path / "early", Replay, 2)
    assert [row["loss"] for row in plain.callback.rows] == [row["loss"] for row in beside.callback.rows]  # type: ignore[attr-defined]


class Sweep:
    """Runs that write a row and a checkpoint in each wait, and end once they were asked as often as it takes."""

    def __init__(self, folder: Path, *, deaf: bool) -> None:
        self.folder, self.deaf, self.asked, self.rows = folder, deaf, list[str](), 0

    def wait(self, timeout: float | None = None) -> int:
        self.rows += 1
        (self.folder / f"step-{self.rows}.ckpt").write_text("state")
        (self.folder / "metrics.jsonl").write_text('{"test_accuracy": 1}\n' * self.rows)
        if "KILL" in self.asked or ("TERM" in self.asked and not self.deaf):
            return 75
        assert timeout is not None
        time.sleep(timeout)
        raise subprocess.TimeoutExpired("sweep", timeout)

    def send_signal(self, number: int) -> None:
        self.asked.append("TERM")

    def kill(self) -> None:
        self.asked.append("KILL")


def test_what_is_too_much_to_come_back_costs_the_largest_files_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence, folder, out = script("evidence"), tmp_path / "runs", tmp_path / "out"
    out.mkdir()
    evidence.PIECE, sizes = 10_000, {"crd/step-1.ckpt": 30_000, "kd/step-1.ckpt": 12_000, "kd/metrics.jsonl": 100}
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"0" * size)
    evidence.unpack(evidence.pack(folder, out), tmp_path / "again")
    there = {str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*.*")}
    assert there == {"kd/step-1.ckpt", "kd/metrics.jsonl"} and len(list(out.iterdir())) <= evidence.PIECES
    assert capsys.readouterr().out == "left out, 0 MiB: crd/step-1.ckpt\n"


@pytest.mark.parametrize("deaf", [False, True])
def test_evidence_is_packed_on_the_way_and_when_runs_do_not_stop(deaf: bool, tmp_path: Path) -> None:
    evidence, folder, out = script("evidence"), tmp_path / "runs", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    (out / "evidence.tar.07").write_text("of an earlier archive, which was longer")
    sweep, packed = Sweep(folder, deaf=deaf), []
    kept = evidence.pack
    evidence.pack = lambda *where: packed.append(kept(*where))
    limits = argparse.Namespace(limit=0.05, every=0.02, grace=0.01, folder=folder, out=out)
    assert evidence.carried_out(sweep, limits) == 75 and sweep.asked == ["TERM", "KILL"][: 1 + deaf]
    assert packed and all(pieces == [out / "evidence.tar.00"] for pieces in packed)
    assert not (out / "evidence.tar.07").exists()
    evidence.unpack(packed[-1], tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.ckpt"))) == 1  # the newest
    assert (tmp_path / "again" / "metrics.jsonl").read_text().count("\n") >= 1
