"""The pictures in one HTML file, on the report's page."""

from __future__ import annotations

from collections.abc import Mapping

from distill.analyze.analysis_data import AnalysisData, NetOutputs
from distill.analyze.gallery import SECTIONS
from distill.analyze.numbers import class_accuracy
from distill.analyze.style import Picture
from distill.charts import both
from distill.engine.evaluate import scores
from distill.report.figures import Figure
from distill.report.page import render
from distill.report.table import Cell, Document, Table, number, numeric_columns, word

_FIRST = 12  # classes that are shown before the fold
QUANTITIES = {
    "accuracy": "accuracy, %",
    "top5": "top-5 accuracy, %",
    "nll": "cross-entropy, nats",
    "ece": "calibration error, %",
}


def page(analysis: AnalysisData, pictures: Mapping[str, Picture]) -> str:
    """One self-contained page."""
    shown = {}
    for title, names in SECTIONS.items():
        shown[title] = [_figure(pictures[name]) for name in names if name in pictures]
    document = Document(analysis.run.name, [_summary(analysis), _by_class(analysis)], _notes(analysis), [])
    return render(document, {}, {title: figures for title, figures in shown.items() if figures})


def _figure(picture: Picture) -> Figure:
    return Figure(picture.title, both(picture.draw, picture.width), note=picture.caption, wide=picture.wide)


def _notes(analysis: AnalysisData) -> list[str]:
    result = analysis.run.result
    notes = [
        f"{result.dataset}, protocol {result.protocol}, {len(analysis.labels)} {analysis.part} images.",
        f"{analysis.run.folder}",
    ]
    if result.teacher and analysis.teacher is None:
        notes.append(f"{result.teacher} taught features, and is no classifier of these classes: it is not shown.")
    elif len(several := result.document.get("teachers") or []) > 1:
        notes.append(f"Of {len(several)} teachers, the first is shown.")
    return notes


def _summary(analysis: AnalysisData) -> Table:
    """Accuracy and calibration of both nets as measured here, in fp32."""
    nets: list[tuple[str, NetOutputs]] = analysis.nets
    got = {name: scores(net.logits, analysis.labels) for name, net in nets}
    rows = [[word(title), *(number(got[name][key], 3) for name, _ in nets)] for key, title in QUANTITIES.items()]
    notes = ["Measured anew in fp32 on these images; result.json holds what the run measured in its own precision."]
    columns = ["quantity", *(f"{name} {net.name}" for name, net in nets)]
    return Table(
        "summary",
        "Student and teacher" if len(nets) > 1 else "Student",
        columns,
        rows,
        notes,
        numeric_columns(rows, len(columns)),
    )


def _by_class(analysis: AnalysisData) -> Table:
    nets = analysis.nets
    got = [class_accuracy(net.logits, analysis.labels).tolist() for _, net in nets]
    rows: list[list[Cell]] = []
    for k, name in enumerate(analysis.info.class_names):
        values = [column[k] for column in got]
        there = [None if value != value else value for value in values]  # nan: no image of the class
        gap = there[-1] - there[0] if len(there) == 2 and None not in there else None  # type: ignore[operator]
        rows.append([word(name), *(number(value) for value in there), number(gap, sign=True)])
    columns = ["class", *(f"{name}, %" for name, _ in nets), "student − teacher"]
    numeric = numeric_columns(rows, len(columns))
    first = _FIRST if len(rows) > _FIRST + 3 else None
    return Table("classes", "Accuracy by class", columns, rows, [], numeric, first=first)
