"""The one shape that every output format writes: titled tables of cells, and remarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distill.report.stats import Sample

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """What is printed, what it sorts by (None: last), a tone (good, bad, mild) and a longer text on hover."""

    text: str
    value: float | None = None
    tone: str = ""
    title: str = ""


@dataclass
class Table:
    """`columns` are headings; each row holds one Cell a column. `key` is a short name for it.

    Numeric columns are set to the right and sort by value; optional ones give way on a narrow terminal.
    """

    key: str
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    numeric: frozenset[int] = frozenset()
    optional: frozenset[int] = frozenset()


@dataclass
class Document:
    """A report: its tables, remarks for the reader, and the same content as flat records (for CSV)."""

    title: str
    tables: list[Table]
    notes: list[str]
    records: list[dict[str, Any]]


def word(text: str | None) -> Cell:
    return Cell(text or NOTHING)


def number(value: float | None, digits: int = 2, sign: bool = False) -> Cell:
    if value is None:
        return Cell(NOTHING)
    return Cell(f"{value:{'+' if sign else ''}.{digits}f}", value)


def spread(got: Sample | None) -> Cell:
    """`74.92 ± 0.21`; a single run has no spread and prints without."""
    if got is None:
        return Cell(NOTHING)
    text = f"{got.mean:.2f}" + (f" ± {got.std:.2f}" if got.std is not None else "")
    return Cell(text, got.mean, title=f"n = {got.n}")


def numeric_columns(rows: list[list[Cell]], width: int) -> frozenset[int]:
    """Columns in which every filled cell carries a value."""
    found = set()
    for column in range(width):
        cells = [row[column] for row in rows if row[column].text != NOTHING]
        if cells and all(cell.value is not None for cell in cells):
            found.add(column)
    return frozenset(found)
