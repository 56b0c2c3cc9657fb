"""What the loop reports: to the terminal, to metrics.jsonl and its mirror, to best.safetensors."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from distill.config import RunSpec
from distill.cores import own_cores
from distill.engine.checkpoint import exported
from distill.engine.fit import Fit
from distill.files import replacing
from distill.models import FeatureNet
from distill.models.quant import unquantized
from distill.record.progress import Progress
from distill.record.tracker import Tracker
from distill.run_folder import RunFolder

log = logging.getLogger(__name__)
LONG = 0.2  # share of the time waited for data that is worth a warning


class Reporter:
    """Shows and records what the loop reports."""

    tracker: Tracker

    def __init__(self, folder: Path, quiet: bool | None = None) -> None:
        self.folder, self.quiet = folder, quiet
        self.progress: Progress | None = None
        self._warned = False
        self._best: bytes | None = None  # weights that are to be written

    def begin_epoch(self, phase: str, epoch: int, epochs: int, epochs_left: int, steps: int, done: int) -> None:
        if self.progress is None:
            self.progress = Progress(epochs_left, steps, self.quiet, begun=done / steps)
        self.progress.epoch_start(phase, epoch, epochs, steps)

    def step(self, row: dict[str, Any]) -> None:
        assert self.progress
        measured = (row["loss"], row.get("train_accuracy"), row["images_per_second"], row.get("waiting"))
        self.progress.update(row["epoch_step"], *measured)
        self.tracker.log({"kind": "step", **row})

    def epoch(self, row: dict[str, Any]) -> None:
        assert self.progress
        self.tracker.log({"kind": "epoch", **row})
        self.progress.epoch_end(row)
        if (waiting := row.get("waiting") or 0) > LONG and not self._warned:
            self._warned = True
            remedy = f"raise dataset.workers=, up to {own_cores()}, this process's processors, or store smaller images"
            log.warning("%.0f %% of the time was spent in waiting for data: %s", 100 * waiting, remedy)

    def best(self, net: FeatureNet) -> None:
        self._best = exported(unquantized(net).model)

    def flush(self) -> None:
        self.tracker.flush()
        if self._best is not None:
            with replacing(RunFolder(self.folder).best) as file:
                file.write(self._best)
            self._best = None

    def close(self, code: int, fit: Fit) -> None:
        if self.progress:
            self.progress.close()
        name = fit.score_names[0]
        self.tracker.finish(code, {f"{name}/last": fit.score.last, f"{name}/best": fit.score.best})


class NullReporter:
    """What the processes after the first of a run tell their reports to."""

    def begin_epoch(self, phase: str, epoch: int, epochs: int, epochs_left: int, steps: int, done: int) -> None: ...
    def step(self, row: dict[str, Any]) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def best(self, net: FeatureNet) -> None: ...
    def flush(self) -> None: ...
    def close(self, code: int, fit: Fit) -> None: ...


def names_of(spec: RunSpec) -> dict[str, Any]:
    """What W&B knows a run by: one of its runs is a (configuration, seed), grouped by configuration."""
    student, dataset, method = spec.student.name, spec.dataset.name, spec.method.name
    pair = f"{spec.teacher}-{student}" if spec.teacher else student
    return {
        "group": f"{dataset}/{pair}/{method}-{spec.hash}",
        "id": f"{spec.hash}-s{spec.seed}",
        "name": f"{method}-{pair}-s{spec.seed}",
        "job_type": "distill" if spec.teacher else "teacher",
        "tags": [method, student, dataset],
    }


def make_tracker(spec: RunSpec, resume_at: int | None, choices: dict[str, Any]) -> Tracker:
    """Return the run's tracker."""
    return Tracker(spec.folder, spec.tracking, spec.composed, names_of(spec), resume_at, choices)
