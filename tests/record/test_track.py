"""metrics.jsonl is the truth; W&B may be missing, refused, silent or broken and training goes on."""

from __future__ import annotations

import json
import logging
import os
import pty
import runpy
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from distill.files import SaveError, read_json
from distill.record import wandb_logger
from distill.record.progress import Progress, clock, final_table, status
from distill.record.replay import replay
from distill.record.tracker import Tracker
from distill.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = {
    "group": "digits/kd",
    "id": "abc-1",
    "name": "kd-a-b-s1",
    "job_type": "distill",
    "tags": ["kd", "a", "b"],
}
OFF = {"mode": "off", "project": "distill", "entity": None}
OFFLINE, ONLINE = OFF | {"mode": "offline"}, OFF | {"mode": "online"}


def row(step: int, kind: str = "epoch", **numbers) -> dict:
    return {
        "kind": kind,
        "phase": "distill",
        "epoch": step,
        "step": step,
        "loss": 1.0 / (step + 1),
        **numbers,
    }


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """The package, away from the user's home, key and server, and without its system statistics."""
    package = pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    for name, value in {
        "HOME": tmp_path,
        "WANDB_DATA_DIR": tmp_path / "data",
        "WANDB_CACHE_DIR": tmp_path / "cache",
        "WANDB_CONFIG_DIR": tmp_path / "config",
        "WANDB__DISABLE_STATS": "true",
        "WANDB__DISABLE_META": "true",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
    }.items():
        monkeypatch.setenv(name, str(value))
    package.teardown()
    yield package
    package.teardown()


# --- metrics.jsonl


def test_each_row_is_on_disk_at_once_and_is_json(tmp_path):
    tracker = Tracker(tmp_path / "run", OFF, {}, IDENTITY)
    tracker.log(row(1, accuracy=torch.tensor(0.5), bad=float("nan"), losses={"ce": float("inf"), "kd": 2}))
    line = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert json.loads(line) == row(1) | {"accuracy": 0.5, "bad": None, "losses": {"ce": None, "kd": 2}}
    assert line.endswith("\n") and "NaN" not in line
    tracker.finish()
    tracker.finish()


def test_a_resume_drops_the_rows_after_the_checkpoint(tmp_path):
    first = Tracker(tmp_path, OFF, {}, IDENTITY)
    for step in range(1, 6):
        first.log(row(step))
    with open(tmp_path / "metrics.jsonl", "a") as file:  # killed in the middle of a write
        file.write('{"kind": "epoch", "step": 6, "lo')
    assert [r["step"] for r in RunFolder(tmp_path).rows()] == [1, 2, 3, 4, 5]
    again = Tracker(tmp_path, OFF, {}, IDENTITY, resume_at=3)
    assert RunFolder(tmp_path).rows() == [row(1), row(2), row(3)]
    again.log(row(3))  # the kill came between the row and the checkpoint
    again.log(row(4))
    again.finish()
    assert RunFolder(tmp_path).rows() == [row(1), row(2), row(3), row(4)]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_run_notes_the_command_that_began_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["distill", "method=kd", "dataset.omit=[1, 2]"])
    Tracker(tmp_path, OFF, {}, IDENTITY).finish()
    assert RunFolder(tmp_path).command == "python -m distill method=kd 'dataset.omit=[1, 2]'"


def test_a_run_that_starts_anew_forgets_the_old_rows(tmp_path):
    Tracker(tmp_path, OFF, {}, IDENTITY).log(row(1))
    Tracker(tmp_path, OFF, {}, IDENTITY).log(row(2))
    assert RunFolder(tmp_path).rows() == [row(2)]
    Tracker(tmp_path, OFF, {}, IDENTITY, resume_at=0)
    assert RunFolder(tmp_path).rows() == []


def test_a_full_disk_keeps_rows_for_later(tmp_path, caplog):
    tracker = Tracker(tmp_path, OFF, {}, IDENTITY)
    real = tracker._rows._file

    class Full:
        closed, room, fileno = False, 10, real.fileno

        def write(self, data):
            if not self.room:
                raise OSError(28, "No space left on device")
            written, self.room = real.write(data[: self.room]), 0
            return written

    tracker._rows._file = Full()
    for step in (1, 2):
        tracker.log(row(step))
    assert len(caplog.records) == 1 and "No space left" in caplog.text
    with pytest.raises(SaveError, match="No space left"):  # which keeps a checkpoint from being ahead of its rows
        tracker.flush()
    tracker._rows._file = real
    tracker.log(row(3))
    tracker.finish()
    assert RunFolder(tmp_path).rows() == [row(1), row(2), row(3)]


def test_rows_that_are_deleted_or_cut_in_mid_run_are_said_to_be(tmp_path, caplog):
    tracker = Tracker(tmp_path / "run", OFF, {}, IDENTITY)
    tracker.log(row(1))
    shutil.rmtree(tmp_path / "run")
    tracker.log(row(2))
    assert RunFolder(tmp_path / "run").rows() == [row(1), row(2)] and "was deleted or replaced" in caplog.text
    os.truncate(tmp_path / "run" / "metrics.jsonl", 0)
    for step in (3, 4):
        tracker.log(row(step))
    assert RunFolder(tmp_path / "run").rows() == [row(3), row(4)]
    assert len(caplog.records) == 2 and "rows are missing" in caplog.records[1].message


# --- the configuration


def test_the_config_files_ask_for_what_their_names_say():
    modes = {path.stem: OmegaConf.load(path).mode for path in (ROOT / "conf" / "tracking").glob("*.yaml")}
    assert modes == {"wandb": "online", "offline": "offline", "tensorboard": "tensorboard", "off": "off"}


def test_an_unknown_mode_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match="tracking.mode is 'onlin': take one of online, offline, tensorboard, off"):
        Tracker(tmp_path, OFF | {"mode": "onlin"}, {}, IDENTITY)


@pytest.mark.parametrize(
    ("mode", "asked", "expected"),
    [
        ("online", "offline", "offline"),
        ("online", "disabled", "off"),
        ("offline", "online", "offline"),
        ("off", "online", "off"),
        ("online", "", "online"),
    ],
)
def test_the_environment_may_only_ask_for_less(monkeypatch, mode, asked, expected):
    monkeypatch.setenv("WANDB_MODE", asked)
    assert wandb_logger._mode(mode) == expected


def test_off_imports_neither_wandb_nor_torch(tmp_path):
    code = f"""
import sys
from distill.record.tracker import Tracker
tracker = Tracker({str(tmp_path)!r}, {OFF!r}, {{"a": 1}}, {IDENTITY!r})
tracker.log({row(1)!r}); tracker.finish(0, {{"accuracy": {{"last": 1.0}}}})
import distill.record.progress
print([name for name in ("wandb", "torch", "rich") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]" and RunFolder(tmp_path).rows() == [row(1)]


@pytest.mark.parametrize("mode", [ONLINE, OFFLINE])
def test_a_missing_package_says_how_to_get_it_and_keeps_the_rows(tmp_path, monkeypatch, mode):
    Tracker(tmp_path, OFF, {}, IDENTITY).log(row(1))
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(ValueError, match="pip install wandb"):
        Tracker(tmp_path, mode, {}, IDENTITY)
    assert RunFolder(tmp_path).rows() == [row(1)]


# --- W&B


def test_offline_runs_are_written_one_for_each_tracker(tmp_path, wandb):
    for number in (1, 2):
        tracker = Tracker(tmp_path / str(number), OFFLINE, {"lr": 0.1}, IDENTITY | {"id": f"abc-{number}"})
        run = tracker.logger.run
        assert run.id.startswith(f"abc-{number}-")
        assert (run.group, run.job_type, run.name, tuple(run.tags)) == (
            "digits/kd",
            "distill",
            "kd-a-b-s1",
            ("kd", "a", "b"),
        )
        assert run.config["lr"] == 0.1
        tracker.log(row(1, "step", losses={"ce": 1.5}))
        tracker.log(row(1, accuracy=70.0, bad=float("nan")))
        tracker.log(row(2, accuracy=60.0))
        shown = dict(run.summary)  # of step 1: W&B completes a step when the next begins
        assert (shown["accuracy"], shown["step/losses/ce"], shown["step"]) == (70.0, 1.5, 1)
        assert "bad" not in shown
        tracker.finish(0, {"accuracy": {"last": 60.0, "best": 70.0}})
    wandb.teardown()  # its process writes the last records
    written = sorted(tmp_path.glob("*/wandb/offline-run-*/run-*.wandb"))
    assert [path.name[:10] for path in written] == ["run-abc-1-", "run-abc-2-"]
    for path in written:
        assert all(
            name in path.read_bytes() for name in (b"step/losses/ce", b"accuracy/last", b"accuracy/best")
        )


def test_a_tracker_that_was_never_finished_does_not_swallow_the_next(tmp_path, wandb):
    first = Tracker(tmp_path / "1", OFFLINE, {}, IDENTITY)
    second = Tracker(tmp_path / "2", OFFLINE, {}, IDENTITY | {"id": "abc-2"})
    assert first.logger.run.id.startswith("abc-1-") and second.logger.run.id.startswith("abc-2-")
    second.finish()
    first.finish()


def unreachable(monkeypatch, port: int) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("answers", [False, True])
def test_an_unreachable_server_means_an_offline_run_and_one_warning(
    tmp_path, wandb, monkeypatch, caplog, answers
):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:  # it accepts, and never says a word; otherwise it refuses
            server.listen()
        unreachable(monkeypatch, server.getsockname()[1])
        tracker = Tracker(tmp_path, ONLINE, {}, IDENTITY, init_timeout=1, finish_timeout=2)
        tracker.log(row(1))
        tracker.finish(1)
    ours = [record for record in caplog.records if record.name == "distill.record.wandb_logger"]
    assert [record.levelno for record in ours if record.levelno > logging.INFO] == [logging.WARNING]
    assert "tracking this run offline" in caplog.text
    assert len(list(tmp_path.glob("wandb/offline-run-*/run-abc-1-*.wandb"))) == 1 and RunFolder(tmp_path).rows() == [
        row(1)
    ]


class Server(BaseHTTPRequestHandler):
    """As much of a W&B server as a run needs to start."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        project = {"id": "p", "name": "distill", "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": "abc-1", "displayName": "kd", "config": "{}", "project": project}
        bucket |= {"sweepName": None, "historyLineCount": 0}
        body = json.dumps({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_): ...


def test_a_server_that_dies_during_the_run_delays_the_end_by_the_timeout(
    tmp_path, wandb, monkeypatch, caplog
):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    unreachable(monkeypatch, server.server_port)
    caplog.set_level(logging.INFO, "distill.record.wandb_logger")
    tracker = Tracker(tmp_path, ONLINE, {}, IDENTITY, init_timeout=600, finish_timeout=1)
    server.shutdown()
    server.server_close()
    thread.join()
    assert tracker.logger.online
    for step in range(200):
        tracker.log(row(step))
    tracker.finish(0, {"accuracy/last": 1.0})  # W&B itself would wait for the server to come back
    assert "wandb sync" in caplog.text
    assert len(RunFolder(tmp_path).rows()) == 200 and len(list(tmp_path.glob("wandb/run-*/run-abc-1-*.wandb"))) == 1


def test_without_a_key_nobody_is_asked_even_on_a_terminal(tmp_path, wandb):
    code = f"""
from distill.record.tracker import Tracker
tracker = Tracker({str(tmp_path / "run")!r}, {ONLINE!r}, {{}}, {IDENTITY!r}, init_timeout=1, finish_timeout=1)
print("online", tracker.logger.online, "run", tracker.logger.run is not None)
tracker.finish()
"""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SILENT"}
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert child.returncode == 0 and "online False run True" in said and "tracking this run offline" in said
    assert "Enter your choice" not in said


def test_a_package_too_old_for_the_settings_ends_the_mirror(tmp_path, monkeypatch, caplog):
    class Old:
        def Settings(**_):  # noqa: N802, N805
            raise ValueError("finish_timeout: extra inputs are not permitted")

    monkeypatch.setattr(wandb_logger, "_import_wandb", lambda: Old)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = Tracker(tmp_path, ONLINE, {}, IDENTITY)
    tracker.log(row(1))
    tracker.finish()
    assert len(caplog.records) == 1 and "finish_timeout" in caplog.text and RunFolder(tmp_path).rows() == [row(1)]


class Broken:
    """A run of which everything fails."""

    dir = "wandb/run/files"

    def __getattr__(self, name):
        raise RuntimeError(f"{name} broke")


def test_an_error_in_the_mirror_ends_the_mirror_with_one_warning(tmp_path, caplog):
    tracker = Tracker(tmp_path, OFFLINE, {}, IDENTITY)
    tracker.logger.run = Broken()
    for step in (1, 2, 3):
        tracker.log(row(step))
    assert tracker.logger.run is None and len(caplog.records) == 1 and "log broke" in caplog.text
    tracker.logger.run = Broken()
    tracker.finish(1)
    assert "summary broke" in caplog.text and RunFolder(tmp_path).rows() == [row(1), row(2), row(3)]


def test_a_mirror_that_failed_is_begun_again_with_all_rows(tmp_path, monkeypatch, caplog):
    asked, full = [], [True]

    class Run:
        dir, summary = str(tmp_path / "files"), {}

        def __init__(self, mode, **_):
            if full[0]:
                raise OSError(28, "No space left on device")
            asked.append(mode)

        def define_metric(self, *_, **__): ...
        def log(self, values, step):
            asked.append(step)

        def finish(self, exit_code): ...

    class Fake:
        Settings, init = dict, Run

    monkeypatch.setattr(wandb_logger, "_import_wandb", lambda: Fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = Tracker(tmp_path, OFFLINE, {}, IDENTITY)
    tracker.log(row(1))
    assert asked == [] and "No space left on device): going on without it" in caplog.text
    full[0], tracker.logger._refused._next = False, 0.0  # space again, and the pause is over
    for step in (2, 3):
        tracker.log(row(step))
    tracker.finish()
    assert asked == ["offline", 1, 2, 3]


def test_what_a_fresh_and_a_resumed_run_ask_of_the_server(tmp_path, monkeypatch):
    asked = []

    class Run:
        dir, summary = str(tmp_path / "files"), {}

        def __init__(self, **arguments):
            asked.append(arguments)

        def define_metric(self, *_, **__): ...
        def log(self, values, step):
            asked.append((values, step))

        def finish(self, exit_code):
            asked.append(exit_code)

    class Fake:
        Settings, init = dict, Run

    monkeypatch.setattr(wandb_logger, "_import_wandb", lambda: Fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    long = IDENTITY | {"name": f"kd-{'x' * 150}-s1"}
    for resume_at in (None, 3):
        tracker = Tracker(tmp_path, ONLINE, {}, long, resume_at)
        tracker.log(row(4, "step"))
        tracker.finish(3)
    fresh, logged, code, resumed = asked[:4]
    assert (fresh["resume"], resumed["resume"]) == (None, "allow")
    assert fresh["name"] == f"kd-{'x' * 92}...{'x' * 27}-s1" and len(fresh["name"]) == 128
    assert fresh["id"].startswith("abc-1-") and resumed["id"] == fresh["id"]
    assert fresh["settings"]["init_timeout"] == 20 and fresh["settings"]["finish_timeout"] == 60
    assert (
        fresh["settings"]["console"] == "off"
        and fresh["settings"]["disable_git"]
        and fresh["settings"]["silent"]
    )
    assert logged == ({"phase": "distill", "epoch": 4, "step": 4, "step/loss": 0.2}, 4) and code == 3


def test_a_run_that_begins_anew_is_another_to_wandb(tmp_path):
    """W&B would mix its rows with those of the run that had the id before: of another folder, or of this one."""
    begun = []
    for folder, resume_at in (("a", None), ("a", 3), ("b", None), ("a", None), ("a", 5)):
        Tracker(tmp_path / folder, OFF, {}, IDENTITY, resume_at).finish()
        begun.append(read_json(RunFolder(tmp_path / folder).tracking)["identity"]["id"])
    assert begun[0] == begun[1] and begun[3] == begun[4] and len(set(begun)) == 3
    assert all(each.startswith("abc-1-") for each in begun)


def test_a_run_that_goes_on_offline_is_written_whole(tmp_path, monkeypatch):
    """The `wandb sync` that it prints sends the last of its folders alone."""
    asked = []

    class Run:
        dir, summary = str(tmp_path / "files"), {}

        def __init__(self, **_):
            asked.clear()

        def define_metric(self, *_, **__): ...
        def log(self, values, step):
            asked.append((values["epoch"], step))

        def finish(self, exit_code): ...

    class Fake:
        Settings, init = dict, Run

    monkeypatch.setattr(wandb_logger, "_import_wandb", lambda: Fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    first = Tracker(tmp_path, OFFLINE, {}, IDENTITY)
    for step in (1, 2, 3):
        first.log(row(step))
    second = Tracker(tmp_path, OFFLINE, {}, IDENTITY, 2)  # killed after step 3, saved at step 2
    for step in (3, 4):
        second.log(row(step))
    second.finish()
    assert list(dict.fromkeys(asked)) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    Tracker(tmp_path, OFFLINE, {}, IDENTITY, 4).finish()  # nothing was left but its result
    assert asked == [(1, 1), (2, 2), (3, 3), (4, 4)]


@pytest.mark.parametrize(("finish_timeout", "sent"), [(60, True), (0, False)])
def test_a_replay_that_the_server_did_not_get_is_none(tmp_path, monkeypatch, finish_timeout, sent):
    class Run:
        id, dir, summary = "abc-1", str(tmp_path / "files"), {}

        def __init__(self, **_): ...
        def define_metric(self, *_, **__): ...
        def log(self, *_, **__): ...
        def finish(self, exit_code): ...

    class Fake:
        Settings, init, Table = dict, Run, dict

    monkeypatch.setattr(wandb_logger, "_import_wandb", lambda: Fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    RunFolder(tmp_path).finish({"dataset": "d", "student": "s", "method": "m", "accuracy": {"last": 50.0}})
    mirror = wandb_logger.WandbLogger(tmp_path, ONLINE, {}, IDENTITY, finish_timeout=finish_timeout)
    assert replay(mirror, RunFolder(tmp_path)) is sent


def test_finished_runs_can_be_replayed(tmp_path, wandb):
    for name in ("s1", "s2", "s3"):
        tracker = Tracker(tmp_path / "kd" / name, OFF, {"lr": 0.1}, IDENTITY | {"id": f"abc-{name}"})
        tracker.log(row(1))
        tracker.finish()
        if name != "s3":  # the third is not finished
            result = {"dataset": "d", "student": "s", "method": "m", "accuracy": {"last": 50.0}}
            RunFolder(tmp_path / "kd" / name).finish(result)
    command = [sys.executable, "scripts/replay_wandb.py", str(tmp_path / "kd"), "--mode", "offline"]
    out = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert out.returncode == 0 and "2 of 2 runs written" in out.stdout, out.stdout + out.stderr
    written = sorted(tmp_path.glob("kd/*/wandb/offline-run-*/*.wandb"))
    assert [path.name[:11] for path in written] == ["run-abc-s1-", "run-abc-s2-"]
    assert all(b"test_accuracy/last" in path.read_bytes() for path in written)
    command[2] = str(tmp_path / "kd" / "s3")
    out = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert out.returncode == 1 and "no finished run" in out.stdout


def test_a_replay_that_reaches_no_server_leaves_nothing(tmp_path, monkeypatch, capsys):
    script = runpy.run_path(str(ROOT / "scripts" / "replay_wandb.py"))
    begun = tmp_path / "wandb" / "offline-run-1"
    (begun / "files").mkdir(parents=True)
    mirror = SimpleNamespace(run=SimpleNamespace(dir=str(begun / "files")), online=False, finish=lambda *_: None)
    script["_send"].__globals__["WandbLogger"] = lambda *_: mirror
    RunFolder(tmp_path).tracking.write_text('{"config": {}, "identity": {}}')
    assert script["_send"](RunFolder(tmp_path), {"mode": "online"}) is False
    assert "not sent" in capsys.readouterr().out and not begun.exists()


# --- what a person sees


def test_without_a_terminal_there_is_one_line_an_epoch(capsys):
    with Progress(total_epochs=3, steps=10) as progress:
        for epoch in (1, 2):
            progress.epoch_start("distill", epoch, 3)
            progress.update(5, 0.6, 80.0, 100.0)
            progress.epoch_end(
                {
                    "phase": "distill",
                    "epoch": epoch,
                    "loss": 0.5124,
                    "train_accuracy": 91.21,
                    "test_accuracy": 93.4,
                    "best_accuracy": 93.4,
                    "images_per_second": 5210.4,
                }
            )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "distill epoch 1/3  loss 0.512  train 91.2 %  test 93.40 %  best 93.40 %  5210 images/s  0:00 left"
    )
    assert len(lines) == 2


@pytest.mark.parametrize(("step", "said"), [(75, "5:00"), (0, "1:15"), (100, "-:--")])
def test_an_epoch_that_was_begun_before_counts_by_what_was_left_of_it(
    step, said, capsys, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr("distill.record.progress.time.monotonic", lambda: now[0])
    progress = Progress(4, 100, quiet=False, begun=step / 100)
    progress.epoch_start("distill", 1, 4)
    assert "-:-- left" in progress.line(80)
    progress.update(100, 0.6, 80.0, 100.0)
    now[0] = 25.0
    progress.epoch_end({})
    assert capsys.readouterr().out.endswith(f"  {said} left\n")


def test_quiet_says_nothing_and_an_epoch_without_a_test_does_not_repeat_the_last(capsys):
    for quiet in (True, False):
        progress = Progress(2, 1, quiet)
        for accuracy in ({"test_accuracy": 50.0}, {}):
            progress.epoch_start("p", 1, 2)
            progress.epoch_end({"loss": 1.0, **accuracy})
        assert (capsys.readouterr().out.count("test") == 1) is not quiet


def test_the_bar_on_a_terminal_shows_numbers_and_gives_the_terminal_back():
    code = """
import time
from distill.record.progress import Progress
with Progress(2, 10) as progress:
    progress.epoch_start("distill", 1, 2)
    progress.update(5, 0.61, 81.5, 4321.0)
    progress.epoch_end({"loss": 0.5, "test_accuracy": 77.25})
"""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160"}
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=theirs, check=True
    )
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert (
        "distill epoch 1/2" in said
        and "loss 0.500" in said
        and "train 81.5 %" in said
        and "test 77.25 %" in said
    )
    assert "4321 images/s" in said and said.index("left") < said.index("test")  # the bar, not the lines
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")  # the cursor is back


def test_numbers_and_times_are_written_for_people():
    assert status({"loss": 0.51239, "test_accuracy": None, "other": 1}) == "loss 0.512"
    assert [clock(seconds) for seconds in (0.4, 7, 754, 3723)] == ["0:00", "0:07", "12:34", "1:02:03"]


def test_the_final_table(capsys):
    final_table({"test accuracy": "93.4 %", "teacher": None, "files [x]": "outputs/a"}, title="kd")
    out = capsys.readouterr().out
    final_table({"files": "long/" * 60})
    assert "long/" * 60 in capsys.readouterr().out  # a pipe gets paths whole
    assert "kd" in out and "93.4 %" in out and "None" not in out and "files [x]" in out
    final_table([("kd", 1.5), ("crd", 2)], columns=("method", "gain"))
    out = capsys.readouterr().out
    assert [word for word in ("method", "gain", "kd", "1.5", "crd", "2") if word not in out] == []
