"""distill status: runs in each state, how far they have come, and the commands that go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from distill import row_lines
from distill.__main__ import main
from distill.run_folder import RunFolder
from distill.sweep.states import statuses

RESULT = {"dataset": "digits", "student": "resnet8", "method": "kd", "seed": 1}


def begun(folder: Path, epochs: int, **tracking: Any) -> Path:
    """A folder as a run of 20 epochs leaves it that was killed after some."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "step-000000007.ckpt").touch()
    rows = [
        {"kind": "epoch", "phase": "distill", "epoch": epoch, "epochs": 20, "step": 10 * epoch, "test_accuracy": 80.5}
        for epoch in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "ep')
    (folder / "tracking.json").write_text(json.dumps({"config": {}, **tracking}))
    return folder


def finished(folder: Path, last: float) -> Path:
    begun(folder, 20)
    shutil.rmtree(folder / "checkpoints")
    accuracy = {"last": last, "best": last, "best_epoch": 20}
    (folder / "result.json").write_text(json.dumps(RESULT | {"accuracy": accuracy}))
    (folder / "DONE").touch()
    return folder


def attempt(folder: Path, code: int, why: str = "", where: str = "") -> str:
    """A line of sweep.jsonl; where: the output folder, as it was called when the sweep ran."""
    name = str(Path(where, *folder.parts[-4:]) if where else folder)
    command = f"python -m distill method=kd {folder.name.replace('s', 'seed=')}"
    return json.dumps({"folder": name, "code": code, "why": why, "outcome": "x", "command": command}) + "\n"


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """One run in each state, and another that a signal stopped within a sweep."""
    runs = tmp_path / "outputs" / "digits" / "resnet14-resnet8" / "kd-0123abcd"
    finished(runs / "s1", 91.25)
    begun(runs / "s2", 3)
    begun(runs / "s3", 2, command="python -m distill method=kd seed=3 'dataset.omit=[1, 2]'")
    failed = begun(runs / "s4", 1)
    stopped = begun(runs / "s5", 0)
    lines = [attempt(runs / "s3", 3, "earlier"), attempt(runs / "s3", -9), attempt(runs / "s3", 130)]
    lines += [attempt(failed, 1, "out of memory"), attempt(failed, 3, "ce is NaN at step 13", "/gone/outputs")]
    (tmp_path / "outputs" / "sweep.jsonl").write_text("".join(lines) + attempt(stopped, 75) + '{"folder"')
    with FileLock(runs / "s2" / ".lock"):
        yield tmp_path / "outputs"


def test_a_run_of_each_state(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(output)]) == 0
    below = "digits/resnet14-resnet8/kd-0123abcd"
    assert capsys.readouterr().out.splitlines()[:6] == [
        f"done     {below}/s1  epoch 20 of 20  91.25 %",
        f"running  {below}/s2  epoch 3 of 20   80.50 %",
        f"cut off  {below}/s3  epoch 2 of 20   80.50 %",
        f"cut off  {below}/s5  epoch 0",
        f"failed   {below}/s4  epoch 1 of 20   80.50 %  ce is NaN at step 13",
        "5 runs: 1 done, 1 running, 2 cut off, 1 failed",
    ]


def test_what_was_begun_again_after_it_failed_is_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "digits" / "resnet14-resnet8" / "kd-0123abcd"
    for seed, minute in ((1, "05"), (2, "25")):
        begun(runs / f"s{seed}", 1, begun=f"2026-11-27T10:{minute}:00+00:00")
    lines = [json.loads(attempt(runs / f"s{seed}", 1, "out of memory")) for seed in (1, 2)]
    ended = {"time": "2026-11-27T10:15:00+00:00"}
    (tmp_path / "sweep.jsonl").write_text("".join(json.dumps(line | ended) + "\n" for line in lines))
    assert main(["status", str(tmp_path)]) == 0
    found = capsys.readouterr().out.splitlines()[:2]
    assert [line.split()[0] for line in found] == ["cut", "failed"] and "out of memory" in found[1]


def test_the_commands_that_go_on_come_last(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(output)]) == 0
    shown = capsys.readouterr().out.partition("These go on")[2].splitlines()[1:]
    assert shown == [f"python -m distill method=kd seed={seed}" for seed in (3, 5, 4)]


def test_a_run_alone_goes_on_with_the_command_that_began_it(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (output / "sweep.jsonl").unlink()
    assert main(["status", str(output / "digits" / "resnet14-resnet8"), "--only", "cut-off"]) == 0
    shown = capsys.readouterr().out
    assert "python -m distill method=kd seed=3 'dataset.omit=[1, 2]'\n" in shown
    assert "How 2 of them began is not recorded" in shown and "3 runs: 3 cut off" in shown


def test_a_part_of_the_output_knows_its_sweeps_failures(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(output / "digits"), "--only", "failed"]) == 0
    assert "ce is NaN at step 13" in capsys.readouterr().out


def test_a_damaged_result_is_a_failure_with_its_remedy(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(output.glob("*/*/*/s1/result.json")).write_text("{")
    assert main(["status", str(output), "--only", "failed"]) == 0
    assert "result.json is damaged (" in capsys.readouterr().out


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("distill: there is no folder")


def test_a_teacher_that_is_kept_is_no_run(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = output / "teachers" / "resnet20-0123abcd-s0"
    kept.mkdir(parents=True)
    (kept / "result.json").write_text(json.dumps(RESULT | {"accuracy": {"last": 90.0}}))
    assert main(["status", str(output)]) == 0
    assert "resnet20" not in capsys.readouterr().out


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "0 runs\n"


def test_of_a_long_run_only_the_last_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of 1,000 runs of 240 epochs has two million rows."""
    read: list[Any] = []
    parse = row_lines.parse_json
    monkeypatch.setattr(row_lines, "parse_json", lambda text: (read.append(text), parse(text))[1])
    begun(tmp_path / "d" / "t-s" / "m-1" / "s1", 240)
    (one,) = statuses(tmp_path)
    assert (one.epoch, one.accuracy) == ("epoch 240 of 20", 80.5) and len(read) < 20
    with open(tmp_path / "d" / "t-s" / "m-1" / "s1" / "metrics.jsonl", "a") as file:
        file.write('\n' + json.dumps({"kind": "epoch", "phase": "tune", "epoch": 1, "epochs": 2, "step": 1}) + "\n")
    (one,) = statuses(tmp_path)
    assert (one.epoch, one.accuracy) == ("epoch 1 of 2 of phase tune", 80.5)


def test_what_a_search_stopped_early_is_not_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun(tmp_path / "d" / "t-s" / "m-1" / "s1", 3, command="python -m distill method=kd")
    RunFolder(folder).give_up()
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "stopped early  d/t-s/m-1/s1  epoch 3 of 20" in shown and "1 run: 1 stopped early" in shown
    assert "python -m distill" not in shown and RunFolder(folder).command == "python -m distill method=kd"
