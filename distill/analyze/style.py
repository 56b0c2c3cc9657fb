"""A picture of an analysis: a drawing, what it shows, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from distill.charts import theme
from distill.charts.svg import Drawing

STUDENT_COLOUR, TEACHER_COLOUR, ALONE_COLOUR, OTHER = "s0", "s1", "alone", "rest"  # classes of colours
NAMESPACE = "http://www.w3.org/2000/svg"
_WHOLE = 980  # pixels of a picture that takes the page's width


@dataclass
class Picture:
    """`draw` gives it for a width; `numbers` are those it shows; wide: it takes the whole width of the page."""

    name: str
    title: str
    caption: str
    draw: Drawing
    numbers: Mapping[str, Any] = field(default_factory=dict)
    wide: bool = False

    @property
    def width(self) -> float:
        """Of its file, in pixels."""
        return _WHOLE if self.wide else 600


def file_of(picture: Picture) -> str:
    """The picture as an SVG file, with its colours in it; the same picture gives the same text."""
    drawn = picture.draw(picture.width)
    drawn = drawn.replace("<svg ", Markup(f'<svg xmlns="{NAMESPACE}" '), 1)
    head = drawn.index(">") + 1
    style = Markup("<style>{}</style>").format(Markup(theme.of_file()))
    return f"{drawn[:head]}{style}{drawn[head:]}\n"
