"""Small inline SVG charts. Colours come from classes (s0 ... s7), so that the page's theme sets them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

SERIES = 8  # colours that stay apart; what comes after is grey
WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
BAR, LABELS = 20, 130


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    series: int
    title: str
    spread: float | None = None


@dataclass(frozen=True)
class Line:
    """A curve with a band from low to high."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    series: int
    title: str


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    series: int
    title: str
    spread: float | None = None


class Axes:
    """Maps data to the drawing area; x may be logarithmic."""

    def __init__(self, x: Sequence[float], y: Sequence[float], log: bool = False) -> None:
        self.log = log
        self.x = _range([self._x(value) for value in x], 0.04)
        self.y = _range(y, 0.08)

    def _x(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def at(self, x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self.x, self.y
        across = LEFT + (self._x(x) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    def draw(self, x_title: str, y_title: str) -> Markup:
        """Grid lines, ticks and titles."""
        parts = []
        for value in ticks(*self.y):
            _, y = self.at(10 ** self.x[0] if self.log else self.x[0], value)
            parts.append(
                _line(LEFT, y, WIDTH - RIGHT, y, "grid") + _text(LEFT - 6, y + 4, f"{value:g}", "end")
            )
        for value in self._x_ticks():
            x, _ = self.at(value, self.y[0])
            parts.append(_line(x, TOP, x, HEIGHT - BOTTOM, "grid"))
            parts.append(_text(x, HEIGHT - BOTTOM + 15, short(value), "middle"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        turned = Markup(
            '<text class="axis" text-anchor="middle" transform="translate(12 {:.0f}) rotate(-90)">{}</text>'
        )
        parts += [
            _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_title, "middle", "axis"),
            turned.format(middle, y_title),
        ]
        return Markup("").join(parts)

    def _x_ticks(self) -> list[float]:
        low, high = self.x
        if not self.log:
            return ticks(low, high)
        steps = (1, 2, 5) if high - low < 2.5 else (1,)
        decades = range(math.floor(low), math.ceil(high) + 1)
        inside = [
            step * 10.0**decade
            for decade in decades
            for step in steps
            if low <= math.log10(step) + decade <= high
        ]
        return inside if len(inside) > 1 else [10**value for value in ticks(low, high)]


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> Markup:
    """Points with whiskers of one standard deviation; the x axis is logarithmic beyond a factor of 4."""
    log = max(p.x for p in points) > 4 * min(p.x for p in points) > 0
    spreads = [value for p in points for value in (p.y - (p.spread or 0), p.y + (p.spread or 0))]
    axes = Axes([p.x for p in points], spreads, log)
    parts = [axes.draw(x_title, y_title)]
    for p in points:
        x, y = axes.at(p.x, p.y)
        if p.spread:
            parts.append(
                _line(
                    x, axes.at(p.x, p.y - p.spread)[1], x, axes.at(p.x, p.y + p.spread)[1], _series(p.series)
                )
            )
        dot = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>')
        parts.append(dot.format(_series(p.series), x, y, p.title))
    return _svg(parts, HEIGHT, f"{y_title} against {x_title}")


def lines(curves: Sequence[Line], x_title: str, y_title: str) -> Markup:
    """Curves with bands."""
    axes = Axes([x for c in curves for x in (*c.x,)], [y for c in curves for y in (*c.low, *c.high)])
    parts = [axes.draw(x_title, y_title)]
    for c in curves:
        upper = [axes.at(x, y) for x, y in zip(c.x, c.high, strict=True)]
        lower = [axes.at(x, y) for x, y in zip(c.x, c.low, strict=True)]
        band = Markup('<path class="band {}" d="{}Z"/>')
        parts.append(band.format(_series(c.series), _path([*upper, *reversed(lower)])))
        middle = [axes.at(x, y) for x, y in zip(c.x, c.y, strict=True)]
        path = Markup('<path class="line {}" d="{}"><title>{}</title></path>')
        parts.append(path.format(_series(c.series), _path(middle), c.title))
    return _svg(parts, HEIGHT, f"{y_title} against {x_title}")


def bars(values: Sequence[Bar], title: str) -> Markup:
    """Horizontal bars from zero, either way, with whiskers of one standard deviation."""
    ends = [end for bar in values for end in (bar.value - (bar.spread or 0), bar.value + (bar.spread or 0))]
    low, high = _range([0, *ends], 0.05)
    low = 0.0 if min(ends) >= 0 else low
    height = TOP + BAR * len(values) + BOTTOM

    def at(value: float) -> float:
        return LABELS + (value - low) / (high - low) * (WIDTH - LABELS - RIGHT)

    parts = []
    for value in ticks(low, high):
        parts.append(_line(at(value), TOP, at(value), height - BOTTOM, "grid"))
        parts.append(_text(at(value), height - BOTTOM + 15, f"{value:g}", "middle"))
    for index, bar in enumerate(values):
        y, ends_at = TOP + BAR * index, sorted((at(0), at(bar.value)))
        box = Markup(
            '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}"><title>{}</title></rect>'
        )
        parts.append(
            box.format(_series(bar.series), ends_at[0], y + 3, ends_at[1] - ends_at[0], BAR - 6, bar.title)
        )
        if bar.spread:
            middle = y + BAR / 2
            parts.append(
                _line(at(bar.value - bar.spread), middle, at(bar.value + bar.spread), middle, "whisker")
            )
        parts.append(_text(LABELS - 6, y + BAR / 2 + 4, bar.label[:20], "end"))
    parts.append(_line(at(0), TOP, at(0), height - BOTTOM, "zero"))
    parts.append(_text((LABELS + WIDTH - RIGHT) / 2, height - 6, title, "middle", "axis"))
    return _svg(parts, height, title)


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers between two ends."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """1500000 as 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (1e4 if size == 1e3 else size):
            return f"{value / size:.4g}{letter}"
    return f"{value:g}"


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * margin or max(abs(high) * margin, 0.1)
    return low - pad, high + pad


def _series(index: int) -> str:
    return f"s{index}" if index < SERIES else "rest"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    line = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return line.format(name, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, name: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        name, x, y, anchor, text
    )


def _svg(parts: Sequence[Markup], height: float, label: str) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">').format(
        WIDTH, height, escape(label)
    )
    return head + Markup("").join(parts) + Markup("</svg>")
