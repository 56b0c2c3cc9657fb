"""The small table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill import config
from distill.files import read_json
from distill.record.progress import NEGLIGIBLE, clock, final_table


def show(cfg: DictConfig, result: Mapping[str, Any]) -> None:
    """Print who taught whom, how well, at what cost, and where the files are."""
    accuracy = result["accuracy"]
    rows: list[tuple[str, str]] = []
    if result.get("teacher"):
        rows.append((f"teacher {result['teacher']}", f"{result['teacher_accuracy']:.2f} %"))
    if (alone := student_alone(cfg)) is not None:
        rows.append((f"student {result['student']} alone", _last_and_best(alone["accuracy"])))
    rows.append((f"student {result['student']}, {result['method']}", _last_and_best(accuracy)))
    if "agreement" in result:
        rows.append(("agreement with the teacher", f"{100 * result['agreement']:.2f} %"))
    rows += [
        ("parameters", f"{result['params']:,}{_own_parts(result)}"),
        ("multiply-accumulates an image", f"{result['macs'] / 1e6:.1f} M"),
        ("training", _training(result)),
        ("files", result["files"]["folder"]),
    ]
    where = "held-out part" if result.get("evaluated_on") == "holdout" else "test set"
    final_table(rows, title=f"{result['dataset']}, {where}, seed {result['seed']}")


def student_alone(cfg: DictConfig) -> dict[str, Any] | None:
    """Return the finished `none` run of the same student, data, schedule, precision and seed, if there is one."""
    if str(cfg.method.name) == "none":
        return None
    alone = cfg.copy()
    OmegaConf.set_struct(alone, False)
    alone["method"] = config.load("method", "none")
    folder = Path(config.identity(alone)["folder"])
    return read_json(folder / "result.json") if (folder / "DONE").exists() else None


def _training(result: Mapping[str, Any]) -> str:
    """How fast it was, and how much of it went by in waiting, where that is something."""
    told = f"{result['images_per_second'] or 0:,.0f} images/s, {result['precision']}, {clock(result['seconds'])}"
    waiting = result.get("waiting") or 0
    return f"{told}, {waiting:.0%} waiting for data" if waiting >= NEGLIGIBLE else told


def _own_parts(result: Mapping[str, Any]) -> str:
    """What the method adds in training, where that is something."""
    share = result.get("method_share_of_step")
    cost = "" if share is None else f", {100 * share:.0f} % of the step"
    return (
        f" (method: {result['method_params']:,} more{cost})" if result["method_params"] or (share or 0) > 0.05 else ""
    )


def _last_and_best(accuracy: Mapping[str, Any]) -> str:
    if accuracy.get("last") is None:
        return "not measured"
    return f"{accuracy['last']:.2f} % last, {accuracy['best']:.2f} % best (epoch {accuracy['best_epoch']})"
