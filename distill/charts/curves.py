"""Curves with bands, each named at its end. The axis is that of their last quarter, where they are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

import distill.charts.svg as svg
from distill.charts.marks import Mark, grid_levels, name_label, reach

_HEIGHT, _TOP, _BOTTOM = 260, 26, 40
_LAST = 0.25  # of the x axis: what the y axis is made for


@dataclass(frozen=True)
class Curve:
    """y over x, with a band from low to high."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    kind: str


def curves(
    drawn: Sequence[Curve], marks: Sequence[Mark], titles: tuple[str, str], label: str, last: float = _LAST,
    log: bool = False,
) -> svg.Drawing:  # fmt: skip
    """The curves, and level lines for `marks`.

    titles: of x and of y; last: the share of x that sets the y axis; log: that axis is logarithmic.
    """

    def draw(width: float) -> Markup:
        ends = [f"{one.name} {one.y[-1]:.2f}" for one in drawn]
        texts = ends + [f"{mark.name} {mark.value:.2f} ↑" for mark in marks]
        room = min(max(map(svg.width_of, texts), default=0) + 14, width * 0.4)
        xs = [x for one in drawn for x in (one.x[0], one.x[-1])]
        span = (min(xs), max(xs)) if min(xs) < max(xs) else svg.padded(min(xs), max(xs), 0.1)
        frame = svg.Frame(46, _TOP, width - 46 - room, _HEIGHT, span, _range(drawn, marks, last, log), log_y=log)
        lines = grid_levels(frame, marks)
        parts = [frame.x_axis(titles[0]), frame.y_axis(titles[1]), svg.inside(frame, lines + _lines(frame, drawn))]
        return svg.svg([*parts, *_names(frame, drawn, ends, marks, room)], width, _TOP + _HEIGHT + _BOTTOM, label)

    return draw


def _lines(frame: svg.Frame, drawn: Sequence[Curve]) -> list[Markup]:
    parts = []
    for one in drawn:
        upper = [frame.at(x, y) for x, y in zip(one.x, one.high, strict=True)]
        lower = [frame.at(x, y) for x, y in zip(one.x, one.low, strict=True)]
        parts.append(svg.path([*upper, *reversed(lower)], f"band {one.kind}", closed=True))
    for one in drawn:
        points = [frame.at(x, y) for x, y in zip(one.x, one.y, strict=True)]
        parts += [svg.dot(*points[0], f"sure {one.kind}", one.name, 3)] if len(points) == 1 else []
        parts.append(svg.path(points, f"line {one.kind}", one.name))
    return parts


def _names(
    frame: svg.Frame, drawn: Sequence[Curve], ends: Sequence[str], marks: Sequence[Mark], room: float
) -> list[Markup]:
    """At the right end of each curve, moved apart where curves end together; of what is off the axis, at its edge."""
    texts = [(frame.at_y(one.y[-1]), words, one.kind) for one, words in zip(drawn, ends, strict=True)]
    texts += [(frame.at_y(mark.value), name_label(frame, mark), mark.kind) for mark in marks]
    places = svg.spread_out([min(max(y, frame.top), frame.bottom) for y, _, _ in texts], 14, frame.top, frame.bottom)
    return [
        svg.text(frame.right + 8, y + 4, svg.cut(words, room - 8), kind=f"name {kind}")
        for y, (_, words, kind) in zip(places, texts, strict=True)
    ]


def _range(drawn: Sequence[Curve], marks: Sequence[Mark], last: float, log: bool) -> tuple[float, float]:
    """What the curves reach in the last quarter; a line for comparison where it is not far."""
    ends = []
    for one in drawn:
        begin = one.x[-1] - last * (one.x[-1] - one.x[0])
        ends += [end for x, *pair in zip(one.x, one.low, one.high, strict=True) if x >= begin for end in pair]
    low, high = min(ends), max(ends)
    if log:
        return low / 1.2, high * 1.2
    return reach(low, high, marks)
