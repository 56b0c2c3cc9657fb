"""What is left of a run: result.json, the student, DONE."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from distill import config
from distill.config import upstream
from distill.config.departs import departs
from distill.data import Data
from distill.engine.checkpoint import export
from distill.engine.cost import step_share
from distill.engine.evaluate import accuracy, predict, scores, told, without_classes
from distill.engine.fit import Fit
from distill.method import Method
from distill.models import FeatureNet, quant_file
from distill.models.quant import plain
from distill.record.tracker import command_line
from distill.result import Result
from distill.run_folder import RunFolder
from distill.teachers.store import Teacher, compare


def describe(
    cfg: DictConfig, folder: RunFolder, data: Data, teachers: list[Teacher], method: Method, fit: Fit
) -> dict[str, Any]:
    """Return what result.json holds, but for times and the machine."""
    net = method.deployed()
    logits, labels = predict(net, data.evaluation(512), fit.options.autocast)
    measured = scores(logits, labels)
    return {
        "dataset": str(cfg.dataset.name), "evaluated_on": data.info.evaluated_on,
        "teacher": config.teacher_name(cfg) if teachers else None, "student": str(cfg.student.name),
        "method": str(cfg.method.name), "hash": config.identity(cfg)["hash"], "seed": int(cfg.seed),
        "protocol": str(cfg.schedule.name),
        "setting": setting(cfg),
        "departs": departs(cfg.method),
        "convention": {key: cfg.method.get(key) for key in ("ce", "kd", "weight") if key in cfg.method},
        "accuracy": {"last": fit.score.last, "best": fit.score.best, "best_epoch": fit.score.best_epoch},
        "errors": measured["errors"], "top5": measured["top5"], "nll": measured["nll"], "ece": measured["ece"],
        "also": {key: told(more, data, fit.options.autocast) for key, more in method.reported().items()},
        "epochs": int(fit.schedule["epochs"]),
        **compare(teachers, logits, data, fit.options.autocast),
        **without_classes(logits, labels, data.info.labels),
        **quant_file.report(net, folder.path, lambda made: accuracy(made, data, fit.options.autocast)),
        "input": takes(plain(net), data),
        "params": plain(net).params(), "macs": plain(net).macs(),
        "method_params": sum(p.numel() for p in method.parameters()) - net.params(),
        "images_per_second": fit.speed.rate,
        "waiting": fit.speed.waiting,  # 0 to 1: the share of training's time in which data had not come from its files
        "command": command_line(),
        "files": {"folder": str(folder), "last": folder.student.name, "best": folder.best.name,
                  "metrics": folder.metrics.name, "config": folder.tracking.name},
    }  # fmt: skip


def takes(net: FeatureNet, data: Data) -> dict[str, Any]:
    """Return what the exported net takes: pixels of 0 to 1 at this size, less mean, by std."""
    mean, std = net.constants(data.info.mean, data.info.std)
    return {"size": data.info.size, "channels": data.info.in_chans, "mean": mean, "std": std}


def setting(cfg: DictConfig) -> list[str]:
    """Return what makes a run another task than its data set's plain one: fewer images, other views, few bits."""
    usual: dict[str, Any] = {
        "shots": None,
        "omit": [],
        "fraction": 1.0,
        "holdout": 0.0,
        "views": {"teacher": None, "student": None},
    }
    data = config.plain(cfg, "dataset")
    found = [
        f"dataset.{key}={data[key]}"
        for key in ("shots", "omit", "fraction", "holdout")
        if data.get(key, usual[key]) != usual[key]
    ]
    found += [f"dataset.views.{side}={view}" for side, view in (data.get("views") or {}).items() if view]
    found += [f"dataset.classes={data['classes']}"] if data.get("classes") else []
    found += upstream.names(cfg)
    bits = config.plain(cfg, "student").get("quantize")
    return sorted(found + ([f"student.quantize={bits}"] if bits else []))


def finish(folder: RunFolder, result: dict[str, Any], method: Method, fit: Fit) -> Result:
    """Write the student and the result, which is returned; DONE comes last, then the checkpoints are given up."""
    student = plain(method.deployed())
    export(student.model, folder.student, {"model": student.name})
    finished = folder.finish(result | {"method_share_of_step": step_share(fit)})
    fit.checkpoints.clear()
    return finished
