"""Learning curves: test accuracy and the named loss terms, as mean and range over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import distill.charts as charts
from distill.analyze.analysis_data import AnalysisData
from distill.analyze.style import ALONE_COLOUR, STUDENT_COLOUR, Picture
from distill.charts.panels import panels
from distill.charts.svg import Drawing
from distill.engine.meter import ROW_KEYS
from distill.report.curves import curve
from distill.report.summary import Row
from distill.run_folder import RunFolder, score_in

TERMS = 6


def draw(analysis: AnalysisData) -> Picture | None:
    """None for a run whose metrics.jsonl has fewer than two epochs."""
    row = analysis.row
    if row is None or (band := curve(row)) is None:
        return None
    histories = [RunFolder(run.folder).rows("epoch") for run in row.runs]
    terms, axis = losses(histories), "epoch of all phases" if any(map(_has_unmeasured, histories)) else "epoch"
    drawn = [_accuracies(analysis, row), *([_losses(terms, axis)] if terms else [])]
    seeds = "one seed" if band.n == 1 else f"mean and range over {band.n} seeds"
    caption = f"Accuracy on the {analysis.part} images after each epoch, {seeds}; the axis is that of the last quarter."
    caption += terms_shown(len(terms))
    caption += " Its epochs count phases that measure no accuracy as well." if terms and axis != "epoch" else ""
    numbers = {
        "epochs": band.epochs,
        "mean": band.mean,
        "low": band.low,
        "high": band.high,
        "seeds": band.n,
        "losses": terms,
    }
    return Picture("curves", "Learning curves", caption, panels(drawn, "Learning curves"), numbers, wide=bool(terms))


def _accuracies(analysis: AnalysisData, row: Row) -> Drawing:
    drawn = [(row, STUDENT_COLOUR, row.one.method)]
    drawn += [(row.baseline, ALONE_COLOUR, "student alone")] if row.baseline else []  # which the report measures it by
    shown = []
    for one, kind, label in drawn:
        if (band := curve(one)) is not None:
            shown.append(charts.Curve(f"{label}, n = {band.n}:", band.epochs, band.mean, band.low, band.high, kind))
    marks = [charts.Mark(f"teacher {row.one.teacher_net}", row.teacher.mean, "teacher")] if row.teacher else []
    return charts.curves(shown, marks, ("epoch", f"{analysis.part} accuracy, %"), "Accuracy after each epoch")


def _is_loss(name: str) -> bool:
    """Whether a row's entry is a term of the loss: all but accuracies of whatever net and few others are."""
    return name not in ROW_KEYS and not name.endswith("_accuracy")


def losses(histories: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, list[float]]]:
    """Each loss term at each epoch (counted over all phases), as mean, low and high over seeds' epoch rows.

    Epochs that lack a term (those of another phase, or of a seed that is behind) are left out.
    """
    length = min(map(len, histories), default=0)
    names = dict.fromkeys(name for rows in histories for row in rows for name in row if _is_loss(name))
    found: dict[str, dict[str, list[float]]] = {}
    for name in names:
        whole = {
            epoch: [float(rows[epoch][name]) for rows in histories]
            for epoch in range(length)
            if all(isinstance(rows[epoch].get(name), int | float) for rows in histories)
        }
        if whole:
            found[name] = {
                "epochs": [epoch + 1 for epoch in whole],
                "mean": [sum(values) / len(values) for values in whole.values()],
                "low": [min(values) for values in whole.values()],
                "high": [max(values) for values in whole.values()],
            }
    return found


def _has_unmeasured(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a phase measures no accuracy, so that the epochs of accuracies are fewer than those of losses."""
    measured = {row.get("phase") for row in rows if score_in(row) is not None}
    return not {row.get("phase") for row in rows} <= measured


def terms_shown(count: int) -> str:
    """The caption's sentence on the terms of the loss."""
    which = f"the first {TERMS} of the {count} terms" if count > TERMS else "each term"
    return f" Then {which} of the training loss." if count else ""


def _losses(terms: Mapping[str, Mapping[str, list[float]]], axis: str) -> Drawing:
    kept = dict(list(terms.items())[:TERMS])
    drawn = [
        charts.Curve(name, term["epochs"], term["mean"], term["low"], term["high"], f"s{2 + place}")
        for place, (name, term) in enumerate(kept.items())
    ]
    ends = [value for term in kept.values() for value in (*term["low"], *term["high"])]
    log = min(ends) > 0 and max(ends) > 10 * min(ends)
    return charts.curves(drawn, [], (axis, "weighted loss"), "Terms of the training loss", last=1.0, log=log)
