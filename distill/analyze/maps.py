"""Where the stages of student and teacher look: attention maps of some test images (AT, arXiv:1612.03928)."""

from __future__ import annotations

from distill.analyze.material import Material
from distill.analyze.style import STUDENT, TEACHER, Picture, bare, blank


def draw(material: Material) -> Picture | None:
    """A row an image: the image, then each stage of the student, then each stage of the teacher; None without maps."""
    nets = [("student", material.student, STUDENT)]
    nets += [("teacher", material.teacher, TEACHER)] if material.teacher else []
    columns = [(name, net, colour, stage) for name, net, colour in nets for stage in range(len(net.attention))]
    if not columns:
        return None
    count = len(material.images)
    figure, axes = blank(count, 1 + len(columns), (1.05 * (1 + len(columns)) + 0.5, 1.05 * count + 0.6))
    for row in range(count):
        place = axes[row, 0]
        place.imshow(material.images[row], interpolation="nearest")
        place.set_ylabel(
            _short(material.info.class_names[int(material.labels[material.chosen.shown[row]])]), fontsize=8
        )
        for column, (_, net, _, stage) in enumerate(columns, start=1):
            axes[row, column].imshow(net.attention[stage][row].numpy(), cmap="viridis", interpolation="nearest")
    for place in axes.flat:
        bare(place)
    axes[0, 0].set_title("image", fontsize=9)
    for column, (name, net, colour, stage) in enumerate(columns, start=1):
        height, width = net.attention[stage].shape[1:]
        axes[0, column].set_title(f"{name}\nstage {stage + 1}\n{height}×{width}", color=colour, fontsize=8)
    caption = (
        "Mean over channels of squared activations of each stage, for one image each of some classes; every "
        "map from its own smallest (dark) to its own largest value (bright)."
    )
    numbers = {name: [list(stage.shape[1:]) for stage in net.attention] for name, net, _ in nets}
    return Picture("attention", "Attention maps", caption, figure, {"sizes": numbers}, wide=True)


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
