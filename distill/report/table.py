"""The one shape that every output format writes: titled tables of cells, and remarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distill.report.gains import standard_error
from distill.report.stats import Sample

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """What is printed, what it sorts by (None: last), a tone (good, bad, mild) and a longer text on hover.

    rank: 1 for the best of its kind and 2 for the second best, which are set apart.
    """

    text: str
    value: float | None = None
    tone: str = ""
    title: str = ""
    rank: int = 0


@dataclass
class Table:
    """`columns` are headings; each row holds one Cell a column. `key` is a short name for it.

    Numeric columns are set to the right and sort by value; optional ones give way on a narrow terminal. heading: of
    all tables that follow each other with the same one. folded: an addition to the table before it, which a reader
    asks for. first: so many rows are shown, and those that are pinned; the others when they are asked for (None: all).
    """

    key: str
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    numeric: frozenset[int] = frozenset()
    optional: frozenset[int] = frozenset()
    heading: str = ""
    folded: bool = False
    first: int | None = None
    pinned: frozenset[int] = frozenset()

    @property
    def hidden(self) -> frozenset[int]:
        """The rows that are shown when they are asked for."""
        return frozenset(range(len(self.rows) if self.first is None else self.first, len(self.rows))) - self.pinned


@dataclass
class Document:
    """A report: its tables, remarks for the reader, and the same content as flat records (for CSV)."""

    title: str
    tables: list[Table]
    notes: list[str]
    records: list[dict[str, Any]]
    legend: list[str] = field(default_factory=list)  # how to read the tables
    command: str = ""  # to be typed next


def word(text: str | None) -> Cell:
    return Cell(text or NOTHING)


def number(value: float | None, digits: int = 2, sign: bool = False) -> Cell:
    if value is None:
        return Cell(NOTHING)
    return Cell(f"{value:{'+' if sign else ''}.{digits}f}", value)


def spread(over_seeds: Sample | None) -> Cell:
    """`74.92 ± 0.21`: mean and standard deviation; a single run has no spread and prints without."""
    return _plus_minus(over_seeds, over_seeds.std if over_seeds else None)


def mean_and_error(over_seeds: Sample | None) -> Cell:
    """`74.92 ± 0.12`: mean and its standard error."""
    return _plus_minus(over_seeds, standard_error(over_seeds))


def _plus_minus(over_seeds: Sample | None, more: float | None) -> Cell:
    if over_seeds is None:
        return Cell(NOTHING)
    text = f"{over_seeds.mean:.2f}" + (f" ± {more:.2f}" if more is not None else "")
    return Cell(text, over_seeds.mean, title=f"n = {over_seeds.n}")


def numeric_columns(rows: list[list[Cell]], width: int) -> frozenset[int]:
    """Columns in which every filled cell carries a value."""
    found = set()
    for column in range(width):
        cells = [row[column] for row in rows if row[column].text != NOTHING]
        if cells and all(cell.value is not None for cell in cells):
            found.add(column)
    return frozenset(found)


def without_empty(columns: list[str], rows: list[list[Cell]]) -> tuple[list[str], list[list[Cell]]]:
    """The columns that say something, and their cells."""
    kept = [index for index in range(len(columns)) if any(row[index].text != NOTHING for row in rows)]
    return [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]
