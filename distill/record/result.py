"""What is left of a run: result.json, the student, DONE."""

from __future__ import annotations

from typing import Any

from distill.config import RunSpec
from distill.content.state_file import sum_of
from distill.data import Data
from distill.engine.checkpoint import export
from distill.engine.cost import step_share
from distill.engine.evaluate import Evaluation, accuracy, reported_score, scores, without_classes
from distill.engine.fit import Fit
from distill.files import persist
from distill.method import Method
from distill.models import FeatureNet, quant_file
from distill.models.quant import unquantized
from distill.record.tracker import command_line
from distill.result import Result
from distill.run_folder import RunFolder
from distill.teachers.store import Teacher, compare_teachers


def describe_run(
    spec: RunSpec, data: Data, teachers: list[Teacher], method: Method, fit: Fit, evaluation: Evaluation
) -> dict[str, Any]:
    """Return what result.json holds, but for times and the machine."""
    folder, net = RunFolder(spec.folder), fit.deployed()
    return {
        "dataset": spec.dataset.name, "evaluated_on": data.info.evaluated_on,
        "teacher": spec.teacher, "student": spec.student.name,
        "method": spec.method.name, "hash": spec.hash, "seed": spec.seed,
        "protocol": spec.schedule.name,
        "setting": list(spec.setting),
        "departs": spec.method.departs,
        "convention": spec.method.convention,
        **_of_logits(net, data, teachers, fit, evaluation),
        "also": {key: reported_score(more, data, fit.options.autocast) for key, more in method.reported().items()}
        | fit.score.beside | ({} if fit.score.best_net is None else {"best_net": fit.score.best_net}),
        "epochs": fit.schedule.epochs,
        **({"exported": exported_net(fit)} if fit.average else {}),
        **persist(lambda: quant_file.report(net, folder.path, lambda made: _accuracy(made, data, fit))),
        "input": takes(unquantized(net), data), "classes": list(data.info.class_names),  # in the order of the logits
        "args": (unquantized(net).recipe or {}).get("args") or None,  # of the net, which a method may have chosen
        "params": unquantized(net).params(), "macs": unquantized(net).macs(),
        "method_params": sum(p.numel() for p in method.parameters()) - net.params(),
        "images_per_second": fit.speed.rate,
        "waiting": fit.speed.waiting,  # 0 to 1: the share of training's time in which data had not come from its files
        "command": command_line(),
        "files": {"folder": str(folder), "last": folder.student.name, "best": folder.best.name,
                  "metrics": folder.metrics.name, "config": folder.tracking.name},
    }  # fmt: skip


def exported_net(fit: Fit) -> str:
    """Say which of the two nets of schedule.ema the exported one is."""
    what = f"average of its weights (ema {fit.schedule.ema:g})"
    return f"the student's {what}" if fit.schedule.ema_export else f"the student, not the {what}"


def _of_logits(
    net: FeatureNet, data: Data, teachers: list[Teacher], fit: Fit, evaluation: Evaluation
) -> dict[str, Any]:
    """What a classifier is worth, and how it compares with its teachers; of a net without one, that nobody knows."""
    autocast = fit.options.autocast
    if not data.info.num_classes:
        unknown = {"accuracy": dict.fromkeys(("last", "best", "best_epoch"))}
        return unknown | compare_teachers(teachers, None, data, autocast)
    logits, labels = evaluation.last_logits(net, unchanged=fit.evaluated == fit.at.total)
    measured = scores(logits, labels)
    return {
        "accuracy": {"last": fit.score.last, "best": fit.score.best, "best_epoch": fit.score.best_epoch},
        **{key: measured[key] for key in ("errors", "top5", "nll", "ece")},
        **compare_teachers(teachers, logits, data, autocast),
        **without_classes(logits, labels, data.info.classes),
    }


def _accuracy(net: Any, data: Data, fit: Fit) -> float | None:
    return accuracy(net, data, fit.options.autocast) if data.info.num_classes else None


def takes(net: FeatureNet, data: Data) -> dict[str, Any]:
    """Return what the exported net takes: pixels of 0 to 1 at this size, less mean, by std; border: of zeros, which
    belongs to the size.
    """
    mean, std = net.constants(data.info.mean, data.info.std)
    border = {"border": data.info.border} if data.info.border else {}
    return {"size": data.info.size, "channels": data.info.in_chans, "mean": mean, "std": std, **border}


def finish(folder: RunFolder, result: dict[str, Any], method: Method, fit: Fit) -> Result:
    """Write the student and the result, which is returned; DONE comes last, then the checkpoints are given up."""
    student = unquantized(fit.deployed())
    persist(fit.callback.flush)
    persist(lambda: export(student.model, folder.student, {"model": student.name}))
    weights = {"weights": sum_of(folder.student)}  # what a run that this one teaches finds them by
    weights |= {"best_weights": sum_of(folder.best)} if folder.best.is_file() else {}
    whole = result | weights | {"method_share_of_step": step_share(fit)}  # after the export, for it goes on training
    finished = persist(lambda: folder.finish(whole))
    fit.saving.checkpoints.clear()
    return finished
