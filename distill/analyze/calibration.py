"""Reliability diagrams: does a net that says 80 % be right in 80 % of the cases?"""

from __future__ import annotations

from markupsafe import Markup

from distill.analyze.analysis_data import AnalysisData, NetOutputs
from distill.analyze.numbers import Reliability, reliability
from distill.analyze.style import STUDENT_COLOUR, TEACHER_COLOUR, Picture
from distill.charts import svg
from distill.charts.panels import panels
from distill.engine.evaluate import calibration_error

BINS, RARE = 15, 0.01  # bins; share of the images below which a bar says little
_TOP, UPPER, LOWER = 44, 220, 60


def draw(analysis: AnalysisData) -> Picture:
    """A panel a net: accuracy by confidence, and below how many images have it."""
    numbers, drawn = {}, []
    for name, net in analysis.nets:
        bins = reliability(net.logits, analysis.labels, BINS)
        numbers[name] = _described(net, analysis, bins)
        title = f"{name}: expected calibration error {numbers[name]['ece']:.2f} %"
        drawn.append(_panel(bins, TEACHER_COLOUR if name == "teacher" else STUDENT_COLOUR, title))
    caption = (
        f"Above: accuracy of the {analysis.part} images in {BINS} bins of equal width by the predicted class's "
        "probability; pale: under 1 % of the images. Bars below the line are overconfident answers; the error is the "
        "mean distance from the line, weighted by images. Below: the share of the images in each bin."
    )
    drawing = panels(drawn, "Accuracy by confidence")
    return Picture("calibration", "Reliability", caption, drawing, numbers, wide=len(drawn) > 1)


def _described(net: NetOutputs, analysis: AnalysisData, bins: Reliability) -> dict[str, object]:
    ece = 100 * calibration_error(net.logits.float(), analysis.labels, BINS).item()
    return {"ece": ece, "images": bins.images, "confidence": bins.confidence, "accuracy": bins.accuracy}


def _panel(bins: Reliability, kind: str, title: str) -> svg.Drawing:
    share = (bins.images / bins.images.sum()).tolist()
    bars = [(k, accuracy, share[k]) for k, accuracy in enumerate(bins.accuracy.tolist()) if share[k] > 0]

    def draw(width: float) -> Markup:
        upper = svg.Frame(40, _TOP, width - 52, UPPER, (0, 1))
        lower = svg.Frame(40, _TOP + UPPER + 14, width - 52, LOWER, (0, 1), (0, max(share)))
        parts = [svg.text(0, 13, title, kind="axis"), svg.text(0, 32, "accuracy"), upper.y_axis("")]
        parts += [lower.x_axis("confidence of the predicted class"), svg.text(44, lower.top + 10, "share of images")]
        for place, accuracy, part in bars:
            x, wide = upper.at_x((place + 0.04) / BINS), 0.92 * upper.width / BINS
            y, low = upper.at_y(accuracy), lower.at_y(part)
            label = f"{accuracy:.1%} right of {part:.1%} of the images"
            parts.append(svg.rect(x, y, wide, upper.bottom - y, kind + " pale" * (part < RARE), label))
            parts.append(svg.rect(x, low, wide, lower.bottom - low, "rest"))
        diagonal = svg.line(upper.left, upper.bottom, upper.right, upper.top, "mark alone")
        return svg.svg([*parts, diagonal], width, lower.bottom + 40, title)

    return draw
