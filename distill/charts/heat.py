"""Matrices and images as pixels. Colours of matrices fade into the page, so that they suit light and dark."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

import distill.charts.svg as svg

_MORE, LESS, _SIZE = (214, 106, 0), (116, 78, 190), (31, 111, 180)  # above zero, below zero, from zero on
_MOST = 250  # pixels a side; larger matrices are averaged down
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # matplotlib's, at its quarters


def signed(values: np.ndarray, limit: float) -> np.ndarray:
    """Numbers as RGBA: orange above zero, violet below, nothing at zero, full at `limit`."""
    strength = np.clip(np.abs(values) / limit, 0, 1)
    colours = np.where(values[..., None] >= 0, np.array(_MORE), np.array(LESS))
    return np.concatenate([colours, (255 * strength[..., None]).round()], -1).astype(np.uint8)


def shares(values: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1 as RGBA: the fuller the larger."""
    strength = np.clip(values, 0, 1)[..., None]
    return np.concatenate([np.broadcast_to(_SIZE, (*values.shape, 3)), (255 * strength).round()], -1).astype(np.uint8)


def viridis(values: np.ndarray) -> np.ndarray:
    """A map as RGB, from its own smallest (dark) to its own largest value (bright)."""
    low, high = float(values.min()), float(values.max())
    places = (values - low) / ((high - low) or 1.0) * (len(VIRIDIS) - 1)
    channels = [np.interp(places, range(len(VIRIDIS)), channel) for channel in zip(*VIRIDIS, strict=True)]
    return np.stack(channels, -1).round().astype(np.uint8)


def smaller(values: np.ndarray, most: int = _MOST) -> np.ndarray:
    """A square matrix averaged down to at most so many rows."""
    step = -(-len(values) // most)
    if step == 1:
        return values
    edges = np.arange(0, len(values), step)
    sums = np.add.reduceat(np.add.reduceat(values, edges, 0), edges, 1)
    counts = np.diff(np.append(edges, len(values)))
    averaged: np.ndarray = sums / np.outer(counts, counts)
    return averaged


def picture(pixels: np.ndarray, x: float, y: float, width: float, height: float) -> Markup:
    """Pixels [H,W,3 or 4] of 0 to 255 in a rectangle, each with sharp edges."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    form = Markup('<image x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" preserveAspectRatio="none" '
                  'style="image-rendering:pixelated" href="data:image/png;base64,{}"/>')  # fmt: skip
    return form.format(x, y, width, height, b64encode(buffer.getvalue()).decode())


def matrix(
    pixels: np.ndarray, title: str, sides: tuple[str, str], names: tuple[Sequence[str], Sequence[str]], label: str,
    numbers: np.ndarray | None = None, largest: float = 380,
) -> svg.Drawing:  # fmt: skip
    """A matrix as colours. sides: what is across and down; names: of columns, of rows, or none; numbers: in cells."""

    def draw(width: float) -> Markup:
        rows, columns = pixels.shape[:2]
        left = 14 + min(max((svg.width_of(name) for name in names[1]), default=6), width * 0.3)
        side = min((width - left - 8) / columns, largest / max(rows, columns))
        wide, tall, top = side * columns, side * rows, 40
        parts = [
            svg.text(left, 14, title, kind="axis"),
            svg.text(left, 31, f"down: {sides[1]}"),
            picture(pixels, left, top, wide, tall),
            svg.rect(left, top, wide, tall, "frame"),
            svg.text(left + wide / 2, top + tall + (34 if names[0] else 18), f"across: {sides[0]}", "middle"),
        ]
        parts += _names(names, left, top, side, tall)
        if numbers is not None:
            parts += [
                svg.text(left + side * (column + 0.5), top + side * (row + 0.5) + 4, f"{value:.2f}", "middle", "value")
                for (row, column), value in np.ndenumerate(np.round(numbers, 2) + 0.0)
            ]
        return svg.svg(parts, width, top + tall + 40, label)

    return draw


def _names(
    names: tuple[Sequence[str], Sequence[str]], left: float, top: float, side: float, tall: float
) -> list[Markup]:
    across, down = names
    short = all(svg.width_of(name) <= side for name in across)
    parts = [svg.text(left - 6, top + side * (place + 0.5) + 4, name, "end") for place, name in enumerate(down)]
    if short:  # else the rows, which are the same, say it
        middles = [left + side * (place + 0.5) for place in range(len(across))]
        parts += [svg.text(x, top + tall + 15, name, "middle") for x, name in zip(middles, across, strict=True)]
    return parts
