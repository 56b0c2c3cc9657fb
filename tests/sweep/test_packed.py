"""Packed runs: side by side in one process, and the same bits as alone."""

from __future__ import annotations

import fcntl
import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill import errors, run, runtime
from distill.config import RunSpec, resolve
from distill.data.arrays import SharedSource
from distill.run import Experiment, Inputs, make_inputs
from distill.run_folder import RunFolder
from distill.signals import StopSignals
from distill.sweep import packed
from distill.sweep.jobs import Job
from distill.sweep.packed import packs, shared_inputs
from tests import program, tiny
from tests.replay import Replay

SMALL = [
    "student=resnet8",
    "teacher=resnet14",
    "dataset.fraction=0.1",
    "schedule.epochs=2",
    "schedule.batch_size=32",
    "precision=fp32",
    "threads=1",
]


def launch(output: Path, *overrides: str) -> CompletedProcess[str]:
    return program.run("-m", *SMALL, "teacher.weights=none", f"output={output}", *overrides)


def rows(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]


def told(folder: Path) -> dict:
    """What a result tells, but for times and what was asked of a teacher that runs shared."""
    volatile = {"seconds", "images_per_second", "waiting", "command", "files", "method_share_of_step"}
    volatile |= {"teacher_cache_found", "packed"}
    result = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in volatile}


def test_packed_runs_are_bit_identical_to_runs_alone(tmp_path: Path) -> None:
    """Methods with banks, peers, random draws and a phase of their own."""
    for where, launcher in (("packed", "packed"), ("alone", "basic")):
        methods = ("method=none,crd,fitnet,dml,kd", "schedule.init_epochs=1")
        done = launch(tmp_path / where, f"hydra/launcher={launcher}", *methods)
        assert done.returncode == 0, done.stdout + done.stderr
    found = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("student.safetensors"))
    assert len(found) == 5
    for path in found:
        one, other = load_file(tmp_path / "alone" / path), load_file(tmp_path / "packed" / path)
        assert all(torch.equal(value, other[key]) for key, value in one.items()), path
        assert rows(tmp_path / "alone" / path.parent) == rows(tmp_path / "packed" / path.parent)
        assert told(tmp_path / "alone" / path.parent) == told(tmp_path / "packed" / path.parent)
        beside = [RunFolder(tmp_path / where / path.parent).read_result().packed for where in ("alone", "packed")]
        assert beside == [None, 5]  # so many took their steps in the seconds of each


def test_packed_runs_that_are_recorded_are_bit_identical_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All find the batch, and what the teacher says of it, in one place."""
    options = [*SMALL, "teacher.weights=none", "schedule.batch_size=8", f"output={tmp_path}"]
    specs = [resolve(tiny.composed(*options, f"method={name}")) for name in ("kd", "crd", "at")]
    with StopSignals() as stop:
        alone = [Experiment(within(spec, tmp_path / "alone"), stop, quiet=True) for spec in specs]
        together(alone)
        monkeypatch.setattr(run, "without_graphs", lambda *_: False)
        monkeypatch.setattr(run, "CudaGraph", Replay)
        packed = pack(specs, tmp_path, stop)
        together(packed)
    assert all(each.fit.graphed and each.fit.graphed.replayed > 20 for each in packed)
    assert {id(each.method.teacher_forward) for each in packed} == {id(packed[0].inputs.teachers)}
    for one, other in zip(alone, packed, strict=True):
        state = other.method.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in one.method.state_dict().items())


def within(spec: RunSpec, folder: Path) -> RunSpec:
    """The run in a folder of its own below `folder`."""
    return replace(spec, folder=folder / spec.method.name)


def pack(specs: Sequence[RunSpec], folder: Path, stop: StopSignals) -> list[Experiment]:
    """Runs that share the first one's batches and teacher."""
    inputs: Inputs = shared_inputs(make_inputs(specs[0], specs))
    return [Experiment(within(spec, folder / "packed"), stop, inputs=inputs, quiet=True) for spec in specs]


def together(runs: list[Experiment]) -> None:
    """Take a step of each in turn, each with random numbers of its own, until all are done."""
    runtime.seed_everything(1)
    turns = [(one.fit.steps(), [runtime.rng_state()]) for one in runs]
    while turns:
        for turn in list(turns):
            steps, state = turn
            runtime.set_rng_state(state[0])
            if next(steps, turn) is turn:
                turns.remove(turn)
            state[0] = runtime.rng_state()
        for one in runs:
            one.fit.join()


def test_a_member_that_fails_is_dropped_and_named(tmp_path: Path) -> None:
    words = ["method=kd,crd+kd", "method.kd=1.0", "method.temperature=4.0,1e-39"]  # logits by that are infinite
    done = launch(tmp_path, "hydra/launcher=packed", *words)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "loss 'kd' is" in said and len(list(tmp_path.rglob("DONE"))) == 2
    logs = [path.read_text() for path in tmp_path.rglob("log.txt")]
    assert len(logs) == 2 and all("Traceback" in log and "NonFinite" in log for log in logs)


def test_runs_on_the_cpu_are_packed_by_its_memory_and_others_by_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index=None: ({None: 1, 1: 2}[index], 3))
    assert [packed.free_memory(device) for device in ("auto", "cuda", "cuda:1")] == [1, 1, 2]
    assert packed.free_memory("cpu") > 2**20 and packed.free_memory("cuda:7") > 2**20


def test_jobs_are_packed_by_what_they_share() -> None:
    def job(*overrides: str):
        return overrides, resolve(tiny.composed(*overrides))

    jobs = [
        job("method=kd"),
        job("method=none"),
        job("method=kd", "seed=2"),
        job("method=crd"),
        job("teacher=resnet14"),
        job("method=kd", "schedule.batch_size=16"),
    ]
    groups = sorted([sorted(" ".join(j) for j, _ in group) for group in packs(jobs)], key=lambda g: (-len(g), g))
    assert groups == [
        ["method=crd", "method=kd", "method=none"],
        ["method=kd schedule.batch_size=16"],
        ["method=kd seed=2"],
        ["teacher=resnet14"],
    ]


def test_no_run_has_the_cache_that_another_asks_for() -> None:
    """It rounds a teacher's answers to half floats, and is part of the hash: all had that of the first run, or none
    where one read what it does not hold.
    """
    asked = [(f"method={method}", f"teacher.cache={cache}") for method in ("kd", "crd", "fitnet")
             for cache in ("off", "logits", "embedding")]  # fmt: skip
    asked += [("method=dkd", "teacher.cache=logits"), ("method=none", "teacher.cache=auto")]
    groups = packs([(words, resolve(tiny.composed("precision=fp32", *words))) for words in asked])
    named = [{" ".join(word.partition("=")[2] for word in words) for words, _ in group} for group in groups]
    assert {"kd logits", "dkd logits"} in named and {"kd embedding", "crd embedding"} in named
    assert any({"kd off", "crd off", "fitnet off"} <= each for each in named)


@pytest.mark.parametrize(("words", "packed_as"), [
    (["device=cpu"], [2, 1]), (["device=auto"], [2, 1]), (["device=cuda"], [3]),
    (["device=cpu", "precision=bf16"], [3]),
])  # fmt: skip
def test_no_run_computes_in_the_precision_that_another_student_is_fast_in(
    words: list[str], packed_as: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU a pack's was that of its first member, and a run alone had others than in a pack."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = [("method=kd", "student=resnet8"), ("method=none", "student=resnet8"), ("method=kd", "student=resnet14")]
    jobs = [(one, resolve(tiny.composed("precision=auto", *words, *one))) for one in asked]
    assert sorted(map(len, packs(jobs)), reverse=True) == packed_as


def test_a_pack_decides_by_all_of_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(run, "decide", lambda *given: asked.extend(given[-1]) or 1 / 0)
    specs = [resolve(tiny.composed(*SMALL, "teacher.weights=none", f"method={name}")) for name in ("kd", "crd")]
    with pytest.raises(ZeroDivisionError):
        make_inputs(specs[0], specs)
    assert [each.words for each in asked] == ["kd with resnet8", "crd with resnet8"]


def test_loops_in_step_share_their_batches_and_others_get_their_own() -> None:
    data = tiny.tiny_data()
    plain = data.source(batch_size=8, seed=5)
    shared = SharedSource(**plain.settings)
    one, two = shared.epoch(2), shared.epoch(2)
    for a, b, c in zip(one, two, plain.epoch(2), strict=True):
        assert a is not b and a.inputs is b.inputs and torch.equal(a.inputs, c.inputs) and torch.equal(a.index, c.index)
    ahead = shared.epoch(1, start=2)
    assert torch.equal(next(ahead).inputs, list(plain.epoch(1))[2].inputs)
    assert torch.equal(next(shared.epoch(1)).inputs, next(plain.epoch(1)).inputs)


def member(folder: Path, name: str) -> tuple[Job, RunSpec]:
    """A job of a pack, and what it is told."""
    (folder / name).mkdir()
    return Job(name, [], [], folder / name), resolve(tiny.composed("method=kd"))


def test_a_run_that_another_launch_has_finished_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As is one that a member of the pack has had trained for its teacher."""
    waited, ended = member(tmp_path, "a"), []
    RunFolder(tmp_path / "a").finish({"dataset": "d", "student": "s", "method": "m", "accuracy": {"last": 50.0}})
    monkeypatch.setattr(packed, "make_inputs", lambda *_: pytest.fail("it is trained"))
    sweep: Any = SimpleNamespace(finish=lambda job, code, *why, **_: ended.append((job.name, code, *why)))
    packed.Pack(sweep, [waited], 2).run(StopSignals())
    assert ended == [("a", 0)]


def test_who_waits_for_another_launch_holds_no_run_for_which_that_might_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = SimpleNamespace(inputs=None, fit=SimpleNamespace(join=lambda: None))
    monkeypatch.setattr(packed, "Member", lambda job, *_: SimpleNamespace(job=job, done=False, experiment=inside))
    pack = packed.Pack(None, [member(tmp_path, name) for name in "abc"], 3)  # type: ignore[arg-type]
    with open(tmp_path / "b" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process would
        assert [one.job.name for one in pack._gather(StopSignals())] == ["a"]
    assert [one.job.name for one in pack._gather(StopSignals())] == ["b", "c"]


@pytest.mark.parametrize(("graph", "count"), [(None, 8), (Replay, 4)])
def test_a_pack_leaves_memory_for_the_graphs_that_its_runs_have_yet_to_record(
    graph: Any, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 each takes 10 in its first step; 4 runs have 40 then and, with a graph of the short last batch, 80."""
    left = iter(range(100, 0, -10))
    inside = SimpleNamespace(inputs=SimpleNamespace(graph=graph), fit=SimpleNamespace(join=lambda: None))
    monkeypatch.setattr(packed, "Member", lambda job, *_: SimpleNamespace(job=job, done=False, experiment=inside))
    monkeypatch.setattr(packed.Pack, "_step", lambda *_: True)
    monkeypatch.setattr(packed, "free_memory", lambda device: next(left))
    pack = packed.Pack(None, [member(tmp_path, name) for name in "abcdefghi"], None)  # type: ignore[arg-type]
    assert len(pack._gather(StopSignals())) == count


def test_a_signal_while_runs_are_opened_leaves_the_rest_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, stop = [], StopSignals()

    def opened(job: Job, *_: Any) -> None:
        stop.received = signal.SIGTERM
        raise errors.Stopped

    monkeypatch.setattr(packed, "Member", opened)
    sweep: Any = SimpleNamespace(finish=lambda job, code, *_, **__: ended.append((job.name, code)))
    pack = packed.Pack(sweep, [member(tmp_path, name) for name in "abc"], None)
    pack.run(stop)
    assert ended == [("a", errors.STOPPED)] and [job.name for job, _ in pack.waiting] == ["b", "c"]
