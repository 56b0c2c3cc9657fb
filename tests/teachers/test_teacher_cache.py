"""The teacher's cache: what is looked up is what the live teacher says, whoever writes and whatever breaks."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from distill import config
from distill.data import Data
from distill.method import Method, teacher_forward
from distill.run import run
from distill.runtime import autocast
from distill.teachers.cache import HOLDS, TeacherCache, make_cache
from distill.teachers.row_file import RowFile
from distill.teachers.store import Teacher
from tests import tiny

CPU = torch.device("cpu")
CACHEABLE = [
    name
    for name in tiny.METHODS
    if (about := config.load_node("method", name).about).teachers not in (0, "0")
    and set(about.taps) <= HOLDS["embedding"]
]
ASK_LATER = {"dafl", "cmi", "deepinversion", "dfq", "eskd", "qkd", "rco", "specialists", "sskd"}  # own images or nets


def rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float16)


def test_rows_are_unknown_until_they_are_written(tmp_path: Path) -> None:
    file, values = RowFile(tmp_path / "a" / "x.logits", 1000, 10), rows(3, 10)
    keys = np.array([0, 999, 7])
    assert not file.read(np.arange(1000))[1].any()
    file.write(keys, values)
    for reader in (file, RowFile(file.path, 1000, 10)):
        read, known = reader.read(np.array([7, 8, 0, 999]))
        assert known.tolist() == [True, False, True, True]
        assert np.array_equal(read[[0, 2, 3]], values[[2, 0, 1]])


def test_the_file_takes_up_what_was_written_alone(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "x", 8_100_000, 164)
    file.write(np.array([8_000_000]), rows(1, 164))
    found = os.stat(file.path)
    assert found.st_size == 8_100_000 * 332 and found.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("word", range(12))
def test_a_row_with_a_wrong_word_is_unknown(tmp_path: Path, word: int) -> None:
    file = RowFile(tmp_path / "x", 4, 10)
    file.write(np.arange(4), rows(4, 10))
    with open(file.path, "r+b") as raw:
        raw.seek(2 * file.row_bytes + 2 * word)
        raw.write(b"\x00\x00")
    assert file.read(np.arange(4))[1].tolist() == [True, True, False, True]


def test_what_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    file, values = RowFile(tmp_path / "x", 2, 3), rows(2, 3)
    values[1, 2] = np.inf
    file.write(np.arange(2), values)
    assert file.read(np.arange(2))[1].tolist() == [True, False]


def _fill(path: Path, start: int) -> None:
    file, values = RowFile(path, 500, 20), rows(500, 20)
    for key in [*range(start, 500), *range(start)]:
        file.write(np.array([key]), values[key : key + 1])
    os.kill(os.getpid(), 9)


def test_writers_side_by_side_that_are_killed_leave_sound_rows(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_fill, args=(tmp_path / "x", start)) for start in (0, 100, 400)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [-9] * 3
    read, known = RowFile(tmp_path / "x", 500, 20).read(np.arange(500))
    assert known.all() and np.array_equal(read, rows(500, 20))


def test_a_full_disk_ends_the_writing_alone_and_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, values = RowFile(tmp_path / "x", 4, 3), rows(4, 3)
    file.write(np.array([1]), values[1:2])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        file.write(np.array([2]), values[2:3])
    assert file.read(np.arange(4))[1].tolist() == [False, True, False, False]
    assert caplog.text.count("takes no rows") == 1
    monkeypatch.undo()
    file._full._next = 0.0  # the pause is over
    file.write(np.array([3]), values[3:4])
    assert file.read(np.arange(4))[1].tolist() == [False, True, False, True]


def test_a_file_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = rows(4, 3)
    RowFile(tmp_path / "x", 4, 3).write(np.arange(2), values[:2])

    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    file = RowFile(tmp_path / "x", 4, 3)
    file.write(np.arange(4), values)
    assert file.read(np.arange(4))[1].tolist() == [True, True, False, False]
    with pytest.raises(PermissionError):
        RowFile(tmp_path / "y", 4, 3)


def known(method: Method) -> list[Teacher]:
    """The method's teachers as a run knows them."""
    return [Teacher(net, 0.0, 0, "random", net.fingerprint()) for net in method.teachers]


def behind(method: Method, data: Data, folder: Path, precision: str, setting: str = "embedding") -> TeacherCache:
    """Put a cache before the method's teachers."""
    taps = {"logits"} if setting == "logits" else {"embedding"}
    found = make_cache(
        setting, teacher_forward, known(method), data, reads=taps, precision=precision, folder=folder, compiled=False,
        mixup=False,
    )  # fmt: skip
    assert found
    method.teacher_forward = found
    return found


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "fp32") for name in CACHEABLE), ("kd", "bf16"), ("crd+kd", "bf16")]
)
def test_losses_are_the_live_teachers_to_half_precision(name: str, precision: str, tmp_path: Path) -> None:
    """All that a method reads of its teachers is in its about.taps, or the look-up would refuse it."""
    told: list[list[dict[str, float]]] = []
    for use in ("live", "filling", "full"):
        data = tiny.tiny_data()
        method = tiny.seeded_method(name, data, tiny.SMALLEST)
        cache = behind(method, data, tmp_path, precision) if use != "live" else None
        fit = tiny.fit(method, data, tmp_path / use, precision=precision)
        for _ in zip(range(2), fit.steps(), strict=False):
            pass
        fit.meter.flush("", 1)
        told.append([dict(fit.meter.sums)])
        if cache and name not in ASK_LATER:
            assert cache.lookups and (cache.hit_rate() == 1) == (use == "full")
    assert told[1] == told[2]
    for live, looked_up in zip(told[0], told[1], strict=True):
        assert looked_up == pytest.approx(live, rel=4e-3, abs=1e-3)


def test_only_what_is_new_is_asked(tmp_path: Path) -> None:
    data, asked = tiny.tiny_data(), []
    method = tiny.seeded_method("kd", data)
    cache = behind(method, data, tmp_path, "fp32", "logits")
    cache.forward = lambda teacher, batch: asked.append(len(batch.index)) or teacher_forward(teacher, batch)
    batch = next(data.source(batch_size=8, seed=1).epoch(1))
    first = method.teach(batch.only(slice(0, 3))).logits
    both = method.teach(batch).logits
    assert asked == [3, 5] and torch.equal(both[:3], first)
    assert torch.equal(both, method.teach(batch).logits) and asked == [3, 5]
    cache.whole_from = 0.5
    other = next(data.source(batch_size=8, seed=2).epoch(1))
    method.teach(other.only(slice(0, 2)))
    method.teach(other)
    assert asked == [3, 5, 2, 8]


def test_precision_decides_who_answers(tmp_path: Path) -> None:
    """Outside autocast, as when a phase is prepared, a bf16 run's cache is not what is asked for."""
    data = tiny.tiny_data()
    method = tiny.seeded_method("kd", data)
    cache = behind(method, data, tmp_path, "bf16", "logits")
    batch = next(data.source(batch_size=8, seed=1).epoch(1))
    method.teach(batch)
    assert cache.lookups == 0
    with autocast(CPU, "bf16"):
        method.teach(batch)
    assert cache.lookups == 8


def test_another_teacher_other_images_and_other_constants_have_other_files(tmp_path: Path) -> None:
    data, method = tiny.tiny_data(), tiny.seeded_method("kd", tiny.tiny_data())
    other = tiny.seeded_method("kd", data, ("cifar_resnet20", "cifar_resnet8"))
    for m, d, precision in (
        (method, data, "fp32"), (method, data, "bf16"), (other, data, "fp32"), (method, tiny.tiny_data(1), "fp32"),
        (method, tiny.tiny_data(), "fp32"),
    ):  # fmt: skip
        behind(m, d, tmp_path, precision, "logits")
    assert len(list(tmp_path.glob("*.logits"))) == 4


def test_maps_are_refused_with_the_remedy(tmp_path: Path) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("at", data)
    behind(method, data, tmp_path, "fp32")
    with pytest.raises(ValueError, match="about.taps of its YAML, or use teacher.cache=off"):
        method.loss(next(data.source(batch_size=8, seed=1).epoch(1)))


@pytest.mark.parametrize(
    ("setting", "reads", "precision", "mixup", "why"),
    [
        ("auto", {"features", "logits"}, "bf16", False, "the method reads its features"),
        ("embedding", {"features"}, "bf16", False, "the method reads its features"),
        ("logits", {"embedding"}, "bf16", False, "teacher.cache=embedding holds and teacher.cache=logits does not"),
        ("auto", {"logits"}, "fp32", False, "would round what precision=fp32 computes"),
        ("embedding", {"logits"}, "bf16", True, "never the same twice"),
    ],
)
def test_a_teacher_that_stays_live_is_said(
    setting: str, reads: set[str], precision: str, mixup: bool, why: str, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    data = tiny.tiny_data()
    method = tiny.seeded_method("kd", data)
    with caplog.at_level(logging.INFO):
        found = make_cache(
            setting, teacher_forward, known(method), data, reads=reads, precision=precision, folder=tmp_path,
            compiled=False, mixup=mixup,
        )  # fmt: skip
    assert found is None and why in caplog.text and not list(tmp_path.iterdir())


def test_a_second_run_asks_its_teacher_nothing(tmp_path: Path) -> None:
    def result(*overrides: str) -> dict:
        options = ("dataset=digits", "teacher.weights=none", "teacher=resnet8", "student=resnet8", "precision=bf16")
        small = ("dataset.fraction=0.1", "schedule.epochs=2", "schedule.batch_size=32")
        cfg = tiny.composed(*options, *small, f"output={tmp_path}", *overrides)
        return run(cfg, config.identity(cfg)["folder"], table=False)

    first, again, live = result(), result("method=dist"), result("method=kd", "teacher.cache=off", "seed=2")
    assert 0 < first["teacher_cache_found"] < 1 and again["teacher_cache_found"] == 1
    assert live["teacher_cache_found"] is None
    assert config.identity(tiny.composed("teacher.cache=off")) == config.identity(tiny.composed())
