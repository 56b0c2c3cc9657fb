"""The time in which training waits for data: measured where files are read, shown where it is long."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distill.data import load_data
from distill.data.pairs import PeerViews
from distill.data.tasks import ClassSource
from distill.data.waiting import WaitTimer
from distill.engine.state import Speed
from distill.parallel import PartSource
from distill.record.progress import Progress, status
from distill.record.reporter import Reporter
from tests import tiny
from tests.data.test_data import folder_config, write_folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time.perf_counter gives; tests move it on."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def arriving(clock: list[float], *seconds: float):
    """Items that take so long to come."""
    for number, wait in enumerate(seconds):
        clock[0] += wait
        yield number


def test_what_is_waited_counts_and_what_is_computed_does_not(clock: list[float]) -> None:
    waits = WaitTimer(torch.device("cpu"))
    for _ in waits.during(arriving(clock, 1.0, 2.0, 0.5)):
        clock[0] += 10
    assert (waits.take(), waits.take()) == (3.5, 0.0)
    next(waits.during(arriving(clock, 4.0)))
    waits.begin()
    assert waits.take() == 0.0


@pytest.mark.parametrize("aside", [False, True])
def test_a_gpu_that_still_computes_waits_for_nothing(clock: list[float], aside: bool, monkeypatch) -> None:
    """Events are reached when their stream is done with what came before: the host's wait counts from then on."""
    here, there = SimpleNamespace(done=0.0), SimpleNamespace(done=0.0)

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: SimpleNamespace) -> None:
            self.at = max(clock[0], stream.done)

        def elapsed_time(self, end: Event) -> float:
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here)
    waits = WaitTimer(torch.device("cuda"))
    waits.begin(there if aside else None)
    for busy in waits.during(arriving(clock, 5.0, 5.0, 5.0)):
        (there if aside else here).done = clock[0] + (3.0, 20.0, 0.0)[busy]
    assert waits.take() == pytest.approx(5.0 + 2.0 + 0.0)


def test_speed_tells_the_share_of_the_run_and_of_the_last_stretch(clock: list[float]) -> None:
    waits, speed = WaitTimer(torch.device("cpu")), Speed()
    speed.resume(SimpleNamespace(waits=waits))
    told = []
    for _ in waits.during(arriving(clock, 8.0, 1.0, 3.0)):  # the first, in which workers start, is left out
        clock[0] += 2
        speed.read(images=12)
        told.append((speed.to_row()["waiting"], speed.to_row(lately=True)["waiting"]))
    assert told == [(None, 0.8), (1 / 3, 1 / 3), (0.5, 0.6)]
    assert speed.to_row() == {"images_per_second": 24 / 8, "waiting": 0.5}
    speed.resume(tiny.tiny_data().source(batch_size=8, seed=1))
    assert speed.to_row() == {"images_per_second": 3.0} and speed.waiting is None


def test_whatever_wraps_a_folder_tells_its_waiting(tmp_path: Path) -> None:
    source = load_data(folder_config(write_folder(tmp_path))).source(4, seed=1)
    peers, cats = PeerViews(source, 2), ClassSource(source, [0])
    for wrapped, steps, loads in ((source, 3, 3), (PartSource(source), 3, 3), (peers, 3, 9), (cats, 1, 1)):
        wrapped.waits.begin()
        assert len(list(wrapped.epoch(1))) == steps
        assert len(wrapped.waits._marks) == loads and wrapped.waits.take() > 0


def test_only_a_share_that_matters_is_shown(capsys) -> None:
    assert status({"loss": 1.0, "waiting": 0.049}) == status({"loss": 1.0, "waiting": None}) == "loss 1.000"
    progress = Progress(2, 10, quiet=False)
    progress.epoch_start("distill", 1, 2)
    progress.update(5, 0.6, 80.0, 100.0, 0.5)
    progress.epoch_end({"loss": 0.5, "waiting": 0.314})
    assert "waiting for data 31%" in capsys.readouterr().out


def test_a_long_wait_is_warned_of_once(tmp_path: Path, caplog) -> None:
    reporter = Reporter(tmp_path, quiet=True)
    reporter.progress, reporter.tracker = Progress(4, 1, True), SimpleNamespace(log=lambda row: None)
    for waiting in (None, 0.2, 0.43, 0.6):
        reporter.epoch({"loss": 1.0, "waiting": waiting})
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said.startswith("43 % of the time") and "dataset.workers=" in said


def test_of_torchruns_processes_each_is_advised_to_use_its_own_processors(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr("distill.cores.cores", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    reporter = Reporter(tmp_path, quiet=True)
    reporter.progress, reporter.tracker = Progress(4, 1, True), SimpleNamespace(log=lambda row: None)
    reporter.epoch({"loss": 1.0, "waiting": 0.6})
    assert "dataset.workers=, up to 4," in caplog.text
