"""Reliability diagrams: does a net that says 80 % be right in 80 % of the cases?"""

from __future__ import annotations

import numpy as np

from distill.analyze.material import Material, Seen
from distill.analyze.numbers import Reliability, reliability
from distill.analyze.style import STUDENT, TEACHER, Picture, blank, grid
from distill.engine.evaluate import calibration_error

BINS, RARE = 15, 0.01  # bins; share of the images below which a bar says little


def draw(material: Material) -> Picture:
    """A column a net: accuracy by confidence, and below how many images have it."""
    nets = material.nets
    figure, axes = blank(2, len(nets), (4.4 * len(nets), 4.8), height_ratios=[3, 1], sharex=True, sharey="row")
    numbers = {}
    for column, (name, net) in enumerate(nets):
        got = reliability(net.logits, material.labels, BINS)
        numbers[name] = _described(net, material, got)
        _panel(axes[:, column], got, TEACHER if name == "teacher" else STUDENT)
        axes[0, column].set_title(f"{name}: expected calibration error {numbers[name]['ece']:.2f} %")
        axes[1, column].set_xlabel("confidence of the predicted class")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("share of\nimages")
    axes[0, 0].legend(loc="upper left")
    caption = (
        f"Test images in {BINS} bins of equal width by the predicted class's probability; pale: under 1 % "
        "of the images. Bars below the line are overconfident answers; the error is the mean distance from "
        "the line, weighted by images."
    )
    return Picture("calibration", "Reliability", caption, figure, numbers, wide=True)


def _described(net: Seen, material: Material, got: Reliability) -> dict[str, object]:
    ece = 100 * calibration_error(net.logits.float(), material.labels, BINS).item()
    return {"ece": ece, "images": got.images, "confidence": got.confidence, "accuracy": got.accuracy}


def _panel(axes, got: Reliability, colour: str) -> None:  # type: ignore[no-untyped-def]
    images, accuracy = got.images.numpy(), got.accuracy.numpy()
    middle, full = (np.arange(BINS) + 0.5) / BINS, images > 0
    upper, lower = axes
    share = images / images.sum()
    for some, alpha in ((full & (share >= RARE), 1.0), (full & (share < RARE), 0.35)):
        label = "accuracy" if alpha == 1 else None
        upper.bar(middle[some], accuracy[some], 0.92 / BINS, color=colour, alpha=alpha, label=label)
    upper.plot([0, 1], [0, 1], color="#333333", linestyle="--", linewidth=1.2, label="perfectly calibrated")
    upper.set(xlim=(0, 1), ylim=(0, 1))
    lower.bar(middle, share, 0.92 / BINS, color="#9A9A9A")
    grid(upper)
    grid(lower, "y")
