"""One run in two and in four gloo processes: the steps of one process on the whole batch, and banks that stay equal."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import distributed_c10d

from distill import parallel, torchrun
from distill.batch import Batch
from distill.data import Data
from distill.engine import synced
from distill.method import Method
from distill.search.command import run as search
from tests import program, tiny

SMALL_VIT = {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}  # no BatchNorm
WHOLE = ("kd", "dot", "kd synced")  # give what one process gives
METHODS = {2: ("dot", "kd synced", "sp", "crd", "crd resumed", "kd apart"), 4: ("kd", "kd synced")}


def build(method: str, data: Data) -> Method:
    torch.manual_seed(7)
    name, *more = method.split()
    student = tiny.net("cifar_resnet8", 1) if "synced" in more else tiny.net("vit_tiny_patch16_224", 1, **SMALL_VIT)
    made = tiny.make(name, student, tiny.net("cifar_resnet8", 2), data)
    if "synced" in more and parallel.world() > 1:
        synced.synchronize(made)
    return made


def train(method: str, folder: Path) -> dict:
    """Train two epochs of the tiny images; returns the rows, and what the method's buffers add up to.

    SP stands still, so that its loss on the parts of each batch can be computed beside it.
    """
    data = tiny.tiny_data()
    made = build(method, data)
    fit = tiny.fit(made, data, folder)
    fit.schedule = replace(fit.schedule, lr=0.0) if method == "sp" else fit.schedule
    torch.manual_seed(parallel.rank())  # each has draws of its own
    if "apart" in method:
        made.register_buffer("seen", torch.zeros(3))
        made.after_step = lambda: made.seen.add_(parallel.rank() + 1.0)
        fit.evaluate = lambda _: 0.0
        with pytest.raises(ValueError, match="the method's seen is another in each process") as refused:
            list(fit.steps())
        return {"refused": str(refused.value)}
    if "resumed" in method:
        for _ in islice(fit.steps(), 3):
            pass
        fit.meter.flush("", 1)
        fit.save()
        parallel.barrier()  # the first has written
        made = build(method, data)
        fit = tiny.fit(made, data, folder)
        assert fit.restore() == 3
    for _ in fit.steps():
        pass
    banks = {name: value.double().sum().item() for name, value in made.named_buffers() if "memory" in name}
    weights = [p.double().sum().item() for p in made.student.state_dict().values()]
    return {"rows": fit.callback.rows, "banks": banks, "weights": weights, "images": fit.speed.images}


def started(count: int, folder: Path) -> list[dict[str, dict]]:
    """What each of `count` processes, started as torchrun would start them, found of METHODS, one after the other."""
    port = str(20000 + count + os.getpid() % 20000)
    jobs = []
    for rank in range(count):
        env = {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": port}  # fmt: skip
        words = [str(folder), str(folder / f"{rank}.json")]
        jobs.append(program.start(*words, module="tests.test_parallel", env=env))
    said = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == count * [0], said
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict]]:
    return started(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict]]:
    return started(4, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What a process alone finds."""
    folder = tmp_path_factory.mktemp("one")
    return {method: train(method, folder / method) for method in WHOLE}


def means(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if isinstance(value, float)} for row in rows]


PAIRS = [("two", "dot"), ("two", "kd synced"), ("four", "kd"), ("four", "kd synced")]


@pytest.mark.parametrize(("count", "method"), PAIRS)
def test_several_processes_train_as_one(
    count: str, method: str, one: dict[str, dict], request: pytest.FixtureRequest
) -> None:
    first, *others = (found[method] for found in request.getfixturevalue(count))
    assert len(one[method]["rows"]) == 2 and first["images"] == one[method]["images"] > tiny.IMAGES
    for alone, all_of_them in zip(means(one[method]["rows"]), means(first["rows"]), strict=True):
        assert all_of_them == pytest.approx(alone, rel=2e-4)
    assert all(other["weights"] == first["weights"] for other in others), "all processes hold the same student"
    assert first["weights"] == pytest.approx(one[method]["weights"], rel=1e-3, abs=1e-4)


def test_losses_between_samples_see_each_processes_own_part(two: list[dict[str, dict]]) -> None:
    first, second = (found["sp"] for found in two)
    data = tiny.tiny_data()
    method = build("sp", data).train()
    parts = whole = 0.0
    for batch in data.source(batch_size=8, seed=1).epoch(1):
        whole += method.loss(batch)["sp"].item() * len(batch.labels) / tiny.IMAGES
        for part in (parallel.part(batch, k, 2) for k in range(2)):
            parts += method.loss(part)["sp"].item() * len(part.labels) / tiny.IMAGES
    assert first["rows"][0]["sp"] == pytest.approx(parts, rel=1e-4) == second["rows"][0]["sp"]
    assert parts != pytest.approx(whole, rel=0.05), "relations across the parts are not seen"


def test_banks_are_kept_equal(two: list[dict[str, dict]]) -> None:
    first, second = (found["crd"] for found in two)
    assert first["banks"] == second["banks"] and first["weights"] == second["weights"]
    untouched = tiny.seeded_method("crd", tiny.tiny_data()).memory_student.bank
    assert len(first["banks"]) == 4 and first["banks"]["memory_student.bank"] != untouched.double().sum().item()


def test_a_buffer_that_each_process_keeps_for_itself_is_refused(two: list[dict[str, dict]]) -> None:
    assert all("keep it in a MemoryBank" in found["kd apart"]["refused"] for found in two)


def test_several_processes_go_on_where_they_were_each_with_draws_of_its_own(two: list[dict[str, dict]]) -> None:
    for found in two:
        whole, resumed = found["crd"], found["crd resumed"]
        assert resumed["weights"] == whole["weights"] and resumed["banks"] == whole["banks"]
        assert means(resumed["rows"]) == means(whole["rows"])


@pytest.mark.launchers
def test_torchrun_trains_a_teacher_and_a_student_and_writes_once(tmp_path: Path) -> None:
    options = ["student=resnet8", "teacher=resnet8", "teacher.seed=3", "method=crd", "dataset.fraction=0.1"]
    options += ["schedule.epochs=1", "schedule.batch_size=32", "threads=1", f"output={tmp_path}"]
    command = ["--standalone", "--nproc-per-node=2", "-m", "distill", *options]
    done = program.run(*command, module="torch.distributed.run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.rglob("DONE"))) == 2 and done.stdout.count("student resnet8, crd") == 1
    (run,) = tmp_path.glob("digits/resnet8-resnet8/crd-*/s1")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1]


def test_parts_make_the_batch_and_their_weights_its_mean() -> None:
    batch = Batch(torch.arange(5.0).reshape(5, 1, 1, 1), torch.arange(5), torch.arange(5), {"teacher": torch.arange(5)})
    parts = [parallel.part(batch, k, 2) for k in range(2)]
    assert [p.labels.tolist() for p in parts] == [[0, 2, 4], [1, 3]]
    assert parts[1].views["teacher"].tolist() == [1, 3]
    with pytest.raises(ValueError, match="raise schedule.batch_size"):
        parallel.part(parallel.part(batch, 0, 5), 0, 2)


def test_alone_nothing_is_gathered_or_reduced() -> None:
    value = torch.tensor([1.0, 2.0])
    assert parallel.world() == 1 and parallel.rank() == 0
    assert parallel.gathered(value) is value and parallel.mean(value) is value and parallel.agreed(15, True) == [15, 1]


@pytest.mark.parametrize(
    ("size", "why"), [("2", "without RANK: start with torchrun"), ("x", "WORLD_SIZE=x is no number")]
)
def test_an_environment_of_torchrun_by_half_is_refused(size: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match=why):
        torchrun.processes()


@pytest.mark.parametrize(
    ("device", "gpus", "why"),
    [
        ("cuda", 0, "device=cuda is not here"),
        ("cuda:1", 2, "have a device each: use auto, cpu or cuda"),
        ("auto", 2, "more processes than there are GPUs here: --nproc-per-node=2"),
    ],
)
def test_a_device_that_not_all_processes_can_have_is_refused(
    device: str, gpus: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "2", "LOCAL_RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=why):
        parallel.start(device)


def test_a_sweep_is_not_started_by_each_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="each of torchrun's 2 processes would start this sweep"):
        torchrun.refuse_sweep()
    with pytest.raises(ValueError, match="would start this search: start it without torchrun"):  # and share its trials
        search(argparse.Namespace())


def test_processes_on_gpus_connect_those_that_wait_before_one_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL connects a group at its first use, and the others ask for the first one's address for ten minutes only."""
    done: list[Any] = []
    for name, value in {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1, "MASTER_ADDR": "", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(parallel.dist, "init_process_group", done.append)
    monkeypatch.setattr(parallel.dist, "is_initialized", lambda: "nccl" in done)
    monkeypatch.setattr(parallel.dist, "new_group", lambda timeout: timeout)
    monkeypatch.setattr(parallel.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(parallel.dist, "get_rank", lambda: 0)  # else its log is quiet
    monkeypatch.setattr(parallel.dist, "barrier", lambda group, device_ids: done.append((group, device_ids)))
    monkeypatch.setattr(parallel.atexit, "register", lambda what: None)
    for name in ("group", "gpus"):
        monkeypatch.setattr(parallel._Waiting, name, None)
    assert parallel.start("auto") == "cuda:1" and done == [1, "nccl", (parallel.PATIENCE, [1])]


def main(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    parallel.start("cpu")
    out.write_text(json.dumps({method: train(method, folder / method) for method in METHODS[parallel.world()]}))
    distributed_c10d._set_pg_timeout(timedelta(seconds=0.5))  # of all exchanges that have no patience of their own
    time.sleep(1.5 * (parallel.rank() == 0))  # as where it waits for another's lock, or measures what was trained
    parallel.barrier()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
