"""Learning curves: test accuracy after each epoch, as mean and spread over the seeds of a configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill.report.stats import sample
from distill.report.summary import Row
from distill.result import as_number
from distill.run_folder import RunFolder, score_in

POINTS = 160  # of a drawn curve; more cannot be seen


@dataclass(frozen=True)
class _Curve:
    """Mean test accuracy (percent) at `epochs`, counted as accuracy.best_epoch is, with the range over n seeds."""

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    n: int


def curve(row: Row) -> _Curve | None:
    """The curve of a row from the metrics.jsonl files beside its results; None where there is none."""
    seeds = [points for points in (_points(RunFolder(run.folder)) for run in row.runs) if points]
    if not seeds:
        return None
    shared = sorted(set.intersection(*(set(points) for points in seeds)))
    shared = _thinned(shared)
    if len(shared) < 2:
        return None
    columns = [[points[epoch] for points in seeds] for epoch in shared]
    means = [over_seeds.mean for over_seeds in map(sample, columns) if over_seeds]
    return _Curve(
        shared, means, [min(column) for column in columns], [max(column) for column in columns], len(seeds)
    )


def _points(folder: RunFolder) -> dict[int, float]:
    """Epoch, counted over the phases that measure the student, to test accuracy."""
    rows = [(row.get("phase"), as_number(score_in(row))) for row in folder.rows("epoch")]
    phases = {phase for phase, accuracy in rows if accuracy is not None}
    measured = enumerate((accuracy for phase, accuracy in rows if phase in phases), 1)
    return {epoch: accuracy for epoch, accuracy in measured if accuracy is not None}


def _thinned(epochs: list[int]) -> list[int]:
    """At most POINTS of them, the last one among them."""
    step = math.ceil(len(epochs) / POINTS) if epochs else 1
    return sorted({*epochs[::step], *epochs[-1:]})
