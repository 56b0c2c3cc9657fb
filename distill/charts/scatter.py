"""Points in the plane, each with its name beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

import distill.charts.svg as svg
from distill.charts.marks import Mark, grid_levels, name_label, reach

_HEIGHT, _TOP, _BOTTOM = 260, 26, 40


@dataclass(frozen=True)
class Point:
    name: str
    x: float
    y: float
    kind: str
    error: float | None = None


Box = tuple[float, float, float, float]


def scatter(points: Sequence[Point], marks: Sequence[Mark], titles: tuple[str, str], label: str) -> svg.Drawing:
    """The points, and level lines for `marks`. titles: of x and of y; x is logarithmic beyond a factor of 4."""

    def draw(width: float) -> Markup:
        xs, log = [point.x for point in points], max(p.x for p in points) > 4 * min(p.x for p in points) > 0
        ends = [end for p in points for end in (p.y - (p.error or 0), p.y + (p.error or 0))]
        span = (min(xs) / 1.2, max(xs) * 1.2) if log else svg.padded(min(xs), max(xs), 0.08)
        frame = svg.Frame(46, _TOP, width - 62, _HEIGHT, span, reach(min(ends), max(ends), marks), log)
        parts = [frame.x_axis(titles[0]), frame.y_axis(titles[1]), *grid_levels(frame, marks)]
        for mark in marks:
            y = min(max(frame.at_y(mark.value), frame.top + 12), frame.bottom)
            parts.append(svg.text(frame.right, y - 5, name_label(frame, mark), "end", f"name {mark.kind}"))
        for p in points:
            x, y = frame.at(p.x, p.y)
            if p.error:
                parts.append(svg.line(x, frame.at_y(p.y - p.error), x, frame.at_y(p.y + p.error), f"thick {p.kind}"))
            parts.append(svg.dot(x, y, f"sure {p.kind}", p.name))
        return svg.svg([*parts, *_names(frame, points, width)], width, _TOP + _HEIGHT + _BOTTOM, label)

    return draw


def _names(frame: svg.Frame, points: Sequence[Point], width: float) -> list[Markup]:
    """Each beside its point, where it covers no other point and no other name, as far as that can be."""
    taken: list[Box] = [_box(*frame.at(p.x, p.y), 10, 10) for p in points]
    parts = []
    for p in points:
        x, y = frame.at(p.x, p.y)
        wide = svg.width_of(p.name)
        beside = [(side * (wide / 2 + 9), lift) for lift in (0, -13, 13, -24, 24) for side in (1, -1)]
        tries = [_box(x + away, y + lift, wide, 11) for away, lift in beside]
        tries += [_box(x, y + lift, wide, 11) for lift in (-14, 14, -27, 27)]
        inside = [box for box in tries if box[0] >= frame.left and box[2] <= width and box[1] > frame.top - 6] or tries
        best = min(inside, key=lambda box: sum(_overlap(box, other) for other in taken))
        taken.append(best)
        parts.append(svg.text((best[0] + best[2]) / 2, best[3] - 1, p.name, "middle", f"name {p.kind}"))
    return parts


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(a: Box, b: Box) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return across * down if across > 0 and down > 0 else 0.0
