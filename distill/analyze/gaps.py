"""How each method's student stands on the run's pair, between the student alone and the teacher."""

from __future__ import annotations

import distill.charts as charts
from distill.analyze.analysis_data import AnalysisData
from distill.analyze.style import ALONE_COLOUR, OTHER, STUDENT_COLOUR, Picture
from distill.report.gains import standard_error
from distill.report.names import row_names
from distill.report.stats import half_interval
from distill.report.summary import ALONE as NONE
from distill.report.summary import table_key

ROWS = 30


def draw(analysis: AnalysisData) -> Picture | None:
    """A row for each configuration of the run's pair and protocol; None for a run without a teacher."""
    row = analysis.row
    if row is None or row.teacher is None:
        return None
    key, teachers = table_key(row), (row.one.teacher_net, None)
    alike = [one for one in analysis.rows if table_key(one) == key and one.one.teacher_net in teachers]
    best = sorted(alike, key=lambda one: one.last.mean, reverse=True)[:ROWS]
    shown = best if row in best else [*best[:-1], row]
    called = row_names(shown)
    gaps, dots = {}, []
    for one in shown:
        kind = STUDENT_COLOUR if one is row else ALONE_COLOUR if one.one.method == NONE else OTHER
        label, gap = f"{called[id(one)]}, n = {one.n}", row.teacher.mean - one.last.mean
        error, half = standard_error(one.last), half_interval(one.last)
        dots.append(charts.Dot(label, one.last.mean, kind, error, half, one is row, f"{-gap:+.2f}"))
        gaps[label] = gap
    marks = [charts.Mark(f"teacher {row.one.teacher_net}", row.teacher.mean, "teacher")]
    caption = (
        f"{analysis.part.capitalize()} accuracy at the last epoch: mean, standard error (thick) and 95 % interval of "
        "the mean (thin), then the difference to the teacher. The filled dot is this run's configuration."
    )
    drawing = charts.ranked(dots, marks, f"{analysis.part} accuracy, %", "Accuracy of each method of the pair")
    return Picture("gaps", "Gap to the teacher", caption, drawing, {"gaps": gaps})
