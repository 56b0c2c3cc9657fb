"""Class probabilities of student and teacher, as they are and softened by the temperature."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distill.analyze.material import Material
from distill.analyze.numbers import entropy, softened
from distill.analyze.style import STUDENT, TEACHER, Picture, blank, grid

IMAGES, CLASSES = 4, 10


def draw(material: Material) -> Picture:
    """A row an image, from one that the teacher is sure of to one that it is not; columns T = 1 and T."""
    temperatures = [1.0, material.temperature] if material.temperature != 1 else [1.0, 4.0]
    reference = (material.teacher or material.student).logits
    rows = by_certainty(reference, temperatures[1])
    figure, axes = blank(len(rows), 2, (9.6, 1.75 * len(rows) + 0.7))
    for line, row in enumerate(rows.tolist()):
        leading = reference[row].argsort(descending=True)[:CLASSES].sort().values
        for column, temperature in enumerate(temperatures):
            _bars(axes[line, column], material, row, leading, temperature)
        axes[line, 0].set_ylabel(f"label: {material.info.class_names[int(material.labels[row])][:14]}\nprobability")
    for column, temperature in enumerate(temperatures):
        axes[0, column].set_title(f"T = {temperature:g}")
    handles, called = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, called, loc="outside upper center", ncols=2)
    who = "the teacher" if material.teacher else "the student"
    some = "" if reference.shape[1] <= CLASSES else f" the {CLASSES} classes that {who} finds most likely;"
    caption = (
        f"softmax(logits / T) of some test images;{some} from one that {who} is sure of (top) to one that it "
        "is not. Each panel has its own scale. "
        "What T brings out is what a student can learn beyond the label."
    )
    means = {
        name: {f"T={t:g}": entropy(softened(net.logits, t)).mean().item() for t in temperatures}
        for name, net in material.nets
    }
    return Picture("probabilities", "Softened probabilities", caption, figure, {"mean_entropy_nats": means}, wide=True)


def by_certainty(logits: Tensor, temperature: float) -> Tensor:
    """Positions of IMAGES images at evenly spread quantiles of the entropy at T, most certain first."""
    order = entropy(softened(logits, temperature)).argsort(stable=True)
    wanted = torch.linspace(0.05, 0.98, min(IMAGES, len(order))) * (len(order) - 1)
    return order[wanted.round().long()]


def _bars(axes, material: Material, row: int, classes: Tensor, temperature: float) -> None:  # type: ignore[no-untyped-def]
    nets = material.nets
    width = 0.8 / len(nets)
    for index, (name, net) in enumerate(nets):
        values = softened(net.logits[row : row + 1], temperature)[0, classes].numpy()
        places = np.arange(len(classes)) + (index - (len(nets) - 1) / 2) * width
        axes.bar(places, values, width, color=TEACHER if name == "teacher" else STUDENT, label=name)
    names = [material.info.class_names[int(k)][:11] for k in classes]
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(len(names)), names, fontsize=8, **turned)
    axes.tick_params(axis="x", length=0)
    grid(axes, "y")
