"""A comparison with a published table as tables of a Document."""

from __future__ import annotations

from collections import Counter
from typing import Any

import distill.report.table as shape
from distill.papers import PaperTable
from distill.report.compare import TEACHER_LINE, ComparedCell, Comparison, match_rows
from distill.report.probes import PUBLISHED, probe_table, records
from distill.report.stats import ABOVE, BELOW, COMPARISON_RULE, FEW, MISSING, VARIANT, WITHIN
from distill.report.summary import Row, convention
from distill.report.table import Document, Table, number, numeric_columns, spread, word

SIGNS = {WITHIN: "≈", ABOVE: "↑", BELOW: "↓", FEW: "?", VARIANT: "◇", MISSING: ""}
_TONES = {WITHIN: "good", ABOVE: "over", BELOW: "bad", FEW: "mild", VARIANT: "mild", MISSING: "mild"}
LEGEND = "Cells: ours (mean ± std) / published. ≈ within noise, ↑ above, ↓ below, ? under two seeds, ◇ a variant."
_DETAILS = ["method", "teacher", "student", "n", "last", "best", "compared", "published"]
_DETAILS += ["difference", "± 95 %", "verdict", "convention", "hash"]
MARKED = ["method", "teacher", "student", "differs in", "n", "last", "best", "data set", "protocol"]
MARKED += ["convention", "hash"]
_BESIDE = "ours beside published"
ALONE_OR_NOT = ("no runs are laid beside", "ours, where there are any, are in the table Linear probe")


def paper_document(tables: list[PaperTable], rows: list[Row], line: str) -> Document:
    """Each published table with ours beside it; `line` says what was read."""
    document = Document(", ".join(table.title for table in tables), [], [line], [], [COMPARISON_RULE])
    for table in tables:
        if table.comparable:
            comparison = match_rows(table, rows)
            document.tables += _views(comparison)
            document.records += _records(comparison)
        else:
            document.tables.append(_as_published(table))
        if table.id == PUBLISHED and (probed := probe_table(rows)):
            document.tables.append(probed)
            document.records += records(rows)
    return document


def _views(comparison: Comparison) -> list[Table]:
    found = [cell for cell in comparison.cells.values() if cell.ours is not None]
    views = [_matrix(comparison)]
    if found:
        views.append(_details(comparison, found))
    same = [cell for cell in comparison.extra if not cell.marks]
    if same:
        views.append(_details(comparison, same, "further configurations of ours in the same cells", "more"))
    marked = [cell for cell in comparison.extra if cell.marks]
    if marked:
        views.append(_marked(comparison, marked))
    return views


def _matrix(comparison: Comparison) -> Table:
    table = comparison.table
    columns = ["method", *(f"{pair.teacher or ''} → {pair.student}" for pair in table.pairs)]
    rows = [
        [word(method), *(_cell(comparison.cells[method, pair]) for pair in range(len(table.pairs)))]
        for method in comparison.methods
    ]
    return Table(table.id, table.title, columns, rows, _notes(comparison))


def _cell(cell: ComparedCell) -> shape.Cell:
    if cell.published is None and cell.ours is None:
        return shape.Cell(shape.NOTHING, tone="mild", title="not published")
    printed = shape.NOTHING if cell.published is None else f"{cell.published.mean:.2f}"
    ours = spread(cell.ours).text if cell.ours else MISSING
    title = f"{cell.verdict.word}; n = {cell.ours.n}; {cell.selection} epoch" if cell.ours else MISSING
    text = f"{ours} / {printed} {SIGNS[cell.verdict.word]}".rstrip()
    return shape.Cell(text, cell.ours.mean if cell.ours else None, _TONES[cell.verdict.word], title)


def _notes(comparison: Comparison) -> list[str]:
    """What a reader must know to judge the table: legend, tally, epoch, convention, source, remarks."""
    table = comparison.table
    tally = Counter(cell.verdict.word for cell in comparison.cells.values() if cell.published or cell.ours)
    counted = ", ".join(
        f"{tally[name]} {name}" for name in (WITHIN, ABOVE, BELOW, FEW, VARIANT, MISSING) if tally[name]
    )
    chosen = {"last": "last epoch", "best": "best epoch", "unknown": "unknown epoch (our last is compared)"}
    notes = [LEGEND, f"{sum(tally.values())} cells: {counted}.", f"Published: {chosen[table.selection()]}."]
    other = [f"{name}: {chosen[table.selection(name)]}" for name in table.raw.get("row_selection", {})]
    notes += [f"Rows that differ: {'; '.join(other)}."] if other else []
    runs = f"{table.runs} runs" if table.runs else "an unknown number of runs"
    notes.append(f"Protocol: {table.protocol or 'not recorded'}; KD term: {_terms(table)}; mean of {runs}.")
    if table.errors:
        notes.append("The source prints errors; shown here as 100 - error.")
    if any(cell.others for cell in comparison.cells.values()):
        notes.append(
            "Of several configurations of ours in a cell, the one with most seeds is shown, then by hash."
        )
    return [*notes, *_variants(comparison), f"Source: {table.source()}.", *table.notes]


def _variants(comparison: Comparison) -> list[str]:
    """A line for each method of ours in the table that departs from its paper."""
    rows = [cell.row.one for cell in (*comparison.cells.values(), *comparison.extra) if cell.row]
    return [f"◇ {name}: {told}" for name, told in sorted({(run.method, run.departs) for run in rows if run.departs})]


def _terms(table: PaperTable) -> str:
    words = {"without": "only in rows named +kd", "with": "in every row"}
    return words.get(table.kd_term or "", "not recorded, so not checked")


def _details(comparison: Comparison, cells: list[ComparedCell], title: str = _BESIDE, key: str = "cells") -> Table:
    table = comparison.table
    rows = [_detail(table, cell) for cell in cells]
    return Table(
        f"{table.id}-{key}", f"{table.title}: {title}", _DETAILS, rows, [], numeric_columns(rows, len(_DETAILS))
    )


def _detail(table: PaperTable, cell: ComparedCell) -> list[shape.Cell]:
    pair, row, verdict = table.pairs[cell.pair], cell.row, cell.verdict
    published = shape.Cell(shape.NOTHING)
    if cell.published:
        spreads = f" ± {cell.published.std:.2f}" if cell.published.std is not None else ""
        published = shape.Cell(f"{cell.published.mean:.2f}{spreads}", cell.published.mean)
    return [
        word(cell.method),
        word(pair.teacher),
        word(pair.student),
        number(cell.ours.n if cell.ours else 0, 0),
        spread(row.last if row else cell.ours),
        spread(row.best if row else None),
        word("best" if cell.selection == "best" else "last"),
        published,
        number(verdict.difference, sign=True),
        number(verdict.half),
        shape.Cell(verdict.word, tone=_TONES[verdict.word], title=verdict.test),
        word(convention(row.one) if row else None),
        word(row.one.hash if row else None),
    ]


def _marked(comparison: Comparison, cells: list[ComparedCell]) -> Table:
    table, rows = comparison.table, []
    for cell in cells:
        pair, row = table.pairs[cell.pair], cell.row
        assert row is not None
        rows.append(
            [
                word(cell.method),
                word(pair.teacher),
                word(pair.student),
                shape.Cell("; ".join(cell.marks), tone="over"),
                number(row.n, 0),
                spread(row.last),
                spread(row.best),
                word(row.one.dataset),
                word(row.one.protocol),
                word(convention(row.one)),
                word(row.one.hash),
            ]
        )
    title = f"{table.title}: NOT COMPARABLE runs of these pairs and methods"
    notes = [
        "These rows differ from the table in the way that is named, so no difference and no verdict is given."
    ]
    return Table(f"{table.id}-marked", title, MARKED, rows, notes, numeric_columns(rows, len(MARKED)))


def _as_published(table: PaperTable) -> Table:
    """A table that has no cells for teacher-student runs: only what was printed."""
    raw = table.raw
    listed = raw.get("rows") or [[name, *values] for name, values in table.methods.items()]
    width = max((len(line) for line in listed), default=0)
    head = raw.get("columns") or [f"{pair.teacher} → {pair.student}" for pair in table.pairs]
    columns = [*[""] * (width - len(head)), *map(str, head)]
    rows = [[_printed(value) for value in [*line, *[None] * (width - len(line))]] for line in listed]
    metric, beside = raw.get("metric", "values as in the source"), ALONE_OR_NOT[table.id == PUBLISHED]
    notes = [
        f"As published ({metric}); {beside}.",
        f"Source: {table.source()}.",
        *table.notes,
    ]
    return Table(table.id, table.title, columns, rows, notes, numeric_columns(rows, width))


def _printed(value: Any) -> shape.Cell:
    if isinstance(value, dict):
        return shape.Cell(f"{value['mean']:.2f} ± {value['std']:.2f}", value["mean"])
    if isinstance(value, int | float):
        return number(float(value))
    return word(" / ".join(map(str, value)) if isinstance(value, list) else value)


def _records(comparison: Comparison) -> list[dict[str, Any]]:
    """Every cell and every further row of ours, raw."""
    cells = [*comparison.cells.values(), *comparison.extra]
    return [_record(comparison.table, cell) for cell in cells if cell.published or cell.ours]


def _record(table: PaperTable, cell: ComparedCell) -> dict[str, Any]:
    pair, row, ours, printed = table.pairs[cell.pair], cell.row, cell.ours, cell.published
    run = row.one if row else None
    return {
        "table": table.id,
        "method": cell.method,
        "teacher": pair.teacher,
        "student": pair.student,
        "published": printed.mean if printed else None,
        "published_std": printed.std if printed else None,
        "published_epoch": cell.selection if cell.method != TEACHER_LINE else None,
        "verdict": cell.verdict.word,
        "marks": "; ".join(cell.marks),
        "difference": cell.verdict.difference,
        "half_interval": cell.verdict.half,
        "test": cell.verdict.test,
        "departs": row.one.departs if row else None,
        "n": ours.n if ours else 0,
        "ours_mean": ours.mean if ours else None,
        "ours_std": ours.std if ours else None,
        "last_mean": row.last.mean if row else None,
        "last_std": row.last.std if row else None,
        "best_mean": row.best.mean if row and row.best else None,
        "best_std": row.best.std if row and row.best else None,
        "dataset": run.dataset if run else None,
        "protocol": run.protocol if run else None,
        "convention": convention(run) if run else None,
        "hash": run.hash if run else None,
    }
