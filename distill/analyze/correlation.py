"""Correlations between classes in the logits of teacher and student, and their difference (CRD, figure 3)."""

from __future__ import annotations

import numpy as np

from distill.analyze.analysis_data import AnalysisData
from distill.analyze.numbers import correlation, correlation_difference
from distill.analyze.style import Picture
from distill.charts import heat
from distill.charts.panels import panels
from distill.charts.svg import Drawing

_NAMED = 12  # classes that fit as labels


def draw(analysis: AnalysisData) -> Picture | None:
    """None for a run without a teacher."""
    if analysis.teacher is None:
        return None
    teacher, student = analysis.teacher.logits, analysis.student.logits
    difference = correlation_difference(teacher, student).numpy()
    off = difference[~np.eye(len(difference), dtype=bool)]
    mean, largest = float(np.abs(off).mean()), float(np.abs(off).max())
    names = analysis.info.class_names
    drawn = [_matrix(correlation(one).numpy(), 1.0, title, names) for one, title in
             ((teacher, "teacher"), (student, "student"))]  # fmt: skip
    title = f"teacher − student, mean |difference| {mean:.3f}"
    drawn.append(_matrix(difference, largest or 1.0, title, names))
    caption = (
        f"Pearson correlation between the logits of every two classes over the {analysis.part} images: orange "
        "together, violet against each other. The paler the third panel, the better the student has taken over how "
        f"classes go together; its fullest colour is {largest:.2f}."
    )
    numbers = {"mean_absolute_difference": mean, "largest_difference": largest, "difference": difference}
    drawing = panels(drawn, "Class correlations of teacher and student")
    return Picture("correlation", "Class correlations", caption, drawing, numbers, wide=True)


def _matrix(values: np.ndarray, limit: float, title: str, names: list[str]) -> Drawing:
    called = names if len(names) <= _NAMED else []
    return heat.matrix(heat.signed(heat.smaller(values), limit), title, ("class", "class"), (called, called), title)
