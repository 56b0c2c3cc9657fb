"""The published value of each configuration of ours, where a table of a paper has one of its own kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import distill.papers as papers
from distill.papers import PaperTable
from distill.report.compare import ComparedCell, match_rows, model_name
from distill.report.summary import Row


@dataclass(frozen=True)
class Published:
    """What a table says of a configuration, and the verdict on ours."""

    cell: ComparedCell
    table: PaperTable


def published(rows: Sequence[Row]) -> dict[int, Published]:
    """For each row (by id) the first published table that it can be compared with, without a mark: of tables that tell
    their protocol or length, for a run of any other would have no mark either.
    """
    found: dict[int, Published] = {}
    for table in papers.tables().values():
        if not (table.comparable and table.dataset and (table.protocol or table.epochs)):
            continue
        fit = [row for row in rows if model_name(row.one.dataset) == model_name(table.dataset)]
        for cell in _cells(table, fit) if fit else ():
            if cell.row is not None and cell.published is not None and not cell.marks:
                found.setdefault(id(cell.row), Published(cell, table))
    return found


def _cells(table: PaperTable, rows: Sequence[Row]) -> Iterable[ComparedCell]:
    comparison = match_rows(table, rows)
    return [*comparison.cells.values(), *comparison.extra]
