"""Lines for what all else in a chart is measured by: the student alone, the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

import distill.charts.svg as svg

FAR = 3  # spans of what is drawn beyond which a line is only named, at the edge


@dataclass(frozen=True)
class Mark:
    """A line across the chart."""

    name: str
    value: float
    kind: str


def reach(low: float, high: float, marks: Sequence[Mark]) -> tuple[float, float]:
    """The y axis of what lies between two values and of the lines that are not far from it."""
    room = FAR * max(high - low, 0.5)
    near = [mark.value for mark in marks if low - room <= mark.value <= high + room]
    return svg.padded(min([low, *near]), max([high, *near]), 0.08)


def grid_levels(frame: svg.Frame, marks: Sequence[Mark]) -> list[Markup]:
    """The lines that are on the y axis."""
    shown = [mark for mark in marks if frame.y[0] < mark.value < frame.y[1]]
    places = [(frame.at_y(mark.value), mark.kind) for mark in shown]
    return [svg.line(frame.left, y, frame.right, y, f"mark {kind}") for y, kind in places]


def name_label(frame: svg.Frame, mark: Mark) -> str:
    """`teacher 72.34`, with an arrow where that is off the axis."""
    off = " ↑" if mark.value > frame.y[1] else " ↓" if mark.value < frame.y[0] else ""
    return f"{mark.name} {mark.value:.2f}{off}"
