"""Learning curves: test accuracy after each epoch, as mean and spread over the seeds of a configuration."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from distill.report.stats import sample
from distill.report.summary import Row

POINTS = 160  # of a drawn curve; more cannot be seen


@dataclass(frozen=True)
class Curve:
    """Mean test accuracy (percent) at `epochs`, counted over all phases, with the range over n seeds."""

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    n: int


def curve(row: Row) -> Curve | None:
    """The curve of a row from the metrics.jsonl files beside its results; None where there is none."""
    seeds = [points for points in (_points(run.folder / "metrics.jsonl") for run in row.runs) if points]
    if not seeds:
        return None
    shared = sorted(set.intersection(*(set(points) for points in seeds)))
    shared = _thinned(shared)
    if len(shared) < 2:
        return None
    columns = [[points[epoch] for points in seeds] for epoch in shared]
    means = [got.mean for got in map(sample, columns) if got]
    return Curve(
        shared, means, [min(column) for column in columns], [max(column) for column in columns], len(seeds)
    )


def _points(path: Path) -> dict[int, float]:
    """Epoch, counted over the phases, to test accuracy. Damaged lines are passed over; no file, no points."""
    points: dict[int, float] = {}
    epoch = 0
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if (
                    '"epoch"' not in line or '"kind": "step"' in line
                ):  # step rows are many: skip them unparsed
                    continue
                row = _parsed(line)
                if row.get("kind") != "epoch":
                    continue
                epoch += 1
                accuracy = row.get("test_accuracy")
                if isinstance(accuracy, int | float) and math.isfinite(accuracy):
                    points[epoch] = float(accuracy)
    except OSError:
        return {}
    return points


def _parsed(line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _thinned(epochs: list[int]) -> list[int]:
    """At most POINTS of them, the last one among them."""
    step = math.ceil(len(epochs) / POINTS) if epochs else 1
    return sorted({*epochs[::step], *epochs[-1:]})
