"""Lines that are redrawn in place on a terminal: what does not fit is dropped from the right, field by field."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_GAP = "  "
BAR = 20  # columns of a bar


def fitting(fields: Iterable[str], width: int) -> str:
    """The fields from the left that fit, with a gap between them; a first one that does not is cut."""
    line = ""
    for field in filter(None, fields):
        longer = f"{line}{_GAP}{field}" if line else field[:width]
        if len(longer) > width:
            break
        line = longer
    return line


def aligned(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of fields, one below the other: a column is dropped where it does not fit for the longest of its fields."""
    columns = range(max(map(len, rows), default=0))
    cells = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    sizes = [max(len(row[column]) for row in cells) for column in columns]
    padded = [[f"{row[column]:<{sizes[column]}}" for column in columns if sizes[column]] for row in cells]
    return [fitting(row, width).rstrip() for row in padded]


def bar(share: float, size: int = BAR) -> str:
    """How much is done, from 0 to 1."""
    full = round(max(0.0, min(share, 1.0)) * size)
    done, left = "━╌" if "utf" in (getattr(sys.stdout, "encoding", None) or "utf").lower() else "#-"
    return done * full + left * (size - full)


class Screen:
    """Shows what `lines` gives for a width, four times a second, until it is closed; prints go above it."""

    def __init__(self, lines: Callable[[int], Sequence[str]]) -> None:
        from rich.live import Live

        self._live = Live(get_renderable=lambda: _Lines(lines), refresh_per_second=4, transient=False)
        self._live.start()

    def close(self) -> None:
        """Leave the lines as they stand and give the terminal back."""
        self._live.stop()


class _Lines:
    """What rich draws."""

    def __init__(self, lines: Callable[[int], Sequence[str]]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        from rich.text import Text

        yield Text("\n".join(self.lines(options.max_width)), no_wrap=True, overflow="crop")
