"""How the pictures look: colours that colour-blind readers can tell apart, one size of text."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distill.files import replacing

# Okabe and Ito's palette, without its yellow, which is faint on white
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#7F7F7F",
    "#8C564B",
    "#6A3D9A",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
STUDENT, TEACHER, ALONE, OTHER = COLOURS[0], COLOURS[1], COLOURS[7], "#A8C8DC"
SETTINGS: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "distill",
}
DPI = 150


@dataclass
class Picture:
    """A drawn figure; `numbers` are those it shows."""

    name: str
    title: str
    caption: str
    figure: Figure
    numbers: Mapping[str, Any] = field(default_factory=dict)
    wide: bool = False


def blank(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 4.0), **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes [rows, columns]; without pyplot, so that no display or global state is needed."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def styled() -> AbstractContextManager[None]:
    """What is drawn inside has SETTINGS."""
    return matplotlib.rc_context(SETTINGS)  # type: ignore[arg-type]


def grid(axes: Axes, axis: Any = "both") -> None:
    """Light lines behind what is drawn."""
    axes.grid(axis=axis, color=SETTINGS["grid.color"], linewidth=SETTINGS["grid.linewidth"])
    axes.set_axisbelow(True)


def bare(axes: Axes) -> None:
    """No ticks and no frame, for images."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def rendered(picture: Picture, kind: str) -> bytes:
    """The picture as a PNG or SVG file; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with styled():
        picture.figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata, facecolor="white")
    return buffer.getvalue()


def save(data: bytes, path: Path) -> None:
    """Write a file atomically."""
    with replacing(path) as file:
        file.write(data)
