"""Stop signals: training saves first, anything else is left at once, and a launcher hears of each of them."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from distill import errors, signals
from distill.cli import main as cli
from distill.data.folder import FolderSplit, in_order, loader
from tests import tiny


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals that a launcher's own handler of USR2 was called with."""
    told: list[int] = []
    old = signal.signal(signal.SIGUSR2, lambda number, _: told.append(number))
    yield told
    signal.signal(signal.SIGUSR2, old)


def send(number: int = signal.SIGUSR2) -> None:
    os.kill(os.getpid(), number)


def test_what_can_be_left_is_left_where_the_signal_comes() -> None:
    with pytest.raises(errors.Stopped, match="SIGTERM") as stop, signals.StopSignals(at_once=True):
        send(signal.SIGTERM)
        pytest.fail("it went on")
    assert stop.value.code == errors.STOPPED


def test_a_block_that_holds_is_finished_first() -> None:
    done = []
    with pytest.raises(errors.Stopped), signals.StopSignals(at_once=True) as stop:
        with signals.deferred():
            send()
            done.append(stop.received)
        pytest.fail("it went on")
    assert done == [signal.SIGUSR2]


@pytest.mark.parametrize("others", [0, 1])
def test_a_measurement_within_training_is_left_unless_other_runs_are_training(others: int) -> None:
    done = []
    with pytest.raises(errors.Stopped), signals.StopSignals(at_once=True), ExitStack() as training:
        for _ in range(1 + others):
            training.enter_context(signals.deferred())
        with signals.interruptible():
            send()
            done.append("went on")
    assert len(done) == others


def test_a_signal_in_a_teachers_own_run_reaches_the_launcher(heard: list[int]) -> None:
    with pytest.raises(errors.Stopped), signals.StopSignals(at_once=True), signals.StopSignals(at_once=True):
        send()
    assert signals.call_previous_handler() and heard == [signal.SIGUSR2] and not signals.call_previous_handler()


def test_a_run_that_waits_for_another_can_be_stopped(tmp_path: Path) -> None:
    from distill.locking import run_lock

    with open(tmp_path / ".lock", "w") as file, signals.StopSignals(at_once=True), pytest.raises(errors.Stopped):
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process would
        timer = threading.Timer(0.2, send, (signal.SIGTERM,))
        timer.start()
        with run_lock(tmp_path):
            pytest.fail("it had the lock")


@pytest.mark.parametrize("locked", ["run", "file"])
def test_who_holds_a_lock_that_the_file_system_does_not_know_is_named(
    locked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There a node that died holds it for good: a run that went on waited without a word of what for."""
    from distill.file_lock import file_lock
    from distill.locking import run_lock

    def no_flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_flock)
    lock = tmp_path / ".lock"
    lock.write_text("4711\nnode42\n")
    caplog.set_level("INFO")
    threading.Timer(0.3, lock.unlink).start()
    with (
        pytest.warns(UserWarning, match="flock not supported"),
        run_lock(tmp_path) if locked == "run" else file_lock(lock, 0.0),
    ):
        assert lock.exists()
    assert f"process 4711 of node42; where that is no more, delete {lock}" in caplog.text
    assert not lock.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR2, 75), (signal.SIGINT, 130)])
def test_a_signal_while_the_command_is_read_is_no_usage_error(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor where a library makes an error of its own of being cut off."""

    def cut_off(_: object) -> None:
        try:
            send(number)
        except errors.Stopped:
            raise SystemError("error return without exception set") from None

    before = signal.getsignal(number)
    monkeypatch.setattr("sys.argv", ["distill"])
    monkeypatch.setattr(cli, "read_command", cut_off)
    assert cli.main([]) == code
    assert capsys.readouterr().err == f"distill: stopped by {signal.Signals(number).name}: " \
        "the same command goes on\n"  # fmt: skip
    assert signal.getsignal(number) is before and not signals.call_previous_handler()


def test_a_signal_to_all_processes_of_a_job_leaves_its_workers_at_work(tmp_path: Path) -> None:
    """As Slurm and `timeout` send it: a worker that ends of it ends the run, which is to save its step."""
    paths = [str(tmp_path / f"{k}.png") for k in range(12)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    info = replace(tiny.tiny_data().info, size=8)
    split = FolderSplit(paths, None, workers=1, device=torch.device("cpu"))
    batches = iter(loader(split, info, False, in_order(12, 1)))
    next(batches)
    (worker,) = batches._workers  # type: ignore[attr-defined]
    for number in ("TERM", "INT", "USR1", "USR2"):
        subprocess.run(["kill", f"-{number}", str(worker.pid)], check=True)  # not by the process that started it
    assert len([next(batches) for _ in range(10)]) == 10 and worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_an_epoch_cut_off_while_it_is_measured_is_measured_again_and_no_more(tmp_path: Path) -> None:
    data, ended = tiny.tiny_data(), []

    def made() -> tuple[object, object]:
        method = tiny.seeded_method("kd", data)
        method.after_epoch = lambda: ended.append(fit.at.epoch)  # type: ignore[method-assign]
        fit = tiny.fit(method, data, tmp_path)
        return fit, fit.evaluate

    fit, measure = made()
    fit.evaluate = lambda net: send() or measure(net)
    with pytest.raises(errors.Stopped), signals.StopSignals(at_once=True) as fit.stop:
        for _ in fit.steps():
            pass
    again, _ = made()
    assert again.restore() == 3 and again.at.over and ended == [1]
    for _ in again.steps():
        pass
    assert ended == [1, 2] and [row["epoch"] for row in again.callback.rows] == [1, 2]


def test_a_signal_is_listened_to_before_anything_large_is_imported() -> None:
    code = "import sys, distill.__main__; print(sorted({'omegaconf', 'hydra', 'torch', 'numpy'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
