"""What all charts share: a frame that maps data to pixels, ticks, and the elements of SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDE, PHONE_WIDTH = 600, 330  # pixels: half a page, and a phone
LETTER = 7.4  # pixels of an average letter at the size of labels

Drawing = Callable[[float], Markup]  # a chart for a width


def both(draw: Drawing, wide: float = WIDE) -> Markup:
    """The chart for a page and for a phone; the style sheet shows one of them."""
    pieces = [Markup('<div class="{}">{}</div>').format(name, draw(width)) for name, width in
              (("wide", wide), ("narrow", PHONE_WIDTH))]  # fmt: skip
    return Markup("").join(pieces)


def svg(parts: Iterable[Markup], width: float, height: float, label: str) -> Markup:
    """A whole drawing; label: what it shows, for those who cannot see it."""
    form = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" role="img" aria-label="{}">')
    head = form.format(width, height, width, escape(label))
    return head + Markup("").join(parts) + Markup("</svg>")


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of a class."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "tick") -> Markup:
    """Text whose start, middle or end is at x."""
    form = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return form.format(kind, x, y, anchor, words)


def dot(x: float, y: float, kind: str, title: str = "", radius: float = 5) -> Markup:
    """A point of a class, with a longer text on hover."""
    form = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:g}">{}</circle>')
    return form.format(kind, x, y, radius, Markup("<title>{}</title>").format(title) if title else "")


def rect(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> Markup:
    """A rectangle of a class."""
    form = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">{}</rect>')
    return form.format(kind, x, y, width, height, Markup("<title>{}</title>").format(title) if title else "")


def path(points: Sequence[tuple[float, float]], kind: str, title: str = "", closed: bool = False) -> Markup:
    """Points that are joined by lines."""
    steps = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z" * closed
    form = Markup('<path class="{}" d="{}">{}</path>')
    return form.format(kind, steps, Markup("<title>{}</title>").format(title) if title else "")


def inside(frame: Frame, parts: Iterable[Markup]) -> Markup:
    """What is cut off at the edges of a frame."""
    left, top, width, height = frame.left, frame.top, frame.width, frame.height
    place = 'x="{0:.1f}" y="{1:.1f}" width="{2:.1f}" height="{3:.1f}" viewBox="{0:.1f} {1:.1f} {2:.1f} {3:.1f}"'
    head = Markup(f"<svg {place}>").format(left, top, width, height)
    return head + Markup("").join(parts) + Markup("</svg>")


@dataclass(frozen=True)
class Frame:
    """A drawing area in pixels, with the ranges of x and y (top: y's high end); either may be logarithmic."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float] = (0.0, 1.0)
    log: bool = False
    log_y: bool = False

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def at_x(self, value: float) -> float:
        return self.left + _share(value, self.x, self.log) * self.width

    def at_y(self, value: float) -> float:
        return self.bottom - _share(value, self.y, self.log_y) * self.height

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.at_x(x), self.at_y(y)

    def x_axis(self, title: str, digits: Callable[[float], str] | None = None) -> Markup:
        """Upright lines with their values, and the title below."""
        values = log_ticks(*self.x) if self.log else ticks(*self.x, max(4, round(self.width / 75)))
        parts = [text((self.left + self.right) / 2, self.bottom + 33, title, "middle", "axis")]
        for value in (one for one in values if title != "epoch" or one == round(one)):  # there is no half an epoch
            x = self.at_x(value)
            parts.append(line(x, self.top, x, self.bottom, "grid"))
            parts.append(text(x, self.bottom + 16, (digits or short)(value), "middle"))
        return Markup("").join(parts)

    def y_axis(self, title: str) -> Markup:
        """Level lines with their values, and the title above."""
        parts = [text(2, self.top - 9, title, kind="axis")] if title else []
        for value in log_ticks(*self.y) if self.log_y else ticks(*self.y, max(3, round(self.height / 45))):
            y = self.at_y(value)
            parts += [line(self.left, y, self.right, y, "grid"), text(self.left - 6, y + 4, short(value), "end")]
        return Markup("").join(parts)


def _share(value: float, span: tuple[float, float], log: bool) -> float:
    """Where a value lies in a range: 0 at its low end, 1 at its high end."""
    low, high, value = (math.log10(one) for one in (*span, value)) if log else (*span, value)
    return (value - low) / (high - low)


def log_ticks(least: float, most: float) -> list[float]:
    """Round numbers between two ends of a logarithmic axis."""
    low, high = math.log10(least), math.log10(most)
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    decades = range(math.floor(low), math.ceil(high) + 1)
    every = [step * 10.0**decade for decade in decades for step in steps]
    found = [value for value in every if low <= math.log10(value) <= high]
    return found if len(found) > 1 else [10**value for value in ticks(low, high)]


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers between two ends, about as many as wanted."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.75 * rough)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """1500000 as 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (1e4 if size == 1e3 else size):
            return f"{value / size:.4g}{letter}"
    return f"{value:g}"


def padded(low: float, high: float, share: float) -> tuple[float, float]:
    """A range with room at both ends; never empty."""
    room = (high - low) * share or max(abs(high) * share, 0.1)
    return low - room, high + room


def width_of(words: str) -> float:
    """About how wide a label is."""
    return LETTER * len(words)


def cut(words: str, width: float) -> str:
    """The label, shortened in its middle to a width."""
    room = max(int(width / LETTER), 5)
    return words if len(words) <= room else f"{words[: room - room // 3 - 1]}…{words[-(room // 3):]}"


def spread_out(wanted: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Places near those that are wanted, in the same order, at least `apart` from each other and between two ends."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    found = [0.0] * len(wanted)
    below = low - apart
    for index in order:
        found[index] = below = max(wanted[index], below + apart)
    above = max(high, low + apart * (len(wanted) - 1)) + apart
    for index in reversed(order):
        found[index] = above = min(found[index], above - apart)
    return found
