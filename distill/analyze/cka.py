"""How alike the stages of student and teacher are: debiased linear CKA."""

from __future__ import annotations

from distill.analyze.material import SIDE, Material, Seen
from distill.analyze.numbers import cka_table
from distill.analyze.style import Picture, blank


def draw(material: Material) -> Picture | None:
    """Student by teacher and student by itself; without a teacher only the latter, without stages (an MLP) nothing."""
    student = material.student
    if not student.stages:
        return None
    pairs: list[tuple[str, Seen]] = []
    if material.teacher and material.teacher.stages:
        pairs.append(("teacher", material.teacher))
    pairs.append(("student", student))
    tables = {name: cka_table(student.stages, net.stages).numpy() for name, net in pairs}
    figure, axes = blank(1, len(pairs), (4.2 * len(pairs) + 0.6, 3.8))
    for place, (name, net) in zip(axes[0], pairs, strict=True):
        table = tables[name]
        image = place.imshow(table, cmap="cividis", vmin=0, vmax=1, origin="lower")
        for (row, column), value in ((at, table[at]) for at in _cells(table.shape)):
            colour = "black" if value > 0.55 else "white"
            place.text(
                column, row, f"{round(float(value), 2) + 0.0:.2f}", ha="center", va="center", color=colour, fontsize=9
            )
        place.set_xticks(range(len(net.stages)), range(1, len(net.stages) + 1))
        place.set_yticks(range(len(student.stages)), range(1, len(student.stages) + 1))
        place.set(xlabel=f"stage of the {name}", ylabel="stage of the student", title=f"student and {name}")
        place.tick_params(length=0)
    figure.colorbar(image, ax=axes[0].tolist(), shrink=0.85).set_label("linear CKA")
    caption = (
        f"Debiased linear CKA over {len(student.stages[0])} test images, maps averaged down to at most "
        f"{SIDE}×{SIDE}. 1: the same up to rotation and scale; 0: unrelated."
    )
    return Picture("cka", "Similarity of stages", caption, figure, tables)


def _cells(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(row, column) for row in range(shape[0]) for column in range(shape[1])]
