"""Several drawings in one: side by side where there is room, below each other on a phone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

import distill.charts.svg as svg

_GAP = 14


def panels(drawings: Sequence[svg.Drawing], label: str, columns: int | None = None) -> svg.Drawing:
    """columns: side by side where there is room; all of them where it is None."""

    def draw(width: float) -> Markup:
        across = 1 if width <= svg.PHONE_WIDTH else columns or len(drawings)
        each, y, parts = (width - _GAP * (across - 1)) / across, 0.0, []
        for start in range(0, len(drawings), across):
            row = [one(each) for one in drawings[start : start + across]]
            for place, drawn in enumerate(row):
                move = Markup('<g transform="translate({:.1f} {:.1f})">{}</g>')
                parts.append(move.format(place * (each + _GAP), y, _inner(drawn)))
            y += max(map(height, row)) + _GAP
        return svg.svg(parts, width, y - _GAP, label)

    return draw


def height(drawn: Markup) -> float:
    """Of a whole drawing, in pixels."""
    found = re.match(r'<svg[^>]* viewBox="0 0 [\d.]+ ([\d.]+)"', drawn)
    assert found
    return float(found[1])


def _inner(drawn: Markup) -> Markup:
    """What a drawing holds, without the <svg> around it."""
    return Markup(drawn[drawn.index(">") + 1 : drawn.rindex("</svg>")])
