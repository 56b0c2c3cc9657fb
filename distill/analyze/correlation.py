"""Correlations between classes in the logits of teacher and student, and their difference (CRD, figure 3)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from distill.analyze.material import Material
from distill.analyze.numbers import correlation, correlation_difference
from distill.analyze.style import Picture, blank

NAMED = 12  # classes that fit as labels


def draw(material: Material) -> Picture | None:
    """None for a run without a teacher."""
    if material.teacher is None:
        return None
    teacher, student = material.teacher.logits, material.student.logits
    difference = correlation_difference(teacher, student).numpy()
    off = difference[~np.eye(len(difference), dtype=bool)]
    mean, largest = float(np.abs(off).mean()), float(np.abs(off).max())
    figure, axes = blank(1, 3, (10.6, 3.7))
    both = axes[0, :2]
    for place, logits, title in zip(both, (teacher, student), ("teacher", "student"), strict=True):
        image = _matrix(place, correlation(logits).numpy(), 1.0, title, material.info.class_names)
    figure.colorbar(image, ax=both.tolist(), shrink=0.8, label="correlation")
    last, title = axes[0, 2], f"teacher − student\nmean absolute difference {mean:.3f}"
    image = _matrix(last, difference, largest or 1.0, title, material.info.class_names)
    figure.colorbar(image, ax=last, shrink=0.8, label="difference of correlations")
    caption = (
        "Pearson correlation between the logits of every two classes over the test images. The paler the "
        "right panel, the better the student has taken over how classes go together. Note its own scale."
    )
    numbers = {"mean_absolute_difference": mean, "largest_difference": largest, "difference": difference}
    return Picture("correlation", "Class correlations", caption, figure, numbers, wide=True)


def _matrix(place: Axes, values: np.ndarray, limit: float, title: str, names: list[str]) -> AxesImage:
    image = place.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="nearest")
    place.set_title(title)
    place.tick_params(labelsize=8, length=0)
    if len(names) > NAMED:
        place.set(xlabel="class", ylabel="class")
        return image
    long = max(map(len, names)) > 2
    place.set_xticks(range(len(names)), names, rotation=90 if long else 0)
    place.set_yticks(range(len(names)), names)
    return image
