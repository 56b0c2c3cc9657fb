"""Who is best: names down the side, a dot with its interval for each, and lines for what they are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

import distill.charts.svg as svg
from distill.charts.marks import Mark

_ROW, _TOP, _BOTTOM = 22, 44, 40
_BEYOND = 0.6  # how far intervals may widen the axis, in spans of the dots


@dataclass(frozen=True)
class Dot:
    """A row: `error` is drawn thick, `half` (of the interval) thin; `sure`: filled rather than hollow."""

    name: str
    value: float
    kind: str
    error: float | None = None
    half: float | None = None
    sure: bool = False
    more: str = ""  # beside the value, where there is room
    title: str = ""
    digits: str = ".2f"  # how the value is written


def ranked(
    dots: Sequence[Dot], marks: Sequence[Mark], title: str, label: str, most: float | None = 100.0
) -> svg.Drawing:
    """A row for each dot, from the top. title: of the axis; most: what cannot be passed, of an accuracy."""

    def draw(width: float) -> Markup:
        wide = width > svg.PHONE_WIDTH
        names = min(max(svg.width_of(dot.name) for dot in dots) + 12, width * 0.42)
        values = 8 + svg.width_of("100.00" + ("  " + max((dot.more for dot in dots), key=len) if wide else ""))
        frame = svg.Frame(names, _TOP, width - names - values, _ROW * len(dots), _range(dots, marks, most))
        parts = [frame.x_axis(title), *_marks(frame, marks, width)]
        for place, dot in enumerate(dots):
            parts.append(_row(frame, dot, _TOP + _ROW * (place + 0.5), wide))
        return svg.svg(parts, width, _TOP + _ROW * len(dots) + _BOTTOM, label)

    return draw


def _row(frame: svg.Frame, dot: Dot, y: float, wide: bool) -> Markup:
    parts = [svg.text(frame.left - 9, y + 4, svg.cut(dot.name, frame.left - 12), "end", f"name {dot.kind}")]
    low, high = frame.x
    for size, kind in ((dot.half, "thin"), (dot.error, "thick")):
        if size is not None:
            ends = max(dot.value - size, low), min(dot.value + size, high)
            if ends[0] < ends[1]:
                parts.append(svg.line(frame.at_x(ends[0]), y, frame.at_x(ends[1]), y, f"{kind} {dot.kind}"))
    if dot.value < low:  # far below all others
        parts.append(svg.text(frame.left + 2, y + 4, "◂", kind=f"name {dot.kind}"))
    else:
        parts.append(svg.dot(frame.at_x(dot.value), y, f"{'sure' if dot.sure else 'open'} {dot.kind}", dot.title))
    label = f"{dot.value:{dot.digits}}" + (f"  {dot.more}" if wide and dot.more else "")
    return Markup("").join([*parts, svg.text(frame.right + 10, y + 4, label, kind="value")])


def _marks(frame: svg.Frame, marks: Sequence[Mark], width: float) -> list[Markup]:
    """The lines, each with its name above the rows, in a line of its own."""
    parts = []
    for place, mark in enumerate(marks):
        x, y, label = frame.at_x(mark.value), 13 + 15 * place, f"{mark.name} {mark.value:.2f}"
        parts.append(svg.line(x, y - 9, x, frame.bottom, f"mark {mark.kind}"))
        at, anchor = _label_position(x, svg.width_of(label), frame, width)
        parts.append(svg.text(at, y, label, anchor, f"name {mark.kind}"))
    return parts


def _label_position(x: float, wide: float, frame: svg.Frame, width: float) -> tuple[float, str]:
    """Where a line's name goes, and its anchor: on the side with more room, at the edge where neither has any."""
    left, right = x - 6 - wide >= 0, x + 6 + wide <= width
    if left and (x > (frame.left + frame.right) / 2 or not right):
        return x - 6, "end"
    return (x + 6, "start") if right else (width - 2, "end")


def _range(dots: Sequence[Dot], marks: Sequence[Mark], limit: float | None) -> tuple[float, float]:
    """From the dots and the lines; intervals count so far as they do not dwarf them, nor does a dot far below."""
    values = sorted(dot.value for dot in dots)
    high = max([values[-1], *(mark.value for mark in marks)])
    core = values[len(values) // 4]
    lowest = max(values[0], core - 2 * (high - core)) if high > core else values[0]
    low = min([lowest, *(mark.value for mark in marks)])
    room = _BEYOND * (high - low) or 1.0
    halves = [(dot.value, dot.half or 0.0) for dot in dots if dot.value >= low]
    least = max(low - room, min([low, *(value - half for value, half in halves)]))
    most = min(high + room, max([high, *(value + half for value, half in halves)]))
    least, most = svg.padded(least, most, 0.04)
    return least, most if limit is None else max(min(most, limit), high + 0.02 * (high - least))
