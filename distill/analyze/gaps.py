"""How far each method's student stays below the teacher."""

from __future__ import annotations

from distill.analyze.material import Material
from distill.analyze.style import ALONE, OTHER, STUDENT, Picture, blank, grid
from distill.report.figures import names
from distill.report.summary import ALONE as NONE
from distill.report.summary import place

BARS = 30


def draw(material: Material) -> Picture | None:
    """A bar for each configuration of the run's pair and protocol; None for a run without a teacher."""
    row = material.row
    if row is None or row.teacher is None:
        return None
    alike = [one for one in material.rows if place(one) == place(row) and one.one.teacher in (row.one.teacher, None)]
    best = sorted(alike, key=lambda one: one.last.mean, reverse=True)[:BARS]
    shown = best if row in best else [*best[:-1], row]
    called = names(shown)
    figure, axes = blank(1, 1, (6.4, 1.3 + 0.32 * len(shown)))
    gaps = {}
    for at, one in enumerate(reversed(shown)):
        gap = row.teacher.mean - one.last.mean
        alone = one.one.method == NONE
        colour = STUDENT if one is row else ALONE if alone else OTHER
        label = f"student alone, n = {one.n}" if alone else f"{called[id(one)]}, n = {one.n}"
        axes[0, 0].barh(at, gap, xerr=one.last.std, color=colour, height=0.68, ecolor="#333333", capsize=2)
        gaps[label] = gap
    axes[0, 0].set_yticks(range(len(shown)), list(gaps))
    axes[0, 0].axvline(0, color="#333333", linewidth=0.9)
    axes[0, 0].set(
        xlabel=f"percentage points below the teacher ({row.teacher.mean:.2f} %)",
        title=f"Gap to {row.one.teacher}",
    )
    grid(axes[0, 0], "x")
    caption = (
        "Teacher's minus student's test accuracy at the last epoch, mean over seeds; whiskers are one "
        "standard deviation. Dark blue: this run's configuration; left of zero is above the teacher."
    )
    return Picture("gaps", "Gap to the teacher", caption, figure, {"gaps": gaps})
