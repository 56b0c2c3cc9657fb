"""Class probabilities of student and teacher, as they are and softened by the temperature."""

from __future__ import annotations

import torch
from markupsafe import Markup
from torch import Tensor

from distill.analyze.analysis_data import AnalysisData
from distill.analyze.numbers import entropy, softened
from distill.analyze.style import STUDENT_COLOUR, TEACHER_COLOUR, Picture
from distill.charts import svg
from distill.charts.panels import panels

_IMAGES, _CLASSES = 4, 10


def draw(analysis: AnalysisData) -> Picture:
    """A row an image, from one that the teacher is sure of to one that it is not; columns T = 1 and T."""
    temperatures = [1.0, analysis.temperature] if analysis.temperature != 1 else [1.0, 4.0]
    reference = (analysis.teacher or analysis.student).logits
    drawn = []
    for row in by_certainty(reference, temperatures[1]).tolist():
        leading = reference[row].argsort(descending=True)[:_CLASSES].sort().values
        drawn += [_bars(analysis, row, leading, temperature) for temperature in temperatures]
    who = "the teacher" if analysis.teacher else "the student"
    some = "" if reference.shape[1] <= _CLASSES else f" the {_CLASSES} classes that {who} finds most likely;"
    caption = (
        f"softmax(logits / T) of some {analysis.part} images;{some} from one that {who} is sure of (top) to one "
        "that it is not. Blue: student, orange: teacher. Each panel has its own scale. "
        "What T brings out is what a student can learn beyond the label."
    )
    means = {
        name: {f"T={t:g}": entropy(softened(net.logits, t)).mean().item() for t in temperatures}
        for name, net in analysis.nets
    }
    numbers, drawing = {"mean_entropy_nats": means}, panels(drawn, "Class probabilities", columns=2)
    return Picture("probabilities", "Softened probabilities", caption, drawing, numbers, wide=True)


def by_certainty(logits: Tensor, temperature: float) -> Tensor:
    """Positions of IMAGES images at evenly spread quantiles of the entropy at T, most certain first."""
    order = entropy(softened(logits, temperature)).argsort(stable=True)
    wanted = torch.linspace(0.05, 0.98, min(_IMAGES, len(order))) * (len(order) - 1)
    return order[wanted.round().long()]


def _bars(analysis: AnalysisData, row: int, classes: Tensor, temperature: float) -> svg.Drawing:
    one = slice(row, row + 1)
    nets = [(name, softened(net.logits[one], temperature)[0, classes].tolist()) for name, net in analysis.nets]
    names = [analysis.info.class_names[int(k)] for k in classes]
    title = f"T = {temperature:g}, label {analysis.info.class_names[int(analysis.labels[row])][:30]}"

    def draw(width: float) -> Markup:
        frame = svg.Frame(46, 24, width - 52, 110, (0, len(names)), (0, 1.05 * max(max(values) for _, values in nets)))
        parts = [svg.text(0, 13, title, kind="axis"), frame.y_axis("")]
        bar = 0.8 * frame.width / len(names) / len(nets)
        for place, name in enumerate(names):
            for index, (net, values) in enumerate(nets):
                x, y = frame.at_x(place + 0.1) + index * bar, frame.at_y(values[place])
                label = f"{net}, {name}: {values[place]:.1%}"
                parts.append(
                    svg.rect(x, y, bar, frame.bottom - y, TEACHER_COLOUR if net == "teacher" else STUDENT_COLOUR, label)
                )
            room = frame.width / len(names)
            parts.append(svg.text(frame.at_x(place + 0.5), frame.bottom + 13, svg.cut(name, room), "middle", "small"))
        return svg.svg(parts, width, frame.bottom + 20, title)

    return draw
