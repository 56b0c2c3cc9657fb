"""One experiment, from its configuration to result.json. Read this first."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from torch import nn

from distill import config, runtime, summary
from distill.checkpoint import Checkpoints, export
from distill.data import Data, load
from distill.errors import exit_code
from distill.evaluate import predict, scores, without_classes
from distill.files import read_json, write_json, write_text
from distill.fit import Fit, Options
from distill.method import Method, Phase
from distill.models import build
from distill.progress import Progress
from distill.signals import StopSignals
from distill.teachers import Teacher, compare, get_teachers
from distill.track import Tracker

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: str | Path, *, table: bool = True) -> dict[str, Any]:
    """Run the experiment that `cfg` describes in `folder`, or return its result where it is done already.

    Cut off, it goes on from its last checkpoint. Two processes on one folder take turns. The end shows a small table.
    Raises ValueError for what the user can mend, NonFinite, NoValidCheckpoint, Stopped.
    """
    folder = Path(folder)
    with _only_here(folder):
        result = stored_result(folder)
        if result is None:
            result = _run(cfg, folder)
        elif table:
            log.info("%s is done already: this is its result", folder)
    if table:
        summary.show(cfg, result)
    return result


def stored_result(folder: str | Path) -> dict[str, Any] | None:
    """Return the result of a finished run, or None."""
    folder = Path(folder)
    return read_json(folder / "result.json") if (folder / "DONE").exists() else None


@contextmanager
def _only_here(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, after waiting for another process that holds it."""
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process works in %s: waiting for it", folder)
        lock.acquire()
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}): choose another folder with output=...") from error
    try:
        yield
    finally:
        lock.release()


def _run(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    started = time.time()
    device = runtime.pick_device(str(cfg.device))
    precision = runtime.pick_precision(str(cfg.precision), device)
    if cfg.threads:
        torch.set_num_threads(int(cfg.threads))
    data = load(config.plain(cfg, "dataset"), device)
    teachers = get_teachers(cfg, data, device, train=partial(run, table=False))
    runtime.seed_everything(int(cfg.seed))
    method = make_method(cfg, data, teachers, device)
    schedule = make_schedule(cfg)
    source = data.source(batch_size=int(schedule["batch_size"]), seed=int(cfg.seed))
    autocast = partial(runtime.autocast, device, precision)
    options = Options(autocast, precision == "fp16", int(cfg.log_every), 60 * float(cfg.save_minutes))
    watch = Watch(folder)
    with StopSignals() as stop:
        fit = Fit(method, source, partial(accuracy, data=data, autocast=autocast), schedule, options,
                  Checkpoints(folder / "checkpoints"), watch, stop)  # fmt: skip
        watch.tracker = make_tracker(cfg, folder, fit.restore(), teachers)
        code = 1
        try:
            for _ in fit.steps():
                pass
            result = describe(cfg, folder, data, teachers, method, fit) | {
                "seconds": time.time() - started, "precision": precision, **runtime.describe(device),
            }  # fmt: skip
            code = 0
        except BaseException as error:
            code = exit_code(error)
            raise
        finally:
            watch.close(code, fit)
    finish(folder, result, method, fit)
    return result


def make_method(cfg: DictConfig, data: Data, teachers: list[Teacher], device: torch.device) -> Method:
    """Build student and method, seeded by the caller, on the device."""
    spec, info = config.plain(cfg, "student"), data.info
    student = build(
        spec["model"], info.num_classes, in_chans=info.in_chans, size=info.size,
        pretrained=bool(spec.get("pretrained")), args=spec.get("args") or {}, seed=int(cfg.seed),
    )  # fmt: skip
    method: Method = config.build(cfg.method, student=student, teachers=[t.net for t in teachers], data=info)
    return method.to(device=device, memory_format=torch.channels_last)


def make_schedule(cfg: DictConfig) -> dict[str, Any]:
    """Return the schedule with the student's learning-rate factor put in (0.2 for the mobile nets' 0.01)."""
    schedule: dict[str, Any] = config.plain(cfg, "schedule")
    return schedule | {"lr": float(schedule["lr"]) * float(cfg.student.get("lr_scale") or 1.0)}


def accuracy(net: nn.Module, data: Data, autocast: Any) -> float:
    """Top-1 accuracy in percent on the split that is evaluated."""
    logits, labels = predict(net, data.evaluation(512), autocast)
    return 100 * (logits.argmax(1) == labels).double().mean().item()


class Watch:
    """Shows and records what the loop reports."""

    tracker: Tracker

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progress: Progress | None = None

    def begin_epoch(self, fit: Fit, phase: Phase, steps: int) -> None:
        if self.progress is None:
            self.progress = Progress(fit.epochs_left(), steps)
        self.progress.epoch_start(phase.name, fit.at.epoch, fit.epochs(phase), steps)

    def step(self, row: dict[str, Any]) -> None:
        assert self.progress
        self.progress.update(row["epoch_step"], row["loss"], row["train_accuracy"], row["images_per_second"])
        self.tracker.log({"kind": "step", **row})

    def epoch(self, row: dict[str, Any]) -> None:
        assert self.progress
        self.tracker.log({"kind": "epoch", **row})
        self.progress.epoch_end(row)

    def best(self, net: nn.Module) -> None:
        export(net.model, self.folder / "best.safetensors")

    def close(self, code: int, fit: Fit) -> None:
        if self.progress:
            self.progress.close()
        self.tracker.finish(code, {"test_accuracy/last": fit.score.last, "test_accuracy/best": fit.score.best})


def make_tracker(cfg: DictConfig, folder: Path, resume_at: int | None, teachers: list[Teacher]) -> Tracker:
    """Return the run's tracker: one W&B run a (configuration, seed), grouped by configuration."""
    who = config.identity(cfg)
    pair = f"{config.teacher_name(cfg)}-{cfg.student.name}" if teachers else str(cfg.student.name)
    names = {
        "group": f"{cfg.dataset.name}/{pair}/{cfg.method.name}-{who['hash']}",
        "id": f"{who['hash']}-s{cfg.seed}",
        "name": f"{cfg.method.name}-{pair}-s{cfg.seed}",
        "job_type": "distill" if teachers else "teacher",
        "tags": [str(cfg.method.name), str(cfg.student.name), str(cfg.dataset.name)],
    }
    tracking = {key: cfg.tracking[key] for key in cfg.tracking}
    shown = OmegaConf.to_container(cfg, resolve=False)
    return Tracker(folder, tracking, shown, names, resume_at)  # type: ignore[arg-type]


def describe(cfg: DictConfig, folder: Path, data: Data, teachers: list[Teacher], method: Method, fit: Fit) -> dict[str, Any]:
    """Return what result.json holds, but for times and the machine."""
    net = method.deployed()
    logits, labels = predict(net, data.evaluation(512), fit.options.autocast)
    measured = scores(logits, labels)
    return {
        "dataset": str(cfg.dataset.name), "evaluated_on": data.info.evaluated_on,
        "teacher": config.teacher_name(cfg) if teachers else None, "student": str(cfg.student.name),
        "method": str(cfg.method.name), "hash": config.identity(cfg)["hash"], "seed": int(cfg.seed),
        "protocol": str(cfg.schedule.name),
        "convention": {key: cfg.method.get(key) for key in ("ce", "kd", "weight") if key in cfg.method},
        "accuracy": {"last": fit.score.last, "best": fit.score.best, "best_epoch": fit.score.best_epoch},
        "top5": measured["top5"], "nll": measured["nll"], "ece": measured["ece"],
        "also": {key: accuracy(more, data, fit.options.autocast) for key, more in method.reported().items()},
        "epochs": int(cfg.schedule.epochs),
        **compare(teachers, logits, data, fit.options.autocast),
        **without_classes(logits, labels, data.info.labels),
        "params": net.params(), "macs": net.macs(),
        "method_params": sum(p.numel() for p in method.parameters()) - net.params(),
        "images_per_second": fit.speed.rate,
        "command": shlex.join(["python", "-m", "distill", *sys.argv[1:]]),
        "files": {"folder": str(folder), "last": "student.safetensors", "best": "best.safetensors",
                  "metrics": "metrics.jsonl", "config": "config.yaml"},
    }  # fmt: skip


def finish(folder: Path, result: dict[str, Any], method: Method, fit: Fit) -> None:
    """Write the student and the result; DONE comes last, and only then are the checkpoints given up."""
    export(method.deployed().model, folder / "student.safetensors", {"model": method.deployed().name})
    write_json(folder / "result.json", result)
    write_text(folder / "DONE", "")
    fit.checkpoints.clear()
