"""A Document on the terminal."""

from __future__ import annotations

import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from distill.report.table import Cell, Document, Table
from distill.terminal import printable

_TONES = {"good": "green", "bad": "red", "over": "yellow", "mild": "dim", "alone": "cyan"}
RANKS = ("", "bold", "underline")
_ENOUGH = 10_000  # columns: what goes to a file or a pipe is never cut or wrapped


def console() -> Console:
    """As wide as the terminal; of any width where the output goes to a file or a pipe."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(width=_ENOUGH, highlight=False)


def show_tables(document: Document, out: Console, every: bool = False) -> None:
    """Rich tables, as wide as `out`: columns that do not fit are left out from the right, and named.

    every: also the rows and the tables that a page folds.
    """
    heading = ""
    for table in document.tables:
        if table.folded and not every:
            continue
        if table.heading and table.heading != heading:
            _line(out, table.heading, "bold")
        heading = table.heading
        _show_table(table, out, every)
    if document.command:
        document.notes.append(document.command)
    for line, style in [*((note, "") for note in document.notes), *((note, "dim") for note in document.legend)]:
        _line(out, line, style)


def _line(out: Console, text: str, style: str = "dim") -> None:
    out.print(Text(printable(text), style=style), soft_wrap=not out.is_terminal)


def _show_table(table: Table, out: Console, every: bool) -> None:
    columns = _fitting(table, out.width)
    hidden = frozenset() if every else table.hidden
    out.print(_rich(table, columns, hidden))
    notes = list(table.notes)
    if left_out := ", ".join(name for index, name in enumerate(table.columns) if index not in columns):
        notes.append(f"Not shown, for width: {left_out}.")
    if hidden:
        notes.append(f"Not shown: {len(hidden)} more rows (distill report FOLDER --all lists them).")
    for note in notes:
        _line(out, note)


def _fitting(table: Table, width: int) -> list[int]:
    """The columns that fit from the left, at least four; optional ones give way first."""
    needed = [max(map(len, [name, *(row[index].text for row in table.rows)])) + 3
              for index, name in enumerate(table.columns)]  # fmt: skip
    kept = list(range(len(needed)))
    for index in [*sorted(table.optional, reverse=True), *range(len(needed) - 1, 3, -1)]:
        if sum(needed[one] for one in kept) + 1 <= width:
            break
        if index in kept and len(kept) > 4:
            kept.remove(index)
    return kept


def _rich(table: Table, columns: list[int], hidden: frozenset[int]) -> RichTable:
    shown = RichTable(title=Text(printable(table.title), "bold"), title_justify="left", box=SIMPLE_HEAD)
    for index in columns:
        justify: JustifyMethod = "right" if index in table.numeric else "left"
        shown.add_column(Text(printable(table.columns[index])), justify=justify, overflow="fold")
    for place, row in enumerate(table.rows):
        if place not in hidden:
            shown.add_row(*(Text(printable(row[index].text), _style(row[index])) for index in columns))
    return shown


def _style(cell: Cell) -> str:
    return " ".join(filter(None, [_TONES.get(cell.tone, ""), RANKS[cell.rank]]))
