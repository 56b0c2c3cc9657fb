"""TensorBoard shows what metrics.jsonl holds: its event files are read back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.config.check import check
from distill.record.logger import NoLogger, make_logger
from distill.record.tracker import Tracker
from distill.run_folder import RunFolder
from tests import tiny

TENSORBOARD = {"mode": "tensorboard"}
IDENTITY = {"id": "abc-1"}


def row(step: int, kind: str = "epoch", **numbers: float | None) -> dict:
    return {"kind": kind, "phase": "distill", "epoch": step, "step": step, "loss": 1.0 / (step + 1), **numbers}


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard draws of a run: (global step, value) of each of its scalars."""
    events = EventAccumulator(str(RunFolder(folder).events)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_rows_are_scalars_over_the_global_step(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, TENSORBOARD, {"lr": 0.1}, IDENTITY)
    tracker.log(row(1, "step", waiting=None))
    tracker.log(row(3, test_accuracy=50.0))
    tracker.finish(0, {"test_accuracy/best": 50.0})
    assert shown(tmp_path) == {
        "step/loss": [(1, 0.5)], "loss": [(3, 0.25)], "epoch": [(1, 1.0), (3, 3.0)], "test_accuracy": [(3, 50.0)],
        "test_accuracy/best": [(3, 50.0)],
    }  # fmt: skip
    assert RunFolder(tmp_path).rows() == [row(1, "step", waiting=None), row(3, test_accuracy=50.0)]


@pytest.mark.parametrize(("resume_at", "steps"), [(1, [1, 3]), (None, [3])])
def test_what_was_logged_after_the_checkpoint_is_hidden(tmp_path: Path, resume_at: int | None, steps: list) -> None:
    first = Tracker(tmp_path, TENSORBOARD, {}, IDENTITY)
    for step in (1, 2):
        first.log(row(step))
    first.finish(75)
    again = Tracker(tmp_path, TENSORBOARD, {}, IDENTITY, resume_at)
    again.log(row(3))
    again.finish()
    assert [step for step, _ in shown(tmp_path)["loss"]] == steps


def test_a_killed_run_has_shown_all_that_lies_before_its_checkpoint(tmp_path: Path) -> None:
    """Events reach the disk every two minutes, checkpoints every five seconds."""
    killed = Tracker(tmp_path, TENSORBOARD, {}, IDENTITY)
    for step in (1, 2):
        killed.log(row(step))
    killed.flush()
    assert [step for step, _ in shown(tmp_path)["loss"]] == [1, 2]


def test_the_end_of_a_run_that_had_no_step_left_is_told_at_its_last_one(tmp_path: Path) -> None:
    Tracker(tmp_path, TENSORBOARD, {}, IDENTITY, 7).finish(0, {"test_accuracy/last": 50.0})
    assert shown(tmp_path)["test_accuracy/last"] == [(7, 50.0)]


def test_a_disk_that_is_full_ends_the_mirror_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(tmp_path, TENSORBOARD, {}, IDENTITY)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    tracker.logger.writer.add_scalar = full
    for step in (1, 2):
        tracker.log(row(step))
    tracker.finish()
    assert RunFolder(tmp_path).rows() == [row(1), row(2)]
    assert [record.getMessage() for record in caplog.records] == [
        "TensorBoard failed ([Errno 28] No space left on device): going on without it, metrics.jsonl has all rows"
    ]


def test_where_it_is_not_installed_the_remedy_is_said_before_anything_is_trained(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ValueError, match="wants the package tensorboard: `pip install tensorboard`, or tracking=off"):
        check(tiny.composed("tracking=tensorboard"))
    with pytest.raises(ValueError, match="cannot be imported .*: run `pip install tensorboard`, or take tracking=off"):
        make_logger(tmp_path, TENSORBOARD, {}, {}, resume_at=None)


def test_a_bare_off_of_yaml_is_off(tmp_path: Path) -> None:
    assert isinstance(make_logger(tmp_path, {"mode": False}, {}, {}, resume_at=None), NoLogger)
