"""The plain report: for each pair who won, by how much, and whether it is more than the noise of the seeds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import distill.report.gains as gains
from distill.report.collect import CollectedRuns
from distill.report.gains import Gain
from distill.report.names import STUDENT_ALONE
from distill.report.probes import probe_table
from distill.report.published import Published, published
from distill.report.ranking import Entry, Ranking, best_two, rankings
from distill.report.record import record
from distill.report.stats import BELOW, MISSING
from distill.report.stats import COMPARISON_RULE as PUBLISHED_RULE
from distill.report.summary import Row, TableKey, convention, table_title
from distill.report.table import (
    Cell,
    Document,
    Table,
    mean_and_error,
    number,
    numeric_columns,
    spread,
    without_empty,
    word,
)
from distill.report.unfinished import count_by_kind, unfinished, what_to_run

_COLUMNS = ["method", "n", "accuracy", "Δ alone", "95 % interval", "verdict", "closed %", "published"]
_COLUMNS += ["beside published"]
OPTIONAL = ["published", "beside published", "closed %", "95 % interval"]  # in this order they give way on a terminal
_DETAILS = ["method", "last", "best", "best epoch", "teacher acc", "gap", "loss weights", "hash", "seeds"]
_DETAILS += ["params M", "MACs M", "minutes"]
_NAMED = 4  # configurations that are named in a sentence
_FIRST = 12  # rows of a pair that are shown before the fold
EXPLAIN = (
    "Accuracies are top-1 in % at the last epoch, of the test set where no heading names another part, mean ± standard "
    "error over n seeds; best first. "
    "closed: share of the way from the student alone to its teacher, blank where that way is inside its own 95 % "
    "interval. Rows are never averaged over configurations. In the details ± is the sample standard deviation, and "
    "the best epoch is chosen on the images that it is measured on, which flatters."
)


def overview(found: CollectedRuns, rows: list[Row]) -> Document:
    """One ranking a pair, below a heading a data set, protocol and length: rows of different protocols never meet."""
    ranked, beside = rankings(rows), published(rows)
    tables: list[Table] = []
    for _, group in groupby(ranked, lambda ranking: ranking.where):
        members = list(group)
        for ranking in members:
            tables += [_table(ranking, f"r{ranked.index(ranking)}", beside), details(ranking)]
        tables += [across] if (across := _matrix(members)) else []  # last: what a terminal shows at its end
    tables += [probed] if (probed := probe_table(rows)) else []
    tables += [unfinished(found.unfinished)] if found.unfinished else []
    legend = [EXPLAIN, gains.GAIN_RULE] if rows else []
    legend += [PUBLISHED_RULE] if beside else []
    message, command = what_to_run(found) if not rows else ("", "")
    notes = [found.line(), *([message] if message else []), *count_by_kind(found.unfinished), *below(ranked)]
    notes += _several_versions(ranked)
    return Document("Distillation runs", tables, notes, _records(ranked), legend, command)


def _table(ranking: Ranking, key: str, beside: dict[int, Published]) -> Table:
    """The ranking as a table: the teacher, then all entries, best first."""
    best = best_two(entry.row.last.mean for entry in ranking.entries if ranking.taught)
    cells = [_cells(entry, best, beside.get(id(entry.row))) for entry in ranking.entries]
    if ranking.teacher_accuracies:
        accuracy = mean_and_error(ranking.teacher_accuracies)
        teacher = [Cell(f"teacher {ranking.teacher}", tone="mild"), word(None), accuracy]
        cells.insert(0, teacher + [word(None)] * (len(_COLUMNS) - len(teacher)))
    columns, cells = without_empty(_COLUMNS if ranking.taught else ["net", *_COLUMNS[1:]], cells)
    optional = frozenset(columns.index(name) for name in OPTIONAL if name in columns)
    shown = Table(key, ranking.title, columns, cells, _notes(ranking), numeric_columns(cells, len(columns)), optional)
    return _headed(shown, ranking.where)


def _headed(table: Table, where: TableKey) -> Table:
    """Below the heading of a place; a long one with its first rows and the student alone."""
    pinned = frozenset(place for place, row in enumerate(table.rows) if row[0].tone == "alone")
    first = _FIRST if len(table.rows) > _FIRST + 3 and not table.folded else None
    return replace(table, heading=table_title(where), first=first, pinned=pinned)


def _cells(entry: Entry, best: tuple[float | None, float | None], beside: Published | None) -> list[Cell]:
    row = entry.row
    name = Cell(entry.name, tone="alone" if entry.alone else "", title=row.one.departs or "")
    accuracy = mean_and_error(row.last)
    rank = 1 + best.index(row.last.mean) if row.last.mean in best else 0
    accuracy = Cell(accuracy.text, accuracy.value, "", accuracy.title, rank)
    return [name, number(row.n, 0), accuracy, *gained(entry.gain), _closed(row.closed), *_published_cells(beside)]


def gained(gain: Gain | None) -> list[Cell]:
    """Difference, interval and verdict."""
    if gain is None:
        return [word(None)] * 3
    text = f"{gain.difference:+.2f}" + (f" ± {gain.error:.2f}" if gain.error is not None else "")
    tone = "bad" if gain.difference < 0 else ""
    interval = word(None)
    if gain.half:
        low, high = gain.difference - gain.half, gain.difference + gain.half
        interval = Cell(f"{low:+.2f} … {high:+.2f}", gain.half, title="smallest half width first")
    sure = {gains.BETTER: "good", gains.WORSE: "bad"}.get(gain.verdict.partition(",")[0], "mild")
    p = "" if gain.corrected is None else f"p = {gain.corrected:.2g} after Holm, {gain.p:.2g} alone; {gain.test}"
    return [Cell(text, gain.difference, tone), interval, Cell(gain.verdict, tone=sure, title=p)]


def _closed(share: float | None) -> Cell:
    return number(None if share is None else 100 * share, 0)


def _published_cells(beside: Published | None) -> list[Cell]:
    """The published value and the verdict on ours."""
    if beside is None or beside.cell.published is None or beside.cell.verdict.word == MISSING:
        return [word(None)] * 2
    cell, value = beside.cell, beside.cell.published
    spreads = f" ± {value.std:.2f}" if value.std is not None else ""
    verdict = f"{cell.verdict.word} (best epoch)" if cell.selection == "best" else cell.verdict.word
    printed = Cell(f"{value.mean:.2f}{spreads}", value.mean, title=beside.table.title)
    return [printed, Cell(verdict, tone="bad" if cell.verdict.word == BELOW else "", title=beside.table.title)]


def _notes(ranking: Ranking) -> list[str]:
    notes = []
    if ranking.comparisons > 1:
        together = f"verdicts hold for all {ranking.comparisons} together (Holm)"
        notes.append(f"Intervals are of one comparison each; {together}.")
    if gains.WELCH in gains.tests_used(entry.gain for entry in ranking.entries):
        notes.append("Where it says Welch, the seeds differ from those of the student alone.")
    kinds = {convention(entry.row.one) for entry in ranking.entries if not entry.alone}
    if len(kinds) > 1:
        notes.append(f"{len(kinds)} combinations of loss weights, which the details name.")
    if ranking.teacher and ranking.alone is None:
        run = ranking.entries[0].row.one
        net = shlex.join([f"student={run.student}", *(f"student.args.{word}" for word in run.student_args)])
        notes.append(f"Nothing to measure by: run method=none {net} with the same settings.")
    return notes


def details(ranking: Ranking) -> Table:
    """What else is known of each entry: spreads, best epochs, loss weights, hashes and cost."""
    cells = []
    for entry in ranking.entries:
        row, run = entry.row, entry.row.one
        cost = [(row.mean("params"), 1e-6, 3), (row.mean("macs"), 1e-6, 1), (row.mean("seconds"), 1 / 60, 1)]
        cells.append(
            [
                word(entry.name), spread(row.last), spread(row.best), number(row.best_epoch, 0), spread(row.teacher),
                number(row.gap), word(convention(run)), word(run.hash), word(" ".join(one.seed for one in row.runs)),
                *(number(None if value is None else value * factor, digits) for value, factor, digits in cost),
            ]
        )  # fmt: skip
    columns, cells = without_empty(_DETAILS, cells)
    title = f"{ranking.title}: loss weights, hash, best epoch, cost"
    shown = Table("details", title, columns, cells, [], numeric_columns(cells, len(columns)), folded=True)
    return _headed(shown, ranking.where)


def _matrix(members: Sequence[Ranking]) -> Table | None:
    """Methods down, pairs across, by the mean gain over the student alone; None where one of them is a single one."""
    taught = [one for one in members if one.taught]
    by_name = {one.title: {entry.name: entry for entry in one.entries} for one in taught}
    names = list(dict.fromkeys(name for entries in by_name.values() for name in entries))
    if len(taught) < 2 or len(names) < 2:
        return None
    best = {pair: best_two(entry.row.last.mean for entry in entries.values()) for pair, entries in by_name.items()}
    lines = []
    for name in names:
        got = {pair: entries[name] for pair, entries in by_name.items() if name in entries}
        mean = [entry.gain.difference for entry in got.values() if entry.gain]
        average = sum(mean) / len(mean) if mean else None
        cells = [_across(got.get(pair), best[pair]) for pair in by_name]
        called = Cell(name, tone="alone" if name == STUDENT_ALONE else "")
        lines.append([called, *cells, number(average, sign=True), number(len(mean) or None, 0)])
    lines.sort(key=lambda line: -(line[-2].value if line[-2].value is not None else 0.0))
    columns = ["method", *by_name, "mean Δ alone", "pairs"]
    notes = ["Cells: accuracy ± its standard error, and the difference to the student alone; best and second best of a "
             "pair are marked. Best mean difference first; pairs: of how many it is the mean."]  # fmt: skip
    shown = Table("matrix", "Methods by pairs", columns, lines, notes, numeric_columns(lines, len(columns)))
    return _headed(shown, members[0].where)


def _across(entry: Entry | None, best: tuple[float | None, float | None]) -> Cell:
    if entry is None:
        return word(None)
    plain = mean_and_error(entry.row.last)
    more = f" ({entry.gain.difference:+.2f})" if entry.gain else ""
    rank = 1 + best.index(entry.row.last.mean) if entry.row.last.mean in best else 0
    return Cell(plain.text + more, plain.value, "bad" if entry.below else "", plain.title, rank)


def below(ranked: Sequence[Ranking]) -> list[str]:
    """A warning when distillation made students worse than training alone: what is certain first."""
    worse = [(ranking, entry) for ranking in ranked for entry in ranking.entries if entry.below]
    sure = [one for one in worse if one[1].gain and one[1].gain.verdict.startswith(gains.WORSE)]
    rest = [one for one in worse if one not in sure]
    groups = [("", sure), (", though not beyond the noise of the seeds, or on a single one", rest)]
    return [f"Below the student trained alone{how}: {_listed(some)}." for how, some in groups if some]


def _several_versions(ranked: Sequence[Ranking]) -> list[str]:
    """A warning where a row's seeds, or they and the student alone, are of several versions of this program."""
    mixed, seen = [], set[str | None]()
    for ranking in ranked:
        for entry in ranking.entries:
            beside = entry.row.baseline.runs if entry.row.baseline else ()
            if len(versions := {run.version for run in (*entry.row.runs, *beside)} - {None}) > 1:
                mixed.append((ranking, entry))
                seen |= versions
    if not mixed:
        return []
    told = ", ".join(sorted(map(str, seen)))
    return [f"Runs of distill {told} stand in one row or beside each other, and CHANGELOG.md says which are to be run "
            f"again: {_listed(mixed)}."]  # fmt: skip


def _listed(some: Sequence[tuple[Ranking, Entry]]) -> str:
    kept = some if len(some) <= _NAMED else some[:2]
    named = ", ".join(f"{entry.name} ({one.title}, {entry.row.one.dataset})" for one, entry in kept)
    return named + (f" and {len(some) - len(kept)} more" if len(some) > len(kept) else "")


def _records(ranked: Sequence[Ranking]) -> list[dict[str, object]]:
    """A flat record a configuration; of one that stands in several rankings, as in the first."""
    first: dict[int, dict[str, object]] = {}
    for ranking in ranked:
        for entry in ranking.entries:
            first.setdefault(id(entry.row), record(entry))
    return list(first.values())
