"""Sweeps whose jobs crash, are killed, fail and are stopped: the others go on, and all is said in the end.

Faults are injected into processes of the local launcher that stand for runs; real runs, real signals and the
real programs follow, on this machine and on a stand-in for Slurm (tests/slurm).
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from safetensors.torch import save_file

from distill import config, errors, signals, sweep
from distill.cli.command import read_command
from distill.cli.status import resume_commands
from distill.config.hydra_keys import LAUNCHERS
from distill.config.rules import check_rule
from distill.files import SaveError, read_json, write_json
from distill.run_folder import RunFolder
from distill.sweep import compose, failures, jobs, queued, slots, snapshot, steps
from distill.sweep.forecast import MINUTES, forecast
from distill.sweep.launchers.hydra_plugins.distill_launchers import local, packed, ray, slurm
from distill.sweep.plan import items_of
from distill.sweep.speeds import Speeds
from distill.sweep.states import statuses
from tests import program
from tests.tiny import composed

REPO = Path(__file__).resolve().parents[2]
SMALL = ["method=none", "student=resnet8", "dataset.fraction=0.1", "precision=fp32", "compile=false"]

# --- jobs that only pretend to be runs: `faults.json` says what happens to which seed, at which attempt


def pretend(argv: list[str], folder: str, env: Mapping[str, str]) -> None:
    """What a job's process does here: the fault of its seed and attempt, else a result."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.stop_signals())
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    attempt = len(list(place.glob("attempt-*"))) + 1
    write_json(place / f"attempt-{attempt}", {"argv": argv, "env": dict(env), "pid": os.getpid()})
    faults = json.loads((place.parents[3] / "faults.json").read_text())
    fault = (faults.get(place.name, []) + [None] * attempt)[attempt - 1]
    if isinstance(fault, int) and fault > 0:
        with open(place / "log.txt", "a") as log:
            log.write(f"distill: the sentence of exit code {fault}\n")
        sys.exit(fault)
    if fault == "hang":
        time.sleep(600)
    if fault == "wait":
        wait_for((place.parents[3] / "go").exists)
    if isinstance(fault, int):
        os.kill(os.getpid(), -fault)
    RunFolder(place).finish({"dataset": "d", "student": "s", "method": "m", "accuracy": {"last": 50.0}})
    if fault == "no result":
        (place / "DONE").unlink()


Outcome = tuple[Any, list[Any], list[Any]]


class Loader:
    """Composes as Hydra's loader does, and counts."""

    count = 0

    def load_sweep_config(self, master: Any, overrides: list[str]) -> Any:
        self.count += 1
        return composed(*overrides)


def master(output: Path, *hydra: str) -> Any:
    """The parts of a sweep's configuration that launchers read."""
    sources = [{"provider": "main", "path": "x"}, {"provider": "command-line", "path": "/mine"}]
    node = {
        "sweep": {"dir": str(output)},
        "overrides": {"hydra": list(hydra)},
        "job": {"config_name": "config"},
    }
    return OmegaConf.create({"hydra": {**node, "runtime": {"config_sources": sources}}})


@pytest.fixture
def pretended(output: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs a sweep of seeds with faults; returns the sweep, the lines of its log and the failures noted."""
    monkeypatch.setattr(slots, "process", pretend)
    monkeypatch.setattr(HydraConfig, "set_config", lambda *_: None)
    monkeypatch.setenv(failures.VARIABLE, str(output.parent / "failures.jsonl"))

    def run(
        faults: dict[int, list[Any]], seeds: int = 3, count: int = 2, gpus: tuple[str, ...] = ()
    ) -> Outcome:
        write_json(output / "faults.json", {f"s{seed}": what for seed, what in faults.items()})
        (output.parent / "failures.jsonl").unlink(missing_ok=True)
        (output / "sweep.jsonl").unlink(missing_ok=True)
        overrides = [["method=none", f"seed={seed}", f"output={output}"] for seed in range(seeds)]
        one = jobs.Sweep(master(output), compose.Composer(Loader()), overrides, retries=1)
        if one.jobs:
            slots.Slots(one, count, list(gpus), threads=3).run()
        return one, attempts(output), failures.read_failures(os.environ[failures.VARIABLE])

    return run


def attempts(output: Path) -> list[dict[str, Any]]:
    path = output / "sweep.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_that_measures_nothing_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of images without any label: there is no `nan %`."""
    RunFolder(tmp_path).finish({"dataset": "d", "student": "s", "method": "rkd", "accuracy": {"last": None}})
    job, sweep_ = jobs.Job("a", [], [], tmp_path), SimpleNamespace(jobs=[1], ended=0, _started=0.0)
    jobs.Sweep._print(sweep_, job, errors.DONE, "", again=False)
    assert capsys.readouterr().out.startswith("[1/1] DONE  a  (")


@pytest.mark.parametrize(
    ("place", "fault", "tried", "outcome"),
    [
        (0, -signal.SIGKILL, 2, "killed by SIGKILL"),
        (1, -signal.SIGKILL, 2, "killed by SIGKILL"),
        (2, -signal.SIGKILL, 2, "killed by SIGKILL"),
        (0, -signal.SIGSEGV, 2, "killed by SIGSEGV"),
        (1, errors.FAILED, 2, "failed"),
        (2, 17, 2, "exit code 17"),
        (0, "no result", 2, "failed"),
        (0, errors.USAGE, 1, "usage error"),
        (2, errors.USAGE, 1, "usage error"),
        (1, errors.NONFINITE, 1, "loss not finite"),
        (2, errors.NO_CHECKPOINT, 1, "no valid checkpoint"),
        (1, errors.STOPPED, 1, "stopped"),
    ],
)
def test_one_bad_job_takes_no_other_down(
    pretended: Any, place: int, fault: Any, tried: int, outcome: str, capfd: pytest.CaptureFixture[str]
) -> None:
    done, log, noted = pretended({place: [fault] * 3})
    values = [one.return_value for one in done.returns()]
    assert [math.isnan(value) for value in values] == [number == place for number in range(3)]
    bad = [line for line in log if line["outcome"] != "done"]
    assert [(line["outcome"], line["attempt"]) for line in bad] == [(outcome, n + 1) for n in range(tried)]
    assert [line["again"] for line in bad] == [True] * (tried - 1) + [False]
    (failure,) = noted
    assert f"seed={place}" in failure["what"] and "method" not in failure["what"]
    assert failure["code"] == (fault if isinstance(fault, int) and fault > 0 else errors.FAILED)
    if isinstance(fault, int) and fault > 0:
        assert failure["why"].startswith(f"the sentence of exit code {fault} (log: /")
    shown = capfd.readouterr().out
    assert len(re.findall(r"^\[[123]/3\] ", shown, re.MULTILINE)) == 3
    assert f"{outcome.upper()}  seed={place}" in shown


def test_what_lies_in_a_jobs_way_is_its_failure_alone(
    pretended: Any, output: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(config.identity(composed("method=none", "seed=1", f"output={output}"))["folder"])
    folder.parent.mkdir(parents=True)
    folder.touch()
    done, log, noted = pretended({})
    assert [math.isnan(one.return_value) for one in done.returns()] == [False, True, False]
    assert noted[0]["code"] == errors.USAGE and f"{folder} cannot be written (File exists)" in noted[0]["why"]
    assert "Traceback" not in capfd.readouterr().err and len(log) == 3


def test_jobs_wait_for_a_disk_that_is_full(
    pretended: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = iter([SaveError("out could not be written (No space left on device)"), None, None])

    def check(_: Path) -> None:
        if error := next(asked):
            raise error

    monkeypatch.setattr(slots, "check_output", check)
    done, log, _ = pretended({}, seeds=2, count=1)
    assert [line["outcome"] for line in log] == ["done", "done"]
    assert "No space left on device); 2 runs wait, for 1 s at first" in capfd.readouterr().out


def test_a_run_that_another_launch_is_at_is_left_for_the_end(pretended: Any, output: Path) -> None:
    """Two launches of a sweep, on two machines, would follow each other from lock to lock."""
    folder = Path(config.identity(composed("method=none", "seed=0", f"output={output}"))["folder"])
    folder.mkdir(parents=True)
    with RunFolder(folder).lock:
        _, log, _ = pretended({}, count=1)
    assert [line["overrides"][1] for line in log] == ["seed=1", "seed=2", "seed=0"]


def test_a_second_attempt_can_succeed_and_done_runs_are_not_started(pretended: Any, output: Path) -> None:
    first, log, noted = pretended({0: [-9], 2: [1]})
    assert noted == [] and [one.return_value for one in first.returns()] == [50.0] * 3
    ends = sorted(f"{line['overrides'][1]} {line['outcome']}" for line in log)
    assert ends == ["seed=0 done", "seed=0 killed by SIGKILL", "seed=1 done", "seed=2 done", "seed=2 failed"]
    again, log, noted = pretended({}, seeds=4)
    assert [line["overrides"][1] for line in log] == ["seed=3"]
    assert [one.return_value for one in again.returns()] == [50.0] * 4


def test_the_last_attempt_at_a_run_names_the_command_that_runs_it_alone(pretended: Any, output: Path) -> None:
    sweep, _, _ = pretended({1: [-9, 3]}, seeds=2)
    last = jobs.last_attempts(output)
    assert [last[job.folder]["outcome"] for job in sweep.jobs] == ["done", "loss not finite"]
    assert shlex.split(last[sweep.jobs[1].folder]["command"]) == ["python", "-m", "distill", *sweep.jobs[1].argv]
    moved = output.rename(output.with_name("moved"))
    assert [path.parents[3] for path in jobs.last_attempts(moved)] == [moved, moved]


def test_a_run_whose_result_is_damaged_is_not_done(pretended: Callable[..., Outcome], output: Path) -> None:
    """It is started, and its own process refuses it, which takes no other run down."""
    one, _, _ = pretended({})
    assert one.folders[1] is not None
    (one.folders[1] / "result.json").write_text("{")
    again, lines, failed = pretended({1: [None, 2]})
    assert [job.name for job in again.jobs] == ["seed=1"] and [line["outcome"] for line in lines] == ["usage error"]
    assert [math.isnan(job.return_value) for job in again.returns()] == [False, True, False]
    assert len(failed) == 1


def test_all_failures_are_listed(pretended: Any) -> None:
    _, _, noted = pretended({0: [2], 1: [-9, -11], 2: [3]})
    assert [failure["code"] for failure in sorted(noted, key=lambda one: one["what"])] == [2, 1, 3]
    assert [one["why"].startswith("killed by SIGSEGV") for one in noted if one["what"] == "seed=1"] == [True]


def test_slots_have_their_own_gpu_and_share_the_threads(pretended: Any, output: Path) -> None:
    _, log, _ = pretended({}, seeds=4, count=2, gpus=("GPU-a", "GPU-b"))
    seen = [json.loads(path.read_text()) for path in output.rglob("attempt-1")]
    assert {one["env"]["CUDA_VISIBLE_DEVICES"] for one in seen} == {"GPU-a", "GPU-b"}
    assert {(line["slot"], line["gpu"]) for line in log} == {(0, "GPU-a"), (1, "GPU-b")}
    assert all(one["argv"][-1] == "threads=3" and one["argv"].count("--config-dir") == 1 for one in seen)
    assert len({one["pid"] for one in seen}) == 4


def test_a_signal_stops_the_sweep(pretended: Any, output: Path) -> None:
    def send() -> None:
        wait_for(lambda: len(list(output.rglob("attempt-1"))) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(SystemExit) as left:
        pretended({0: ["hang"], 1: ["hang"]})
    sender.join()
    assert left.value.code == errors.STOPPED
    assert [(line["outcome"], line["again"]) for line in attempts(output)] == [("stopped", False)] * 2
    assert not list(output.rglob("s2"))  # never started


def test_a_signal_to_all_processes_leaves_the_one_that_tells_how_runs_end(pretended: Any, output: Path) -> None:
    def send() -> None:
        wait_for(lambda: list(output.rglob("attempt-1")))
        for number in (signal.SIGUSR2, signal.SIGTERM):
            os.kill(forkserver._forkserver._forkserver_pid, number)  # type: ignore[attr-defined]
        time.sleep(0.2)
        (output / "go").touch()

    sender = threading.Thread(target=send)
    sender.start()
    _, log, _ = pretended({0: ["wait"]}, seeds=1)
    sender.join()
    assert [line["outcome"] for line in log] == ["done"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["threads=1", "threads=2"], "1 of 2 jobs are the runs of others, and run once: threads=2 as threads=1, from"),
        (["seed=1", "seed=2", "seed=1"], "1 of 3 jobs are the runs of others, and run once: seed=1 stands twice"),
        (["seed=1", "seed=1"], "1 of 2 jobs are the runs of others, and run once: one run stands twice"),
        (["seed=1", "seed=2"], ""),
    ],
)
def test_jobs_that_stand_for_one_run_are_said_to(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    monkeypatch.setattr(HydraConfig, "set_config", lambda *_: None)
    overrides = [["method=none", f"output={output}", word] for word in more]
    sweep = jobs.Sweep(master(output), compose.Composer(Loader()), overrides, retries=0)
    sweep.announce("")
    shown = capsys.readouterr().out
    assert told in shown and ("jobs are" in shown) == bool(told) and len(sweep.jobs) == len({*sweep.folders})


# --- parts


def test_composing_a_sweep_again_costs_nothing_for_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig, "set_config", lambda *_: None)
    loader, known = Loader(), compose.Composer(Loader())
    known._loader = loader
    for method in ("none", "kd"):
        for seed in range(5):
            cfg = known.load_sweep_config(None, [f"method={method}", f"seed={seed}"])
            assert (cfg.method.name, cfg.seed) == (method, seed)
    assert loader.count == 2 and known.count == 2  # other attributes are the loader's


def test_a_sweep_tells_its_time_with_the_teachers_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HydraConfig, "set_config", lambda *_: None)
    monkeypatch.setattr(steps.Steps, "seconds", lambda self, spec: (10.0, steps.BY_STEP))
    words = ["teacher=resnet14", "student=resnet8", "method=kd", f"output={tmp_path}"]
    config, composer = master(tmp_path), compose.Composer(Loader())
    load = partial(composer.load_sweep_config, config)
    sweep = jobs.Sweep(config, composer, [[*words, f"seed={seed}"] for seed in range(3)], retries=0)
    told = [forecast(sweep, load, timed=timed) for timed in (True, False)]
    assert told[0] == f"  about 0:40 one after the other ({steps.BY_STEP})"
    assert told[1] == "  no estimate of the time: no run has ended yet"
    each = [[*words, "teacher.seed=${seed}", f"seed={seed}"] for seed in range(3)]  # with a teacher of its own
    told = [forecast(jobs.Sweep(config, composer, each, retries=0), load, timed=True)]
    assert told == [f"  about 1:00 one after the other ({steps.BY_STEP})"]


@pytest.mark.parametrize(
    ("kind", "gpus", "given", "timed"),
    [
        (local.LocalLauncher, [], {"slots": 1, "gpus": None}, True),
        (local.LocalLauncher, ["0"], {"slots": 1, "gpus": None}, False),
        (packed.PackedLauncher, [], {}, True),
        (packed.PackedLauncher, ["0"], {}, False),
        (ray.RayLauncher, [], {"init": {}}, True),
        (ray.RayLauncher, [], {"init": {"address": "head:6379"}}, False),
        (slurm.SlurmLauncher, [], {}, False),
    ],
)
def test_every_launcher_tells_the_time_before_its_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, gpus: list[str], given: dict[str, Any], timed: bool
) -> None:
    asked = []

    def told(sweep: Any, compose: Any, *, timed: bool, worth: float) -> str:
        asked.append((timed, worth, len(sweep.jobs)))
        raise InterruptedError

    monkeypatch.setattr(HydraConfig, "set_config", lambda *_: None)
    monkeypatch.setattr(slots, "visible_gpus", lambda: gpus)
    monkeypatch.setattr("distill.sweep.forecast.forecast", told)
    monkeypatch.setattr(jobs.Job, "start", lambda job: 1 / 0)
    launcher = kind.__new__(kind)
    vars(launcher).update(given, retries=0, config=master(tmp_path), composer=compose.Composer(Loader()))
    with pytest.raises(InterruptedError):
        launcher.launch([["method=none", f"seed={seed}", f"output={tmp_path}"] for seed in (1, 2)], 0)
    assert asked == [(timed, MINUTES, 2)]


def test_a_job_alone_has_no_launcher(tmp_path: Path) -> None:
    cfg = master(tmp_path, "hydra/launcher=local", "hydra.launcher.slots=2", "hydra.mode=MULTIRUN",
                 "hydra.verbose=true", "hydra.sweeper.max_batch_size=2")  # fmt: skip
    expected = ["seed=1", "hydra.verbose=true", "hydra.mode=RUN", "--config-dir", "/mine"]
    assert compose.job_arguments(cfg, ["seed=1"]) == expected


@pytest.mark.parametrize(
    ("given", "listed", "expected"),
    [
        (None, "GPU 0: H100 (UUID: GPU-1a-b)\nGPU 1: H100 (UUID: GPU-2c-d)\n", ["GPU-1a-b", "GPU-2c-d"]),
        (None, "GPU 0: A100 (UUID: GPU-1)\n  MIG 1g.5gb Device 0: (UUID: MIG-7-8)\n", ["MIG-7-8"]),
        (None, "No devices were found\n", []),
        ("3, 5", "", ["3", "5"]),
        ("", "GPU 0: H100 (UUID: GPU-1a-b)\n", []),
    ],
)
def test_gpus_that_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, listed: str, expected: list[str]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '%s' '{listed}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert slots.visible_gpus() == expected


@pytest.mark.parametrize(
    ("seen", "given"), [("2,3", ["2", "3"]), ("GPU-1a,MIG-7-8", ["GPU-1a", "MIG-7-8"]), ("1,0", ["0", "1"])]
)
def test_jobs_get_no_gpu_but_those_that_can_be_seen(
    seen: str, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA_VISIBLE_DEVICES=2,3 of Slurm: GPUs 0 and 1 of the machine are another's."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert slots.chosen([0, 1], slots.visible_gpus()) == given


def test_a_job_of_slurm_is_one_process() -> None:
    check_rule("hydra.launcher.nodes", 1, LAUNCHERS["slurm"]["nodes"])
    with pytest.raises(ValueError, match="mem_gb must be a number"):  # submitit's word is an AssertionError
        check_rule("hydra.launcher.mem_gb", "16GB", LAUNCHERS["slurm"]["mem_gb"])
    for key in ("nodes", "tasks_per_node"):
        with pytest.raises(ValueError, match=f"{key}=2: .* must be 1: a run of a sweep is one process"):
            check_rule(f"hydra.launcher.{key}", 2, LAUNCHERS["slurm"][key])


def slurm_launcher(folder: Path, **more: Any) -> slurm.SlurmLauncher:
    params: Any = OmegaConf.to_container(OmegaConf.load(REPO / "conf" / "hydra" / "launcher" / "slurm.yaml"))
    params |= {"submitit_folder": str(folder / "%j"), "name": "distill", **more}
    return slurm.SlurmLauncher(**{key: value for key, value in params.items() if key != "_target_"})


def test_what_sbatch_does_not_take_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'distill[slurm]'")
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpuu' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    launcher = slurm_launcher(tmp_path / "submitit", partition="gpuu")
    with pytest.raises(ValueError, match="sbatch does not take the jobs .*invalid partition specified: gpuu"):
        launcher._queued([jobs.Job("seed=1", ["seed=1"], ["seed=1"], tmp_path)], [])


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm that takes jobs and runs none: the file is what squeue says, sbatch counts from 11, sacct fails."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'distill[slurm]'")
    tools, queue = tmp_path / "tools", tmp_path / "queue"
    tools.mkdir()
    count = f'echo x >> {tmp_path}/count; echo "Submitted batch job $((10 + $(wc -l < {tmp_path}/count)))"'
    for name, script in {"squeue": f"cat {queue}", "sbatch": count, "srun": "", "sacct": "exit 1"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    queue.touch()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return queue


def job(folder: Path, *words: str) -> jobs.Job:
    return jobs.Job(folder.name, [*words], [*words], folder)


def test_a_launch_goes_on_with_the_jobs_that_are_queued(
    queue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an array of three one has ended; the next launch has a fourth run, and finds the output by a link."""
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    launcher = slurm_launcher(tmp_path / "out" / ".submitit")
    queue.write_text("5\n6_2\n")  # others of the user's, which the first launch does not ask for
    first = launcher._queued([job(tmp_path / "out" / f"s{n}", f"seed={n}") for n in range(3)], [])
    assert [one.job_id for one in first.values()] == ["11_0", "11_1", "11_2"]
    queue.write_text("5\n6_2\n11_1\n11_2\n")
    capsys.readouterr()
    again = [job(tmp_path / "link" / f"s{n}", f"seed={n}") for n in range(4)]
    again[2] = job(again[2].folder, "seed=2", "log_every=5")
    found = launcher._queued(again, [])
    assert {each.name: one.job_id for each, one in found.items()} == {
        "s0": "12_0", "s1": "11_1", "s2": "11_2", "s3": "12_1",
    }  # fmt: skip
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "  2 in the queue already, as 11: not handed in again"
    assert told[1].startswith("  1 of them with the code, settings") and "scancel 11 before" in told[1]
    assert told[2] == "  submitted as 12"
    assert all(each.attempts == 1 and each.running for each in again)


def test_what_waits_in_the_queue_is_listed_as_such(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They stood as cut off, or as still to be run, or not at all, and were launched again."""
    words, output = ["method=none", "student=resnet8", "dataset=digits"], tmp_path / "outputs"
    monkeypatch.chdir(tmp_path)
    asked = read_command(["-m", *words, "seed=0,1,2", "--dry-run"]).jobs
    assert asked is not None
    folders = [Path(config.identity(make())["folder"]).absolute() for _, make in asked]
    launcher = slurm_launcher(output / ".submitit")
    launcher._queued([job(folder, f"seed={n}") for n, folder in enumerate(folders[:2])], [])
    (folders[0] / "checkpoints").mkdir(parents=True)
    (folders[0] / "checkpoints" / "step-000000007.ckpt").touch()
    (folders[0] / "metrics.jsonl").touch()

    def states() -> tuple[list[str], list[str]]:
        found = [f"{one.name[-2:]} {one.state}" for one in statuses(output)]
        return found, [item.state for item in items_of(asked, Speeds([], None))]

    queue.write_text("11_0\n11_1\n")
    assert states() == (["s0 queued", "s1 queued"], ["queued", "queued", "to run"])
    assert not list(resume_commands(statuses(output)))
    queue.write_text("11_1\n")
    assert states() == (["s1 queued", "s0 cut off"], ["cut off", "queued", "to run"])
    (tmp_path / "tools" / "squeue").write_text("#!/bin/sh\necho no contact >&2; exit 1\n")
    assert states()[0] == ["s0 cut off"] and "squeue does not tell which jobs are queued" in caplog.text


def test_what_waits_in_the_queue_is_found_wherever_its_launch_keeps_its_jobs(queue: Path, tmp_path: Path) -> None:
    """hydra.launcher.submitit_folder: they stood as cut off, and as still to be run."""
    output, elsewhere = tmp_path / "out", tmp_path / "home" / "jobs"
    slurm_launcher(elsewhere)._queued([job(output / "s1", "seed=1")], [])
    queue.write_text("11\n11_0\n")
    assert queued.queued_below(output) == set()
    for folder in (elsewhere, elsewhere, output / ".submitit"):
        queued.note_folder(output, str(folder / "%j"))
    assert queued.queued_below(output) == {queued.place(output / "s1")}
    assert len(read_json(output / ".submitit" / queued.ELSEWHERE)) == 1


def test_a_sweep_larger_than_the_clusters_arrays_is_several_of_them(queue: Path, tmp_path: Path) -> None:
    """sbatch: Invalid job array specification. As many jobs as asked for run at a time, of all arrays together."""
    told = "MaxArraySize            = 3\\nSchedulerParameters     = bf_max_job_test=9,max_array_tasks=4"
    (tmp_path / "tools" / "scontrol").write_text(f"#!/bin/sh\nprintf '{told}'\n")
    (tmp_path / "tools" / "scontrol").chmod(0o755)
    runs = [job(tmp_path / f"s{n}", f"seed={n}") for n in range(7)]
    found = slurm_launcher(tmp_path / ".submitit", array_parallelism=5)._queued(runs, [])
    assert [found[one].job_id for one in runs] == ["11_0", "12_0", "13_0", "11_1", "12_1", "13_1", "11_2"]
    assert all(one.submission().function.folder == str(each.folder) for each, one in found.items())
    scripts = [next((tmp_path / ".submitit").rglob(f"{n}_submission.sh")).read_text() for n in (11, 12, 13)]
    assert [re.findall("--array=(.*)", text) for text in scripts] == [["0-2%1"], ["0-1%2"], ["0-1%2"]]
    with pytest.raises(ValueError, match="3 jobs an array, so that 7 are 3 arrays, .*give at least 3"):
        slurm_launcher(tmp_path / "other", array_parallelism=2)._queued(runs, [])
    (tmp_path / "tools" / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    assert queued.largest_array() == 1001


def test_two_launches_at_one_moment_hand_each_job_in_once(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks at the queue once the first has handed in."""
    look, together = queued.in_queue, threading.Barrier(2)
    monkeypatch.setattr(queued, "in_queue", lambda: [look(), time.sleep(0.5)][0])
    sbatch = tmp_path / "tools" / "sbatch"
    sbatch.write_text(f"{sbatch.read_text()}echo $((10 + $(wc -l < {tmp_path}/count))) >> {queue}\n")
    (tmp_path / ".submitit" / "1").mkdir(parents=True)  # of an earlier launch: the queue is asked

    def launch(_: int) -> str:
        together.wait()
        (one,) = slurm_launcher(tmp_path / ".submitit")._queued([job(tmp_path / "s1", "seed=1")], []).values()
        return str(one.job_id)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(launch, range(2))) == ["11", "11"]


def test_a_sweep_from_an_interactive_job_hands_nothing_of_that_on(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun: SLURM_MEM_PER_CPU, SLURM_MEM_PER_GPU, and SLURM_MEM_PER_NODE are mutually exclusive."""
    sbatch = tmp_path / "tools" / "sbatch"
    sbatch.write_text(sbatch.read_text() + f"env > {tmp_path}/env\n")
    given = {"SLURM_JOB_ID": "3", "SLURM_MEM_PER_CPU": "4000", "SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "me"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    slurm_launcher(tmp_path / ".submitit")._queued([job(tmp_path / "s1", "seed=1")], [])
    seen = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert given.keys() & seen == {"SLURM_CONF", "SBATCH_ACCOUNT"} and os.environ["SLURM_JOB_ID"] == "3"


def test_jobs_with_a_result_are_not_taken_for_queued(queue: Path, tmp_path: Path) -> None:
    launcher, jobs_ = slurm_launcher(tmp_path / "%A"), [job(tmp_path / "s1", "seed=1")]
    (first,) = launcher._queued(jobs_, []).values()
    queue.write_text("11\n")  # its epilogue runs
    first.paths.result_pickle.write_bytes(b"")
    assert [one.job_id for one in launcher._queued(jobs_, []).values()] == ["12"]


def test_a_squeue_that_does_not_answer_is_a_sentence(queue: Path, tmp_path: Path) -> None:
    launcher, jobs_ = slurm_launcher(tmp_path / ".submitit"), [job(tmp_path / "s1", "seed=1")]
    launcher._queued(jobs_, [])
    (tmp_path / "tools" / "squeue").write_text("#!/bin/sh\necho 'squeue: error: no contact' >&2; exit 1\n")
    with pytest.raises(ValueError, match=r"which jobs are queued \(squeue: error: no contact\): try again"):
        launcher._queued(jobs_, [])


def test_a_job_is_over_once_it_is_out_of_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preempted and queued again, it is not; of PreemptMode=CANCEL submitit waits for a next start without an end."""
    now, seen = [0.0], [{"7_0"}]
    monkeypatch.setattr(queued, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(queued, "in_queue", lambda: seen[0])
    paths = SimpleNamespace(folder=tmp_path, result_pickle=tmp_path / "result.pkl")
    one = SimpleNamespace(job_id="7_0", state="PREEMPTED", paths=paths, watcher=SimpleNamespace(update=list))
    ends, found = queued.Ends(), []
    for at, ids in ((10, set()), (40, set()), (75, {"7_0"}), (110, set()), (150, set()), (175, set())):
        now[0], seen[0] = float(at), ids
        found.append(ends.among({"a": one}))
    assert found == [[]] * 5 + [[("a", one)]]
    code, why = slurm._outcome(one)
    assert code == errors.FAILED and why == f"Slurm says PREEMPTED ({tmp_path})" and code not in jobs._FINAL
    one.state = "CANCELLED by 1000"  # submitit waits 15 seconds for the result of each
    assert slurm._outcome(one)[0] == errors.STOPPED
    paths.result_pickle.touch()
    assert queued.Ends().among({"a": one}) == [("a", one)]


def test_a_stopped_sweep_says_that_its_queued_jobs_stay(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        slurm._leave(signal.SIGTERM, ["7", "9"])
    assert capsys.readouterr().err == (
        "distill: stopped by SIGTERM: its jobs stay in the queue, where a new launch finds them (scancel 7 9 ends "
        "them); the same command goes on\n"
    )


def test_a_ray_cluster_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(ValueError, match="no Ray cluster to join .*any running Ray instance"):
        ray.RayLauncher(init={"address": "auto"})._connect()


def test_threads_are_divided_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(10)), raising=False)
    assert slots.threads_per_slot(4) is None  # OMP_NUM_THREADS is set for all tests
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [slots.threads_per_slot(count) for count in (1, 4, 20)] == [None, 2, 1]


def test_a_snapshot_is_whole_and_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = snapshot.take_snapshot(tmp_path)
    assert snapshot.take_snapshot(tmp_path) == folder and list(folder.parent.iterdir()) == [folder]
    code = "import distill.config as c; print(c.__file__, c.conf_dir(), len(c.options('method')))"
    env = os.environ | snapshot.search_path(folder)
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env=env, capture_output=True, text=True)
    assert done.stdout.split()[:2] == [f"{folder}/distill/config/__init__.py", f"{folder}/distill/conf"]
    assert int(done.stdout.split()[2]) == len(list((REPO / "conf" / "method").glob("*.yaml")))
    changed = {"distill/x.py": tmp_path / "x.py"}
    changed["distill/x.py"].write_text("1")
    monkeypatch.setattr(snapshot, "_files", lambda: changed)
    assert snapshot.take_snapshot(tmp_path) != folder
    changed["distill/y.py"] = tmp_path / "y.py"
    changed["distill/y.py"].mkdir()  # copying fails half-way: nothing is left
    with pytest.raises(OSError):
        snapshot._copy(changed, tmp_path / ".snapshots" / "half")
    assert len(list((tmp_path / ".snapshots").iterdir())) == 2


def test_a_launchers_own_handler_is_called_after_the_run_has_saved() -> None:
    told: list[int] = []
    old = signal.signal(signal.SIGUSR2, lambda number, _: told.append(number))
    try:
        for number, expected in ((signal.SIGUSR2, True), (signal.SIGTERM, False), (signal.SIGINT, False)):
            with pytest.raises(errors.Stopped), signals.StopSignals() as stop:
                os.kill(os.getpid(), number)
                wait_for(lambda: stop.received is not None)  # noqa: B023
                raise errors.Stopped
            assert signals.call_previous_handler() is expected and signals.call_previous_handler() is False
        with pytest.raises(ValueError), signals.StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
            wait_for(lambda: stop.received is not None)
            raise ValueError  # it failed of itself: nothing was saved
        assert signals.call_previous_handler() is False
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert told == [signal.SIGUSR2]


def test_launchers_that_are_not_there_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep.check_launcher("local")
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    for name in ("slurm", "ray"):
        with pytest.raises(ValueError, match=rf"pip install 'distill\[{name}\]'"):
            sweep.check_launcher(name)
    monkeypatch.setattr(sweep, "find_spec", lambda name: name)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="finds no sbatch and srun"):
        sweep.check_launcher("slurm")


# --- real runs

STARTED: list[program.Program] = []


def start(output: Path, *overrides: str, **env: str) -> program.Program:
    """Start a sweep as a shell does, in a group of its own."""
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(REPO)])
    env = {"PYTHONPATH": path, **env}
    started = program.start("-m", *SMALL, f"output={output}", *overrides, env=env, new_session=True)
    STARTED.append(started)
    return started


def logs_of(output: Path) -> list[Path]:
    """The logs of runs; without a look at what a launcher is about to rename."""
    return list(output.glob("digits/*/*/s*/log.txt"))


OFTEN = "save_minutes=0.005"  # so short a run has a checkpoint to go on from


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    """Ends the sweeps that a failed test left behind."""
    yield
    while STARTED:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(STARTED.pop().pid, signal.SIGKILL)


def wait_for(condition: Callable[[], Any], during: program.Program | None = None) -> Any:
    """Wait as long as it takes, which depends on what else the machine does; but not for a sweep that has ended."""
    while not (value := condition()):
        assert during is None or during.poll() is None or condition(), "the sweep has ended without it"
        time.sleep(0.02)
    return value


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def process_of(output: Path, override: str) -> int | None:
    """The process of a run that has saved already."""
    for log in logs_of(output):
        if override in text(log) and list(log.parent.glob("checkpoints/*")):
            return int(re.findall(r"process (\d+)", text(log))[0])
    return None


def test_a_sweep_of_real_runs(output: Path) -> None:
    """One diverges, one is killed from outside and tried again, one just runs; then nothing is left to do."""
    rates = ["0.05", "0.06", "1000000000000.0"]
    sweeping = start(output, "schedule.epochs=6", f"schedule.lr={','.join(rates)}", "hydra.launcher.slots=2")
    os.kill(wait_for(lambda: process_of(output, "schedule.lr=0.06"), sweeping), signal.SIGKILL)
    out, err = sweeping.communicate()
    assert sweeping.returncode == errors.FAILED, err
    ends = sorted((line["overrides"][-1], line["attempt"], line["outcome"]) for line in attempts(output))
    assert ends == [
        ("schedule.lr=0.05", 1, "done"), ("schedule.lr=0.06", 1, "killed by SIGKILL"),
        ("schedule.lr=0.06", 2, "done"), ("schedule.lr=1000000000000.0", 1, "loss not finite"),
    ]  # fmt: skip
    assert "1 run of the sweep failed:" in err and "schedule.lr=1000000000000.0: " in err
    logs = {re.findall(r"schedule\.lr=(\S+)", text(log))[0]: text(log) for log in logs_of(output)}
    assert [rate for rate in rates if "NonFinite" in logs[rate] and "Traceback" in logs[rate]] == ["1000000000000.0"]
    assert logs["0.06"].count("--- python -m distill") == 2 and "test" in logs["0.05"]

    asked = [*SMALL, f"output={output}2", "schedule.epochs=6", "schedule.lr=0.06"]
    assert program.run(*asked).returncode == 0
    (weights,) = Path(f"{output}2").rglob("student.safetensors")
    assert (output / weights.relative_to(f"{output}2")).read_bytes() == weights.read_bytes()

    again = start(output, "schedule.epochs=6", "schedule.lr=0.05,0.06")
    out, err = again.communicate()
    assert (again.returncode, err) == (0, "") and "2 runs: 2 done already, 0 to run" in out
    assert out.count("Trained alone") == 2 and f"python -m distill report {output} --out" in out  # the comparison
    assert len(attempts(output)) == 4


def test_ctrl_c_saves_every_run_and_so_does_the_death_of_the_launcher(output: Path) -> None:
    def running(count: int) -> list[Path]:
        logs = logs_of(output)
        found = [log for log in logs if len(list(log.parent.glob("checkpoints/*"))) >= count]
        return found if len(found) == 2 else []

    long = ("schedule.epochs=9999", "seed=1,2,3", "hydra.launcher.slots=2", OFTEN)
    sweeping = start(output, *long)
    logs = wait_for(lambda: running(2), sweeping)
    os.killpg(sweeping.pid, signal.SIGINT)  # what a terminal does
    out, err = sweeping.communicate()
    assert sweeping.returncode == errors.INTERRUPTED
    assert "1 runs were not started" in err and "failed" not in err
    assert [line["code"] for line in attempts(output)] == [errors.STOPPED] * 2
    assert all("stopped by SIGTERM: " in text(log) for log in logs)
    assert not list(output.rglob("s3/log.txt"))

    sweeping = start(output, *long)
    wait_for(lambda: all(text(log).count("epoch") > 0 and text(log).count("--- python") == 2 for log in logs))
    lengths = {log: len(text(log)) for log in logs}
    wait_for(lambda: all(text(log)[lengths[log] :].count("epoch") > 2 for log in logs))
    os.kill(sweeping.pid, signal.SIGKILL)
    wait_for(lambda: all(text(log).count("stopped by SIGTERM: ") == 2 for log in logs))
    sweeping.communicate()


def test_usage_errors_alone_are_exit_code_2(output: Path, tmp_path: Path) -> None:
    save_file({"of another net": torch.zeros(1)}, tmp_path / "bad.safetensors")
    done = start(output, "method=kd", f"teacher.weights={tmp_path / 'bad.safetensors'}", "seed=1,2")
    out, err = done.communicate()
    assert done.returncode == errors.USAGE and "2 runs of the sweep failed:" in err, err
    assert [line["outcome"] for line in attempts(output)] == ["usage error"] * 2
    assert err.count("bad.safetensors") >= 2


@pytest.mark.launchers
def test_slurm_from_end_to_end(output: Path, tmp_path: Path) -> None:
    """An array of two: one diverges, and is handed in again, since it had ended when the sweep was stopped and launched
    again; one goes on meanwhile, gets SIGTERM and goes on, gets SIGUSR2, is requeued and finishes.
    """
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'distill[slurm]'")
    state = tmp_path / "slurm"
    state.mkdir()
    env = {"PATH": f"{REPO / 'tests' / 'slurm'}:{os.environ['PATH']}", "FAKE_SLURM": str(state)}
    asked = [
        f"hydra.launcher.{item}" for item in ("gpus_per_node=null", "timeout_min=60", "signal_delay_s=30")
    ]
    runs = ["schedule.epochs=60", OFTEN, "schedule.lr=0.05,1000000000000.0"]
    sweeping = start(output, "hydra/launcher=slurm", *asked, *runs, **env)
    log = wait_for(lambda: [one for one in logs_of(output) if "schedule.lr=0.05" in text(one)], sweeping)[0]

    def scancel(name: str) -> None:
        subprocess.run(["scancel", "--signal", name, "1001_0"], env=os.environ | env, check=True)

    wait_for(lambda: list(log.parent.glob("checkpoints/*")), sweeping)
    sweeping.send_signal(signal.SIGTERM)
    assert "(scancel 1001 ends them); the same command goes on" in sweeping.communicate()[1]
    sweeping = start(output, "hydra/launcher=slurm", *asked, *runs, **env)
    wait_for(lambda: "in the queue already, as 1001: not handed in again" in sweeping.said()[0], sweeping)
    scancel("TERM")
    wait_for(lambda: "stopped by SIGTERM" in text(log), sweeping)
    wait_for(lambda: "epoch" in text(log).partition("stopped by SIGTERM")[2], sweeping)
    scancel("USR2")
    out, err = sweeping.communicate()
    assert sweeping.returncode == errors.FAILED, out + err
    assert "  schedule.lr=1000000000000.0: " in err and "1 run of the sweep failed" in err
    assert [(state / name / "restarts").read_text() for name in ("1001_0", "1001_1")] == ["1", "0"]
    ends = {(line["overrides"][-1], line["outcome"]): line["slurm"] for line in attempts(output)}
    assert ends.keys() == {("schedule.lr=0.05", "done"), ("schedule.lr=1000000000000.0", "loss not finite")}
    assert ends["schedule.lr=0.05", "done"] == "1001_0"
    assert text(log).count("--- python -m distill") == 2
    assert "stopped by SIGUSR2: " in text(log)
    rows = [json.loads(line) for line in (log.parent / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == list(range(1, 61))
    (other,) = [one for one in logs_of(output) if one != log]
    assert "Traceback" in text(other) and "NonFinite" in text(other) and ".snapshots/" in text(other)
    script = next((output / ".submitit").rglob("1001_submission.sh")).read_text()
    for flag in ("array=0-1%2", "signal=USR2@30", "open-mode=append", "job-name=distill", "time=60"):
        assert f"#SBATCH --{flag}" in script


@pytest.mark.slow
def test_ray_from_end_to_end(output: Path) -> None:
    """A cluster on this machine: one run is killed and tried again, one diverges, one just runs."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'distill[ray]'")
    runs = ["schedule.epochs=60", "schedule.lr=0.05,0.06,1000000000000.0"]
    sweeping = start(output, "hydra/launcher=ray", "+hydra.launcher.init.num_cpus=2", *runs)
    os.kill(wait_for(lambda: process_of(output, "schedule.lr=0.06"), sweeping), signal.SIGKILL)
    out, err = sweeping.communicate()
    assert sweeping.returncode == errors.FAILED, out + err
    ends = sorted((line["overrides"][-1], line["attempt"], line["outcome"]) for line in attempts(output))
    assert ends == [
        ("schedule.lr=0.05", 1, "done"), ("schedule.lr=0.06", 1, "failed"),
        ("schedule.lr=0.06", 2, "done"), ("schedule.lr=1000000000000.0", 1, "loss not finite"),
    ]  # fmt: skip


def test_a_line_of_attempts_that_a_full_disk_cut_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room for 100 bytes, then for none, then for all."""
    sweep, write, room = jobs.Sweep.__new__(jobs.Sweep), os.write, [100, 0, 10**6, 10**6]

    def written(handle: int, data: bytes) -> int:
        if not (left := room.pop(0)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[:left])

    monkeypatch.setattr(jobs.os, "write", written)
    sweep.output, sweep._unwritten = tmp_path, []
    for number in range(2):
        job = jobs.Job(f"j{number}", [], [], tmp_path / "d/t-s/m-1" / f"s{number}")
        sweep._write(job, 1, "a reason", False, {})
    assert [line["folder"][-2:] for line in attempts(tmp_path)] == ["s0", "s1"]


def test_lines_of_attempts_that_others_wrote_are_passed_over(tmp_path: Path) -> None:
    good = {"folder": "out/d/t-s/m-1/s1", "command": "distill", "why": "", "outcome": "done", "code": 0}
    lines = [good, good | {"command": ["x"]}, good | {"code": "0"}, [1], {"folder": 3}]
    (tmp_path / "sweep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"folder": "out/')
    assert jobs.last_attempts(tmp_path) == {tmp_path / "d/t-s/m-1/s1": good}
