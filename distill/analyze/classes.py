"""Accuracy of student and teacher class by class."""

from __future__ import annotations

import torch
from markupsafe import Markup
from torch import Tensor

from distill.analyze.analysis_data import AnalysisData
from distill.analyze.numbers import class_accuracy
from distill.analyze.style import STUDENT_COLOUR, TEACHER_COLOUR, Picture
from distill.charts import svg

_FEW, _NAMED, _MOST = 30, 5, 60
_ROW, _TOP = 20, 30


def draw(analysis: AnalysisData) -> Picture:
    """Up to 30 classes as pairs of points, more as a cloud with the extreme ones named."""
    student = class_accuracy(analysis.student.logits, analysis.labels)
    teacher = class_accuracy(analysis.teacher.logits, analysis.labels) if analysis.teacher else None
    names = analysis.info.class_names
    if teacher is not None and len(names) > _FEW:
        drawing, caption = _cloud(student, teacher, names), f"One point a class; the {_NAMED} with the largest gap "
        caption += "either way are named. On the line the student is as good as the teacher."
    else:
        drawing = _pairs(student, teacher, names)
        what = "sorted by the student's distance to the teacher" if teacher is not None else "sorted by accuracy"
        shown = "each class" if len(names) <= _MOST else f"the {_MOST} of {len(names)} classes where it is lowest"
        caption = f"{analysis.part.capitalize()} accuracy on the images of {shown}, {what}. Filled: student"
        caption += "; hollow: teacher." if teacher is not None else "."
    numbers = {name: {"student": s} for name, s in zip(names, student.tolist(), strict=True)}
    for name, value in zip(names, teacher.tolist() if teacher is not None else [], strict=False):
        numbers[name]["teacher"] = value
    return Picture("classes", "Accuracy by class", caption, drawing, {"accuracy": numbers})


def _pairs(student: Tensor, teacher: Tensor | None, names: list[str]) -> svg.Drawing:
    """One line a class, sorted by the gap (or by accuracy, without a teacher)."""
    order = (student if teacher is None else student - teacher).nan_to_num(0).argsort()[:_MOST].tolist()
    lines = [(names[k], student[k].item(), None if teacher is None else teacher[k].item()) for k in order]
    ends = [value for _, *pair in lines for value in pair if value is not None and value == value]

    def draw(width: float) -> Markup:
        left = 12 + min(max(svg.width_of(name) for name, _, _ in lines), width * 0.35)
        low, high = svg.padded(min(ends), max(ends), 0.05)
        frame = svg.Frame(left, _TOP, width - left - 16, _ROW * len(lines), (max(low, -1), min(high, 101)))
        parts = [
            frame.x_axis("accuracy on the class, %"),
            svg.text(left, 14, "student", kind=f"name {STUDENT_COLOUR}"),
        ]
        parts += [svg.text(left + 66, 14, "teacher", kind=f"name {TEACHER_COLOUR}")] if teacher is not None else []
        for place, (name, acc_s, acc_t) in enumerate(lines):
            parts += _pair(frame, _TOP + _ROW * (place + 0.5), name, acc_s, acc_t)
        return svg.svg(parts, width, frame.bottom + 40, "Accuracy of each class")

    return draw


def _pair(frame: svg.Frame, y: float, name: str, acc_s: float, acc_t: float | None) -> list[Markup]:
    """A class: nan, where it has no images, is not drawn."""
    parts = [svg.text(frame.left - 8, y + 4, svg.cut(name, frame.left - 10), "end")]
    both = acc_t is not None and acc_t == acc_t and acc_s == acc_s
    if acc_t is not None and both:
        parts.append(svg.line(frame.at_x(acc_s), y, frame.at_x(acc_t), y, "grid"))
    if acc_t is not None and acc_t == acc_t:
        parts.append(svg.dot(frame.at_x(acc_t), y, f"open {TEACHER_COLOUR}", f"teacher, {name}: {acc_t:.2f} %", 6.5))
    if acc_s == acc_s:
        parts.append(svg.dot(frame.at_x(acc_s), y, f"sure {STUDENT_COLOUR}", f"student, {name}: {acc_s:.2f} %", 4))
    return parts


def _cloud(student: Tensor, teacher: Tensor, names: list[str]) -> svg.Drawing:
    order = (student - teacher).nan_to_num(0).argsort()
    extreme = set(torch.cat([order[:_NAMED], order[-_NAMED:]]).tolist())
    low = min(student.nan_to_num(100).min(), teacher.nan_to_num(100).min()).item() - 4
    there = [k for k in range(len(names)) if student[k] == student[k] and teacher[k] == teacher[k]]

    def draw(width: float) -> Markup:
        side = min(width - 60, 420)
        frame = svg.Frame(46, _TOP, side, side, (low, 101), (low, 101))
        parts = [frame.x_axis("teacher's accuracy, %"), frame.y_axis("student's accuracy, %")]
        parts.append(svg.line(frame.left, frame.bottom, frame.right, frame.top, "mark alone"))
        for k in there:
            x, y = frame.at(teacher[k].item(), student[k].item())
            label = f"{names[k]}: student {student[k]:.2f} %, teacher {teacher[k]:.2f} %"
            parts.append(svg.dot(x, y, f"sure {STUDENT_COLOUR}", label, 4))
            if k in extreme:
                after = x < (frame.left + frame.right) / 2
                at = x + 8 if after else x - 8
                parts.append(
                    svg.text(at, y + 4, names[k][:24], "start" if after else "end", f"small name {STUDENT_COLOUR}")
                )
        return svg.svg(parts, width, frame.bottom + 40, "Accuracy of each class, student against teacher")

    return draw
