"""Learning curves: test accuracy and the named loss terms, as mean and range over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from distill.analyze.material import Material
from distill.analyze.style import ALONE, COLOURS, STUDENT, TEACHER, Picture, blank, grid
from distill.report.curves import curve
from distill.report.summary import ALONE as NONE
from distill.report.summary import Row, student_place
from distill.run_folder import RunFolder

NOT_LOSSES = {"kind", "phase", "epoch", "epochs", "step", "lr", "loss", "images_per_second", "waiting"}
NOT_LOSSES |= {"train_accuracy", "test_accuracy", "best_accuracy"}
TERMS = 6


def draw(material: Material) -> Picture | None:
    """None for a run whose metrics.jsonl has fewer than two epochs."""
    row = material.row
    if row is None or (got := curve(row)) is None:
        return None
    histories = [RunFolder(run.folder).rows("epoch") for run in row.runs]
    terms = losses(histories)
    figure, axes = blank(1, 1 + bool(terms), (9.6 if terms else 5.4, 3.6))
    _accuracies(axes[0, 0], material, row)
    if terms:
        _losses(axes[0, 1], terms)
    seeds = "one seed" if got.n == 1 else f"mean and range over {got.n} seeds"
    caption = f"Left: accuracy on the test images after each epoch, {seeds}. Right: each term of the training loss."
    numbers = {
        "epochs": got.epochs,
        "mean": got.mean,
        "low": got.low,
        "high": got.high,
        "seeds": got.n,
        "losses": terms,
    }
    return Picture("curves", "Learning curves", caption, figure, numbers, wide=True)


def _accuracies(axes: Axes, material: Material, row: Row) -> None:
    alike = [one for one in material.rows if one.one.method == NONE and student_place(one) == student_place(row)]
    drawn = [(row, STUDENT, row.one.method)] + [(one, ALONE, "student alone") for one in alike[:1] if one is not row]
    for one, colour, label in drawn:
        if (got := curve(one)) is not None:
            axes.plot(got.epochs, got.mean, color=colour, label=f"{label}, n = {got.n}", linewidth=1.8)
            axes.fill_between(got.epochs, got.low, got.high, color=colour, alpha=0.2, linewidth=0)
    if row.teacher:
        axes.axhline(row.teacher.mean, color=TEACHER, linestyle="--", linewidth=1.4, label=f"teacher {row.one.teacher}")
    axes.set(xlabel="epoch", ylabel="test accuracy, %", title="Test accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
    grid(axes)


def losses(histories: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, list[float]]]:
    """Each loss term at each epoch (counted over all phases), as mean, low and high over seeds' epoch rows.

    Epochs that lack a term (those of another phase, or of a seed that is behind) are left out.
    """
    length = min(map(len, histories), default=0)
    names = dict.fromkeys(name for rows in histories for row in rows for name in row if name not in NOT_LOSSES)
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


def _losses(axes: Axes, terms: Mapping[str, Mapping[str, list[float]]]) -> None:
    kept = dict(list(terms.items())[:TERMS])
    for colour, (name, term) in zip(COLOURS[2:], kept.items(), strict=False):
        dots = "o" if len(term["epochs"]) == 1 else None
        axes.plot(term["epochs"], term["mean"], color=colour, label=name, linewidth=1.6, marker=dots)
        axes.fill_between(term["epochs"], term["low"], term["high"], color=colour, alpha=0.2, linewidth=0)
    values = [value for term in kept.values() for value in (*term["low"], *term["high"])]
    wide = min(values) > 0 and max(values) > 10 * min(values)
    axes.set(xlabel="epoch", ylabel="weighted loss", title="Training loss by term")
    axes.set_yscale("log" if wide else "linear")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
    grid(axes)
