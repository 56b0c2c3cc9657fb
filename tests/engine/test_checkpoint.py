"""Faults: truncation, flipped bits, zeroed sectors, kill -9 at every system call of a save, a full disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from distill import errors, files
from distill.engine import checkpoint
from distill.engine.checkpoint import (
    Checkpoints,
    CorruptCheckpoint,
    OtherVersion,
    SaveError,
    export,
    load_state,
    read_json,
    save,
    write_json,
    write_text,
)
from distill.errors import NoValidCheckpoint


def state_of(step: int) -> dict:
    return {
        "step": step,
        "weight": torch.full((64,), float(step)),
        "name": "kd",
        "seen": [1, 2.5, None, (True,)],
    }


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "a.ckpt"
    save(path, state_of(7))
    return path


# --- what goes in comes out


def test_a_training_state_comes_back_bit_for_bit(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "python": random.getstate(),
    }
    save(tmp_path / "a.ckpt", state)
    back = load_state(tmp_path / "a.ckpt")
    assert all(torch.equal(back["net"][k], v) for k, v in state["net"].items())
    assert torch.equal(
        back["optimizer"]["state"][0]["momentum_buffer"], state["optimizer"]["state"][0]["momentum_buffer"]
    )
    assert torch.equal(back["rng"], state["rng"]) and back["python"] == state["python"]


@pytest.mark.parametrize(
    "value", [np.float64(1.0), np.zeros(2), Path("x"), nn.Linear(1, 1), {"deep": [np.int64(1)]}]
)
def test_what_could_not_be_loaded_is_refused_at_once_and_named(tmp_path, value):
    with pytest.raises(ValueError, match=r"state\['heads'\].*which a checkpoint cannot hold"):
        save(tmp_path / "a.ckpt", {"heads": value})
    assert list(tmp_path.iterdir()) == []


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_loading_never_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "_check", lambda value, where: None)
    save("a.ckpt", {"x": Harmful()})
    with pytest.raises(CorruptCheckpoint, match="cannot load it"):
        load_state("a.ckpt")
    assert not Path("harmed").exists()


# --- damage


def test_truncation_anywhere_is_detected(saved):
    data = saved.read_bytes()
    for length in {*range(64), *range(0, len(data), max(1, len(data) // 200)), len(data) - 1}:
        saved.write_bytes(data[:length])
        with pytest.raises(CorruptCheckpoint):
            load_state(saved)


def test_bytes_added_are_detected(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CorruptCheckpoint, match="bytes of"):
        load_state(saved)


def test_any_flipped_bit_is_detected(saved):
    data = saved.read_bytes()
    header = range(checkpoint.HEADER.size * 8)
    draws = random.Random(0).sample(range(len(data) * 8), 512)
    for bit in (*header, *draws):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(bad)
        with pytest.raises(CorruptCheckpoint):
            load_state(saved)


def test_a_zeroed_sector_is_detected(tmp_path):
    save(tmp_path / "a.ckpt", {"noise": torch.randn(8192)})
    data = (tmp_path / "a.ckpt").read_bytes()
    for start in range(0, len(data) - 512, 512):
        (tmp_path / "a.ckpt").write_bytes(data[:start] + bytes(512) + data[start + 512 :])
        with pytest.raises(CorruptCheckpoint):
            load_state(tmp_path / "a.ckpt")


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)


def test_the_previous_checkpoint_is_used_with_one_warning(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    newest = [checkpoints.save(state_of(step), step) for step in (1, 2)][-1]
    damage(newest)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest()["step"] == 1
    assert len(caplog.records) == 1 and newest.name in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000001.ckpt",
        "step-000000002.ckpt.corrupt",
    ]
    caplog.clear()
    assert Checkpoints(tmp_path).latest()["step"] == 1 and not caplog.records


def test_with_all_damaged_nothing_starts_from_zero(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        damage(checkpoints.save(state_of(step), step))
    for _ in range(2):  # asking again does not help
        with pytest.raises(
            NoValidCheckpoint, match="step-000000002.ckpt.*step-000000001.ckpt.*delete the folder"
        ):
            checkpoints.latest()
    checkpoints.clear()
    assert checkpoints.latest() is None


def test_damaged_ones_of_before_still_count_as_lost(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    paths = [checkpoints.save(state_of(step), step) for step in (1, 2)]
    damage(paths[1])
    assert checkpoints.latest()["step"] == 1
    damage(paths[0])
    with pytest.raises(NoValidCheckpoint, match=r"ckpt\.corrupt was damaged before"):
        checkpoints.latest()


# --- other versions


def later(monkeypatch: pytest.MonkeyPatch, **migrations) -> None:
    """Be a program of format 2 that can bring states of format 1 up to it by `one`."""
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    monkeypatch.setattr(checkpoint, "MIGRATIONS", {1: migrations["one"]} if migrations else {})


def test_a_checkpoint_of_an_older_format_is_migrated(saved, monkeypatch):
    later(monkeypatch, one=lambda state: {**state, "step": state["step"] + 1})
    assert load_state(saved)["step"] == 8
    save(saved, state_of(7))
    assert load_state(saved)["step"] == 7, "one of today's is not migrated"


@pytest.mark.parametrize("damaged", [False, True])
def test_an_older_format_that_cannot_be_migrated_is_refused_and_left_alone(tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(checkpoint, "program", lambda: "0.9")
    save_steps(tmp_path, 1, 2)
    if damaged:
        damage(tmp_path / "step-000000002.ckpt")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    later(monkeypatch)
    monkeypatch.setattr(checkpoint, "program", lambda: "1.0")
    with pytest.raises(OtherVersion, match="format 1, and format 2 .* made by distill 0.9, and this is 1.0") as said:
        Checkpoints(tmp_path).latest()
    assert f"or delete {tmp_path} to start it anew" in str(said.value) and "damaged" not in str(said.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert errors.exit_code(said.value) == errors.NO_CHECKPOINT


def test_a_checkpoint_of_a_later_format_is_refused(saved, monkeypatch):
    with monkeypatch.context() as patch:
        later(patch)
        save(saved, state_of(7))
    with pytest.raises(OtherVersion, match="format 2, and format 1 is read here"):
        load_state(saved)


# --- the folder


def test_two_are_kept_in_the_order_of_steps_not_of_names(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    for step in (9, 10, 2_000_000_000, 999_999_999):
        checkpoints.save(state_of(step), step)
    assert [path.name for path in checkpoints.paths()] == ["step-2000000000.ckpt", "step-999999999.ckpt"]
    assert checkpoints.latest()["step"] == 2_000_000_000


def test_what_was_just_saved_is_never_pruned(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (100, 200, 5):
        path = checkpoints.save(state_of(step), step)
    assert path.exists() and len(checkpoints.paths()) == 2


def test_temporaries_of_a_killed_writer_are_swept(tmp_path):
    (tmp_path / ".step-000000003.ckpt.4242.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    Checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# --- kill -9, full disk: in a forked child


def in_child(work) -> int:
    """Run work() in a fork; its wait status."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        except SaveError:
            code = 71
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def kill_at(count: int, after: bool):
    """Hook fsync, replace and unlink: the `count`-th call kills the process, before or after its effect."""
    calls = 0

    def hook(real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == count and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*args, **kwargs)
            finally:
                if calls == count and after:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, hook(getattr(os, name)))


def save_steps(folder: Path, *steps: int) -> None:
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(state_of(step), step)


@pytest.mark.parametrize("after", [False, True])
def test_kill_at_every_system_call_of_a_save_leaves_a_valid_latest(tmp_path, after):
    killed = 0
    for count in range(1, 20):
        folder = tmp_path / str(count)
        save_steps(folder, 1, 2)

        def work(folder=folder, count=count):
            kill_at(count, after)
            save_steps(folder, 3)

        status = in_child(work)
        latest = Checkpoints(folder).latest()
        assert latest["step"] in (2, 3) and torch.equal(latest["weight"], state_of(latest["step"])["weight"])
        assert not list(folder.glob(".*"))
        assert len(Checkpoints(folder).paths()) >= 2
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0 and latest["step"] == 3
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        killed += 1
    assert (
        killed == 5
    )  # fsync of the file, replace, fsync of the folder, unlink of the temporary, unlink of the oldest


def test_the_oldest_goes_only_after_the_newest_is_durable(tmp_path, monkeypatch):
    save_steps(tmp_path, 1, 2)
    order = []

    def noted(name, real):
        def call(*args):
            result = real(*args)
            order.append(name)
            return result

        return call

    for name in ("fsync", "replace", "unlink"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    Checkpoints(tmp_path).save(state_of(3), 3)
    assert order == ["fsync", "replace", "fsync", "unlink"]


@pytest.mark.parametrize("limit", [0, 40, 500, 1000])
def test_a_full_disk_is_one_clean_error_and_the_previous_stays(tmp_path, limit):
    save_steps(tmp_path, 1)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        save_steps(tmp_path, 2)

    assert os.waitstatus_to_exitcode(in_child(work)) == 71
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.ckpt"]
    assert Checkpoints(tmp_path).latest()["step"] == 1
    save_steps(tmp_path, 2)  # and later there is room again
    assert Checkpoints(tmp_path).latest()["step"] == 2


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_what_the_disk_refuses_says_where_and_why(tmp_path, monkeypatch, call, code):
    save_steps(tmp_path, 1)

    def refuse(*_args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(SaveError, match=f"step-000000002.ckpt could not be written.*{os.strerror(code)}"):
        Checkpoints(tmp_path).save(state_of(2), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.ckpt"]


def test_torch_reports_a_full_disk_as_a_runtime_error(tmp_path):
    with pytest.raises(SaveError, match="unexpected pos"), files.replacing(tmp_path / "a") as file:
        file.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 64")
    assert list(tmp_path.iterdir()) == []


# --- small files and the export


def test_a_failed_write_leaves_the_old_text(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old é")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
    with pytest.raises(SaveError):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old é"


def test_json_holds_only_json(tmp_path):
    write_json(
        tmp_path / "deep" / "a.json",
        {
            "nan": float("nan"),
            "inf": [float("-inf")],
            "tensor": torch.tensor([1.5]),
            "zero": torch.tensor(2),
            "numpy": np.float32(0.5),
            "path": Path("x/y"),
            "tuple": (1, True, None),
            3: "key",
        },
    )
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {
        "nan": None,
        "inf": [None],
        "tensor": [1.5],
        "zero": 2,
        "numpy": 0.5,
        "path": "x/y",
        "tuple": [1, True, None],
        "3": "key",
    }


def test_read_json_takes_the_default_for_what_it_cannot_read(tmp_path):
    (tmp_path / "half.json").write_text('{"a": 1')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    for name in ("half.json", "bytes.json", "missing.json", "."):
        assert read_json(tmp_path / name, default=7) == 7
    write_json(tmp_path / "whole.json", {"a": 1})
    assert read_json(tmp_path / "whole.json") == {"a": 1}


def test_export_is_loadable_and_carries_its_metadata(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)).to(
        memory_format=torch.channels_last
    )
    net.add_module("tied", nn.Linear(4, 4))
    net.tied.weight = net[2].weight
    export(net, tmp_path / "student.safetensors", {"epochs": 240, "name": "cifar_resnet20"})
    back = load_file(tmp_path / "student.safetensors")
    assert back.keys() == net.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in net.state_dict().items())
    with safetensors.safe_open(tmp_path / "student.safetensors", "pt") as file:
        said = file.metadata()
    assert said.pop("sha256") and said == {"epochs": "240", "name": "cifar_resnet20"}


def test_an_export_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    """safetensors writes metadata in an order of chance."""
    model = torch.nn.Linear(3, 2)
    said = {key: "x" for key in "abcdefgh"}
    made = {checkpoint.exported(model, said) for _ in range(6)}
    (data,) = made
    (tmp_path / "a.safetensors").write_bytes(data)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert list(file.metadata()) and set(file.metadata()) >= set("abcdefgh")
        assert torch.equal(file.get_tensor("weight"), model.weight)
