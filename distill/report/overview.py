"""The plain report: every configuration with mean ± std, n, last and best epoch, its gap to the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from distill.report.collect import Found
from distill.report.probes import probe_table
from distill.report.summary import ALONE, Place, Row, convention, place, place_title
from distill.report.table import Cell, Document, Table, number, numeric_columns, spread, word

COLUMNS = [
    "method",
    "teacher",
    "student",
    "convention",
    "hash",
    "n",
    "last",
    "best",
    "best epoch",
    "teacher acc",
    "gap",
    "closed %",
    "params M",
    "MACs M",
    "minutes",
]
OPTIONAL = frozenset(map(COLUMNS.index, ["hash", "best epoch", "params M", "MACs M", "minutes"]))
EXPLAIN = (
    "Accuracies are top-1 test accuracy in %, mean ± sample standard deviation over n seeds. "
    "last: the last epoch; best: the best one (chosen on the test set, so flattering). gap = teacher - last. "
    "closed: share of the gap between the student alone (method none, last epoch) and the teacher. "
    "Rows are never averaged over configurations."
)


def overview(found: Found, rows: list[Row]) -> Document:
    """One table a data set, protocol and length, so that rows of different protocols never meet."""
    tables = [_table(where, list(group)) for where, group in groupby(rows, place)]
    tables += [probed] if (probed := probe_table(rows)) else []
    notes = [found.line(), EXPLAIN] if rows else [found.line()]
    return Document("Distillation runs", tables, notes + below(rows), [record(row) for row in rows])


def _table(where: Place, rows: list[Row]) -> Table:
    cells = [_cells(row) for row in rows]
    conventions = {convention(row.one) for row in rows if row.one.method != ALONE}
    several = f"{len(conventions)} loss conventions: compare rows of one convention."
    notes = [several] if len(conventions) > 1 else []
    numeric = numeric_columns(cells, len(COLUMNS))
    return Table("runs", place_title(where), COLUMNS, cells, notes, numeric, OPTIONAL)


def _cells(row: Row) -> list[Cell]:
    seconds = row.mean("seconds")
    worse = row.below_alone()
    return [
        Cell(row.one.method, tone="bad" if worse else "", title="below the student alone" if worse else ""),
        word(row.one.teacher),
        word(row.one.student),
        word(convention(row.one)),
        word(row.one.hash),
        number(row.n, 0),
        spread(row.last),
        spread(row.best),
        number(row.best_epoch, 0),
        spread(row.teacher),
        number(row.gap),
        number(_scaled(row.closed, 100), 0),
        number(_scaled(row.one.params, 1e-6), 3),
        number(_scaled(row.one.macs, 1e-6), 1),
        number(_scaled(seconds, 1 / 60), 1),
    ]


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def below(rows: Sequence[Row]) -> list[str]:
    """A warning when distillation made students worse than training alone."""
    worse = [row for row in rows if row.below_alone()]
    if not worse:
        return []
    names = ", ".join(f"{row.one.method} ({row.pair}, {row.one.dataset})" for row in worse[:8])
    more = f" and {len(worse) - 8} more" if len(worse) > 8 else ""
    return [f"Below the student trained alone: {names}{more}."]


def record(row: Row) -> dict[str, Any]:
    """The row as flat raw values, for CSV."""
    run = row.one
    best = row.best
    return {
        "dataset": run.dataset,
        "measured_on": run.part,
        "protocol": run.protocol,
        "ce": run.ce,
        "kd": run.kd,
        "weight": run.weight,
        "teacher": run.teacher,
        "student": run.student,
        "method": run.method,
        "hash": run.hash,
        "n": row.n,
        "seeds": " ".join(one.seed for one in row.runs),
        "last_mean": row.last.mean,
        "last_std": row.last.std,
        "best_mean": best.mean if best else None,
        "best_std": best.std if best else None,
        "best_epoch": row.best_epoch,
        "teacher_accuracy": row.teacher.mean if row.teacher else None,
        "gap": row.gap,
        "closed": row.closed,
        "student_alone": row.alone.mean if row.alone else None,
        "top5": row.mean("top5"),
        "agreement": row.mean("agreement"),
        "params": run.params,
        "macs": run.macs,
        "method_params": run.method_params,
        "images_per_second": row.mean("images_per_second"),
        "seconds": row.mean("seconds"),
        "epochs": run.epochs,
    }
