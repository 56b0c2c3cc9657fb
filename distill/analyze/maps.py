"""Where the stages of student and teacher look: attention maps of some test images (AT, arXiv:1612.03928)."""

from __future__ import annotations

from markupsafe import Markup

from distill.analyze.analysis_data import AnalysisData
from distill.analyze.style import STUDENT_COLOUR, TEACHER_COLOUR, Picture
from distill.charts import heat, svg

_GAP, HEAD = 4, 34


def draw(analysis: AnalysisData) -> Picture | None:
    """A row an image: the image, then each stage of the student, then each stage of the teacher; None without maps."""
    nets = [("student", analysis.student, STUDENT_COLOUR)]
    nets += [("teacher", analysis.teacher, TEACHER_COLOUR)] if analysis.teacher else []
    columns = [(name, stage, kind, maps) for name, net, kind in nets for stage, maps in enumerate(net.attention)]
    if not columns:
        return None

    def drawn(width: float) -> Markup:
        side = min((width - _GAP * len(columns)) / (1 + len(columns)), 120.0)
        parts = [svg.text(0, 26, "image", kind="small")]
        for place, (name, stage, kind, maps) in enumerate(columns, start=1):
            x = place * (side + _GAP)
            height, wide = maps.shape[1:]
            parts.append(svg.text(x, 12, svg.cut(name, side), kind=f"small name {kind}"))
            parts.append(svg.text(x, 26, svg.cut(f"{stage + 1}: {height}×{wide}", side), kind="small"))
        for row, image in enumerate((255 * analysis.images).round().astype("uint8")):
            y = HEAD + row * (side + _GAP + 14)
            label = analysis.info.class_names[int(analysis.labels[analysis.chosen.shown[row]])]
            parts += [heat.picture(image, 0, y, side, side), svg.text(0, y + side + 11, label[:40], kind="small")]
            for place, (_, _, _, maps) in enumerate(columns, start=1):
                pixels = heat.viridis(maps[row].numpy())
                parts.append(heat.picture(pixels, place * (side + _GAP), y, side, side))
        return svg.svg(parts, width, HEAD + len(analysis.images) * (side + _GAP + 14), "Attention maps of some images")

    caption = (
        "Mean over channels of squared activations of each stage, for one image each of some classes (named below it); "
        "every map from its own smallest (dark) to its own largest value (bright). Above each column: the stage and "
        "the size of its maps."
    )
    numbers = {name: [list(stage.shape[1:]) for stage in net.attention] for name, net, _ in nets}
    return Picture("attention", "Attention maps", caption, drawn, {"sizes": numbers}, wide=True)
