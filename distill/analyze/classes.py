"""Accuracy of student and teacher class by class."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from distill.analyze.material import Material
from distill.analyze.numbers import class_accuracy
from distill.analyze.style import STUDENT, TEACHER, Picture, blank, grid

FEW, NAMED = 30, 5


def draw(material: Material) -> Picture:
    """Up to 30 classes as pairs of points, more as a cloud with the extreme ones named."""
    student = class_accuracy(material.student.logits, material.labels)
    teacher = class_accuracy(material.teacher.logits, material.labels) if material.teacher else None
    names = material.info.class_names
    if teacher is not None and len(names) > FEW:
        figure, caption = _cloud(student, teacher, names)
    else:
        figure, caption = _pairs(student, teacher, names)
    numbers = {name: {"student": s} for name, s in zip(names, student.tolist(), strict=True)}
    for name, value in zip(names, teacher.tolist() if teacher is not None else [], strict=False):
        numbers[name]["teacher"] = value
    return Picture("classes", "Accuracy by class", caption, figure, {"accuracy": numbers})


def _pairs(student: Tensor, teacher: Tensor | None, names: list[str]) -> tuple[Figure, str]:
    """One line a class, sorted by the gap (or by accuracy, without a teacher)."""
    order = (student if teacher is None else student - teacher).nan_to_num(0).argsort(descending=True)[: 2 * FEW]
    figure, axes = blank(1, 1, (6.4, 1.4 + 0.25 * len(order)))
    place, lines = axes[0, 0], range(len(order))
    if teacher is not None:
        place.hlines(lines, student[order], teacher[order], color="#B5B5B5", linewidth=2.2, zorder=1)
        place.scatter(
            teacher[order],
            lines,
            facecolors="white",
            edgecolors=TEACHER,
            marker="D",
            s=70,
            linewidths=1.6,
            label="teacher",
            zorder=2,
        )
    place.scatter(student[order], lines, color=STUDENT, s=26, label="student", zorder=3)
    place.set_yticks(lines, [names[k][:20] for k in order.tolist()])
    place.set(xlabel="test accuracy on the class, %", title="Accuracy by class")
    figure.legend(*place.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    grid(place)
    what = "sorted by the student's distance to the teacher" if teacher is not None else "sorted by accuracy"
    return figure, f"Test accuracy on the images of each class, {what}."


def _cloud(student: Tensor, teacher: Tensor, names: list[str]) -> tuple[Figure, str]:
    figure, axes = blank(1, 1, (5.6, 5.4))
    place, gap = axes[0, 0], (student - teacher).nan_to_num(0)
    low = min(student.nan_to_num(100).min(), teacher.nan_to_num(100).min()).item() - 4
    place.plot([low, 101], [low, 101], color="#333333", linestyle="--", linewidth=1, label="as good as the teacher")
    place.scatter(teacher, student, color=STUDENT, s=22, alpha=0.75, linewidths=0)
    order = gap.argsort()
    for k in torch.cat([order[:NAMED], order[-NAMED:]]).tolist():
        x, y = teacher[k].item(), student[k].item()
        left = x > low + 0.8 * (101 - low)  # room for the name is on the left only
        offset = (-6 if left else 6, -8 if gap[k] < 0 else 4)
        place.scatter(x, y, color=STUDENT, s=22, edgecolors="#222222", linewidths=0.9, zorder=3)
        place.annotate(
            names[k][:18],
            (x, y),
            xytext=offset,
            textcoords="offset points",
            fontsize=7.5,
            ha="right" if left else "left",
        )
    place.set(xlabel="teacher's accuracy, %", ylabel="student's accuracy, %", title="Accuracy by class")
    place.set(xlim=(low, 101), ylim=(low, 101), aspect="equal")
    place.legend(loc="upper left")
    grid(place)
    return figure, f"One point a class; the {NAMED} with the largest gap either way are named."
