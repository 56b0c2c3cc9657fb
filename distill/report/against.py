"""Two sets of results side by side: before and after a change, each configuration with its difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import distill.charts as charts
from distill.charts import theme
from distill.report.figures import ChartSet, Figure
from distill.report.gains import BETTER, UNCORRECTED, WORSE, Gain, corrected, gain
from distill.report.names import row_names
from distill.report.overview import gained
from distill.report.summary import ALONE, Row, convention, table_key, table_title
from distill.report.table import Cell, Document, Table, mean_and_error, number, numeric_columns, without_empty, word

_RULE = (
    "Δ: ours minus the other's mean accuracy at the last epoch, ± its standard error. Where both have the same seeds, "
    "the differences seed by seed are tested, elsewhere Welch's test is used, and the verdict says so. Verdicts are "
    f"corrected for the number of configurations of the pair (Holm); '{UNCORRECTED}' is what only holds for one that "
    "had been tested alone. Configurations are matched by all that sets them apart, then by what they are of."
)
LEVELS: tuple[Callable[[Row], Hashable], ...] = (  # from the strictest to the loosest
    lambda row: row.one.key,
    lambda row: (table_key(row), row.one.teacher_net, row.one.student_net, row.one.method),
    lambda row: (row.one.dataset, row.one.part, row.one.teacher_net, row.one.student_net, row.one.method),
)


@dataclass(frozen=True)
class Match:
    """One configuration in both sets; `differs`: in what, where it is not the same one."""

    name: str
    ours: Row
    other: Row
    gain: Gain
    differs: str


def document(rows: Sequence[Row], others: Sequence[Row], titles: tuple[str, str]) -> Document:
    """A table a pair, in the order of `rows`. titles: what the two sets are called."""
    found = matches(rows, others)
    tables = [_table(pair, f"a{place}", titles) for place, pair in enumerate(pairs(found))]
    notes = [f"{len(found)} configurations of {titles[0]} ({len(rows)}) are also in {titles[1]} ({len(others)})."]
    for title, some, taken in ((titles[0], rows, {id(one.ours) for one in found}),
                               (titles[1], others, {id(one.other) for one in found})):  # fmt: skip
        left = [f"{row.one.method} ({row.pair}, {row.one.dataset})" for row in some if id(row) not in taken]
        if left:
            notes.append(f"Only in {title}: {', '.join(left[:8])}{f' and {len(left) - 8} more' * (len(left) > 8)}.")
    return Document(f"{titles[0]} against {titles[1]}", tables, notes, list(map(_record, found)), [_RULE] * bool(found))


def matches(rows: Sequence[Row], others: Sequence[Row]) -> list[Match]:
    """Pair the rows of two sets, in the order of the first, by each of LEVELS in turn, where that is one to one."""
    found: dict[int, Row] = {}
    for level in LEVELS:
        taken = {id(row) for row in found.values()}
        ours = [row for row in rows if id(row) not in found]
        unmatched = [row for row in others if id(row) not in taken]
        counts, other_counts = Counter(map(level, ours)), Counter(map(level, unmatched))
        by_key = {level(row): row for row in unmatched if other_counts[level(row)] == 1}
        found |= {id(row): by_key[level(row)] for row in ours if level(row) in by_key and counts[level(row)] == 1}
    both = [row for row in rows if id(row) in found]
    called = row_names(both)
    made = [_match(called[id(row)], row, found[id(row)]) for row in both]
    return [one for group in pairs(made) for one in _corrected(group)]


def pairs(found: Iterable[Match]) -> list[list[Match]]:
    """The matches of each place and pair."""
    return [list(group) for _, group in groupby(found, lambda one: (table_key(one.ours), one.ours.pair))]


def figures(found: Sequence[Match]) -> dict[str, ChartSet]:
    """The chart of each table: the differences with their intervals, and the line where nothing has changed."""
    shown, kinds = {}, _kinds(found)
    for number_, pair in enumerate(pairs(found)):
        ordered = sorted(pair, key=lambda one: -one.gain.difference)
        dots = [
            charts.Dot(one.name, one.gain.difference, kinds[one.ours.one.method], one.gain.error, one.gain.half,
                       one.gain.verdict.partition(",")[0] in (BETTER, WORSE), title=one.gain.verdict, digits="+.2f")
            for one in ordered
        ]  # fmt: skip
        title = f"{pair[0].ours.pair}: what has changed"
        marks = [charts.Mark("no change", 0.0, "alone")]
        drawing = charts.ranked(dots, marks, "difference, percent points", title, most=None)
        note = "Thick: ± standard error; thin: 95 % interval. A filled dot is more than the noise of the seeds."
        shown[f"a{number_}"] = ChartSet([Figure(title, charts.both(drawing), note=note)], [])
    return shown


def _kinds(found: Sequence[Match]) -> dict[str, str]:
    """One colour a method: the class of each."""
    methods = dict.fromkeys(one.ours.one.method for one in found if one.ours.one.method != ALONE)
    return {ALONE: "alone"} | {method: theme.kind(index) for index, method in enumerate(methods)}


def _match(name: str, ours: Row, other: Row) -> Match:
    return Match(name, ours, other, gain(ours.by_seed, other.by_seed), _differs(ours, other))


def _corrected(group: list[Match]) -> list[Match]:
    fixed = corrected([one.gain for one in group])
    return [replace(one, gain=got) for one, got in zip(group, fixed, strict=True) if got is not None]


def _differs(ours: Row, other: Row) -> str:
    """`200 → 240 epochs`: from the other to ours."""
    quantities = {
        "protocol": lambda row: row.one.protocol,
        "epochs": lambda row: f"{row.one.epochs:g}" if row.one.epochs is not None else "?",
        "set by hand": lambda row: ", ".join(row.one.by_hand) or "nothing",
        "loss weights": lambda row: convention(row.one),
    }
    words = [f"{name}: {get(other)} → {get(ours)}" for name, get in quantities.items() if get(ours) != get(other)]
    hashes = f"hash: {other.one.hash} → {ours.one.hash}"
    return "; ".join(words) or (hashes if ours.one.hash != other.one.hash else "")


def _table(pair: Sequence[Match], key: str, titles: tuple[str, str]) -> Table:
    columns = ["method", f"n, {titles[0]}", titles[0], f"n, {titles[1]}", titles[1], "Δ", "95 % interval", "verdict"]
    columns.append("differs in")
    lines: list[list[Cell]] = []
    for one in sorted(pair, key=lambda one: -one.gain.difference):
        sides = [[number(row.n, 0), mean_and_error(row.last)] for row in (one.ours, one.other)]
        lines.append([word(one.name), *sides[0], *sides[1], *gained(one.gain), word(one.differs)])
    columns, lines = without_empty(columns, lines)
    tested = sum(one.gain.p is not None for one in pair)
    notes = [f"Verdicts hold for all {tested} comparisons together (Holm)."] if tested > 1 else []
    numeric = numeric_columns(lines, len(columns))
    heading = table_title(table_key(pair[0].ours))
    return Table(key, pair[0].ours.pair, columns, lines, notes, numeric, heading=heading)


def _record(one: Match) -> dict[str, Any]:
    run = one.ours.one
    return {
        "dataset": run.dataset, "protocol": run.protocol, "teacher": run.teacher_net, "student": run.student_net,
        "method": run.method, "hash": run.hash, "other_hash": one.other.one.hash, "differs": one.differs,
        "n": one.ours.n, "mean": one.ours.last.mean, "std": one.ours.last.std,
        "other_n": one.other.n, "other_mean": one.other.last.mean, "other_std": one.other.last.std,
        "difference": one.gain.difference, "error": one.gain.error, "half_interval": one.gain.half,
        "p": one.gain.p, "p_holm": one.gain.corrected, "test": one.gain.test, "verdict": one.gain.verdict,
    }  # fmt: skip
