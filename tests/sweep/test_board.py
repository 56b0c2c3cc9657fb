"""What a terminal shows of running runs, and what a narrow one leaves out."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.record.progress import Progress
from distill.record.screen import aligned, bar, fitting
from distill.sweep.board import Board, RunProgress
from distill.sweep.jobs import Job


def test_fields_are_dropped_from_the_right() -> None:
    assert fitting(["epoch 1/2", "0:10 left", "", "50.00 %"], 20) == "epoch 1/2  0:10 left"
    assert fitting(["epoch 1/2", "0:10 left", "", "50.00 %"], 29) == "epoch 1/2  0:10 left  50.00 %"
    assert fitting(["a name that is long"], 6) == "a name"


def test_lines_drop_the_same_columns() -> None:
    rows = [["epoch 1/2", "0:10 left", "x"], ["epoch 10/20", "10:00:00 left", "y"]]
    assert aligned(rows, 26) == ["epoch 1/2    0:10 left", "epoch 10/20  10:00:00 left"]
    assert aligned(rows, 30)[0].endswith("x")


@pytest.mark.parametrize(("share", "full"), [(-1, 0), (0.5, 10), (1.2, 20)])
def test_a_bar_is_as_long_as_what_is_done(share: float, full: int) -> None:
    assert bar(share) == "━" * full + "╌" * (20 - full)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_run_keeps_epoch_and_time_left_in_every_width(width: int) -> None:
    progress = Progress(240, 10, quiet=True)
    progress.epoch_start("distill", 12, 240)
    progress.done = 11
    progress.update(5, 1.821, 89.1, 5210.0)
    progress._seen |= {"test_accuracy": 92.5, "best_accuracy": 92.6}
    line = progress.line(width)
    assert line.startswith("distill epoch 12/240  0:00 left") and len(line) <= width
    assert ("test 92.50 %" in line, "images/s" in line) == (width >= 60, width == 200)


@pytest.mark.parametrize(
    ("width", "begin"),
    [(45, "initialise epoch 3/9  -:-- left"), (25, "epoch 3/9  -:-- left"), (16, "3/9  -:-- left")],
)
def test_a_long_phase_gives_way_to_the_time_left(width: int, begin: str) -> None:
    progress = Progress(9, 10, quiet=True)
    progress.epoch_start("initialise", 3, 9)
    assert progress.line(width) == begin


# ---------------------------------------------------------------- sweeps


def job(folder: Path, name: str, epochs: int, started: float, of: int = 10) -> Job:
    """A running job whose metrics.jsonl has so many epochs."""
    one = Job(name, [], [], folder / name, attempts=1, started=started, running=True)
    one.folder.mkdir()
    rows = [{"kind": "step", "epoch": 1, "step": 1, "loss": 1.0}]
    rows += [epoch(e, of, test_accuracy=50.0 + e) for e in range(1, epochs + 1)]
    write(one, "".join(json.dumps(row) + "\n" for row in rows))
    return one


def epoch(number: int, of: int = 10, **more: float) -> dict[str, Any]:
    """The row of an epoch of 20 steps."""
    return {"kind": "epoch", "phase": "distill", "epoch": number, "epochs": of, "step": 20 * number, **more}


def write(one: Job, text: str) -> None:
    with open(one.folder / "metrics.jsonl", "a") as file:
        file.write(text)


def board(*jobs: Job, ended: int = 0, more: int = 0, slots: int | None = 2) -> Board:
    waiting = [Job(f"w{number}", [], [], Path("nowhere")) for number in range(ended + more)]
    return Board(SimpleNamespace(jobs=[*jobs, *waiting], ended=ended), slots)


def test_every_running_run_has_a_line_and_the_sweep_one(tmp_path: Path) -> None:
    now = time.time()
    shown = board(job(tmp_path, "a", 5, now - 50), job(tmp_path, "b", 0, now - 3), ended=1, more=2)
    first, second, whole = shown.lines(120)
    assert first.split() == ["epoch", "5/10", "0:50", "left", "55.00", "%", "━━━━━╌╌╌╌╌", "a"]
    assert second.startswith("starting, 0:03  -:-- left") and second.endswith("b")
    # a: 50 s to go, b and the two that wait: 100 s each; two at a time
    assert whole.startswith("sweep 1/5 ended  2:55 left")


def test_a_narrow_terminal_keeps_epoch_and_time_left(tmp_path: Path) -> None:
    shown = board(job(tmp_path, "method=a_long_name", 5, time.time() - 50)).lines(24)
    assert shown == ["epoch 5/10  0:50 left", "sweep 0/1 ended"]


def test_what_is_appended_is_read_on_and_half_a_line_waits(tmp_path: Path) -> None:
    one = RunProgress(job(tmp_path, "a", 1, time.time() - 10))
    one.poll()
    row = json.dumps(epoch(2, test_accuracy=70.0))
    write(one.job, row[:20])
    one.poll()
    assert one.epochs == 1
    write(one.job, row[20:] + "\n{not json\n")
    one.poll()
    assert (one.epochs, one.row["test_accuracy"], one.share) == (2, 70.0, 0.2)


def test_phases_that_are_still_to_come_count(tmp_path: Path) -> None:
    begun = job(tmp_path, "a", 0, time.time() - 20)
    write(begun, json.dumps(epoch(1, 2, epochs_left=9)) + "\n")
    one = RunProgress(begun)
    one.poll()
    assert one.share == 0.1 and one.left(time.time()) == pytest.approx(180, abs=2)


def test_a_resumed_run_is_timed_by_what_it_did_since(tmp_path: Path) -> None:
    begun = job(tmp_path, "a", 6, time.time() - 20)
    os.utime(begun.folder / "metrics.jsonl", (time.time() - 1000,) * 2)
    one = RunProgress(begun)
    one.poll()
    assert one.left(time.time()) is None
    write(begun, json.dumps(epoch(7)) + "\n")
    one.poll()
    assert one.left(time.time()) == pytest.approx(60, abs=2)  # three more, at 20 s each


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, which a test sets."""
    told = [10_000.0]
    monkeypatch.setattr("distill.sweep.board.time", SimpleNamespace(time=lambda: told[0]))
    return told


def test_the_files_of_many_runs_are_looked_at_seldom(tmp_path: Path, now: list[float]) -> None:
    """A queue of hundreds of jobs, and a screen that is drawn four times a second."""
    shown = board(*(job(tmp_path, f"a{number}", 1, now[0]) for number in range(200)))
    epochs = []
    for at in (0.0, 1.0, 2.0):
        now[0] = 10_000.0 + at
        shown.lines(80)
        epochs.append(shown.followed[shown.sweep.jobs[7], 1].epochs)
        if not at:
            write(shown.sweep.jobs[7], json.dumps(epoch(2)) + "\n")
    assert epochs == [1, 1, 2]


@pytest.mark.parametrize("lost", [False, True])
def test_an_epoch_that_was_begun_before_counts_by_the_steps_that_were_left_of_it(
    tmp_path: Path, now: list[float], lost: bool
) -> None:
    """lost: rows behind the checkpoint, which the run takes away as it goes on."""
    begun = job(tmp_path, "a", 6, now[0])
    metrics = begun.folder / "metrics.jsonl"
    write(begun, json.dumps({"kind": "step", "epoch": 7, "step": 135}) + "\n")
    kept = metrics.read_text()
    write(begun, json.dumps(epoch(7)) + "\n" if lost else "")
    os.utime(metrics, (1000, 1000))
    one = RunProgress(begun)
    one.poll()
    metrics.write_text(kept)
    one.poll()
    now[0] += 20
    write(begun, json.dumps(epoch(7)) + "\n")
    one.poll()
    assert one.left(now[0]) == pytest.approx(240)  # three more, a quarter of one having taken 20 s


def test_the_training_of_a_teacher_counts_for_no_epoch(tmp_path: Path, now: list[float]) -> None:
    begun = job(tmp_path, "a", 0, now[0] - 5000)
    (begun.folder / "metrics.jsonl").write_text("")
    one = RunProgress(begun)
    one.poll()
    now[0] += 20
    write(begun, json.dumps(epoch(1)) + "\n")
    one.poll()
    assert one.left(now[0]) == pytest.approx(180)


def test_what_a_run_says_before_its_first_epoch_is_shown(tmp_path: Path) -> None:
    begun = job(tmp_path, "a", 0, time.time())
    (begun.folder / "log.txt").write_text("--- python -m distill\nteacher epoch 3/240  0:10 left\n\n")
    assert board(begun).lines(120)[0].endswith("a  teacher epoch 3/240  0:10 left")


def test_as_many_runs_as_the_terminal_has_lines_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "10")
    shown = board(*(job(tmp_path, f"r{number}", number % 2, time.time()) for number in range(9)), slots=9).lines(120)
    assert [line.split()[-1] for line in shown[:4]] == ["r1", "r3", "r5", "r7"] and shown[4] == "and 5 more"


def test_a_terminal_has_its_lines_redrawn_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screens: list[SimpleNamespace] = []

    def screen(lines: Any) -> SimpleNamespace:
        screens.append(SimpleNamespace(lines=lines, closed=0))
        screens[0].close = lambda: setattr(screens[0], "closed", screens[0].closed + 1)
        return screens[0]

    monkeypatch.setattr("distill.sweep.board.Screen", screen)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with board(job(tmp_path, "a", 3, time.time())):
        assert screens[0].lines(80)[0].startswith("epoch 3/10") and not screens[0].closed
    assert screens[0].closed == 1


def test_where_there_is_no_terminal_nothing_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with board(job(tmp_path, "a", 3, time.time())) as shown:
        assert shown.screen is None
    assert capsys.readouterr().out == ""
