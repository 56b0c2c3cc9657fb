"""A finished run, told to W&B from its own files: where it was made without, or is asked for again by W&B's agent."""

from __future__ import annotations

import os

from distill.config import RunSpec
from distill.record.wandb_logger import WandbLogger
from distill.run_folder import RunFolder


def replay(mirror: WandbLogger, run: RunFolder) -> bool:
    """Hand a finished run's rows and result to W&B; False where its server, or offline the disk, lacks some."""
    result, online = run.read_result(), mirror.online
    for row in run.rows():
        mirror.log(row)
    whole = mirror.run is not None
    name = "knn_accuracy" if result.score is result.knn else "test_accuracy"
    told = {f"{name}/last": result.score.last, f"{name}/best": result.score.best}  # as the run itself tells it
    mirror.finish(0, result.to_json() | told)
    return whole and mirror.sent == online


def answer_agent(spec: RunSpec, names: dict[str, object]) -> None:
    """Where W&B's agent has asked for a run that is done already, tell its sweep of it, which would learn nothing."""
    if "WANDB_SWEEP_ID" in os.environ and spec.tracking.get("mode") in ("online", "offline"):
        replay(WandbLogger(spec.folder, spec.tracking, spec.composed, names), RunFolder(spec.folder))
