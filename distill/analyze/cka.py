"""How alike the stages of student and teacher are: debiased linear CKA."""

from __future__ import annotations

from distill.analyze.analysis_data import SIDE, AnalysisData, NetOutputs
from distill.analyze.numbers import cka_table
from distill.analyze.style import Picture
from distill.charts import heat
from distill.charts.panels import panels


def draw(analysis: AnalysisData) -> Picture | None:
    """Student by teacher and student by itself; without a teacher only the latter, without stages (an MLP) nothing."""
    student = analysis.student
    if not student.stages:
        return None
    pairs: list[tuple[str, NetOutputs]] = []
    if analysis.teacher and analysis.teacher.stages:
        pairs.append(("teacher", analysis.teacher))
    pairs.append(("student", student))
    tables = {name: cka_table(student.stages, net.stages).numpy() for name, net in pairs}
    drawn = []
    for name, net in pairs:
        names = [f"{stage + 1}" for stage in range(len(net.stages))], [f"{n + 1}" for n in range(len(student.stages))]
        sides, title = (f"stage of the {name}", "stage of the student"), f"student and {name}"
        pixels = heat.shares(tables[name]) // [1, 1, 1, 2]  # half as full, so that numbers can be read on it
        drawn.append(heat.matrix(pixels.astype("uint8"), title, sides, names, title, tables[name], largest=260))
    caption = (
        f"Debiased linear CKA over {len(student.stages[0])} {analysis.part} images, maps averaged down to at most "
        f"{SIDE}×{SIDE}. 1: the same up to rotation and scale; 0: unrelated."
    )
    drawing = panels(drawn, "Similarity of stages")
    return Picture("cka", "Similarity of stages", caption, drawing, tables)
