"""Which charts a report shows: each pair's ranking, its learning curves, and what accuracy costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

import distill.charts as charts
import distill.report.curves as curves
from distill.charts import theme
from distill.report.gains import BETTER, WORSE, standard_error
from distill.report.ranking import Entry, Ranking, first
from distill.report.stats import half_interval
from distill.report.summary import Row, table_title

_FIRST = 12  # entries of a chart
_PAIRS = 16  # whose charts follow a published table
APART = 1.05  # the factor between costs below which a chart of them says nothing


@dataclass(frozen=True)
class Figure:
    """A chart; `note` says how it is read, `legend` holds (class, name)."""

    title: str
    drawing: Markup
    legend: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""
    wide: bool = False


@dataclass(frozen=True)
class ChartSet:
    """The charts of a ranking: at first sight, and behind a fold."""

    open: list[Figure]
    folded: list[Figure]


Colours = Mapping[str, str]  # method -> class


def colours(ranked: Sequence[Ranking]) -> dict[str, str]:
    """One colour a method on the whole page: those with the greatest gains have one of their own."""
    most: dict[str, float] = {}
    for ranking in ranked:
        for place, entry in enumerate(entry for entry in ranking.entries if not entry.alone):
            worth = -place + (entry.gain.difference if entry.gain else 0.0) / 1000
            most[entry.row.one.method] = max(most.get(entry.row.one.method, -1e9), worth)
    return {method: theme.kind(index) for index, method in enumerate(sorted(most, key=lambda one: -most[one]))}


def pictures(ranked: Sequence[Ranking]) -> dict[str, ChartSet]:
    """The charts of each ranking, by the key of its table."""
    kinds = colours(ranked)
    return {f"r{place}": shown(ranking, kinds) for place, ranking in enumerate(ranked)}


def by_pair(ranked: Sequence[Ranking]) -> dict[str, list[Figure]]:
    """The charts that are seen first, of the first pairs, by what they are of."""
    kinds: Colours = colours(ranked)
    found: dict[str, list[Figure]] = {}
    for ranking in ranked:
        if len(found) < _PAIRS and (opened := shown(ranking, kinds).open):
            found[f"{ranking.title}, {table_title(ranking.where)}"] = opened
    return found


def shown(ranking: Ranking, kinds: Colours) -> ChartSet:
    """The charts of a ranking that say something."""
    top = first(ranking.entries, _FIRST)
    several = len(ranking.entries) > 1 and ranking.taught
    opened = [_ranked(ranking, top, kinds)] if several else []
    drawn = _curves(ranking, kinds)
    folded = [_ranked(ranking, ranking.entries, kinds)] if several and len(top) < len(ranking.entries) else []
    cost = _cost(ranking, top, kinds)
    return ChartSet(opened + ([drawn] if drawn else []), folded + ([cost] if cost else []))


def kind_of(entry: Entry, kinds: Colours) -> str:
    """The class of an entry's colour."""
    return "alone" if entry.alone else kinds.get(entry.row.one.method, "rest")


def accuracy_axis(ranking: Ranking) -> str:
    """What an axis of accuracies shows."""
    part = ranking.where[1]
    return "test accuracy, %" if part == "test" else f"accuracy on {part}, %"


def _ranked(ranking: Ranking, entries: Sequence[Entry], kinds: Colours) -> Figure:
    dots = [_dot(entry, kinds) for entry in entries]
    whole = len(entries) == len(ranking.entries)
    title = f"{ranking.title}, best first" if whole else f"{ranking.title}, the best {_FIRST} of {len(ranking.entries)}"
    drawing = charts.ranked(dots, _marks(ranking), accuracy_axis(ranking), f"Accuracy of each method, {title}")
    return Figure(title, charts.both(drawing), note=(
        "Thick: ± standard error; thin: 95 % interval of the mean. A filled dot differs from the student alone by more "
        "than the noise of the seeds."
    ))  # fmt: skip


def _dot(entry: Entry, kinds: Colours) -> charts.Dot:
    row, gain = entry.row, entry.gain
    sure = entry.alone or (gain is not None and gain.verdict.partition(",")[0] in (BETTER, WORSE))
    more = f"{gain.difference:+.2f}" if gain else ""
    beside = f", {more} against alone: {gain.verdict}" if gain else ""
    title = f"{entry.name}: {row.last.mean:.2f} %, n = {row.n}{beside}"
    half = half_interval(row.last)
    return charts.Dot(
        entry.name, row.last.mean, kind_of(entry, kinds), standard_error(row.last), half, sure, more, title
    )


def _marks(ranking: Ranking) -> list[charts.Mark]:
    """The teacher and the student alone."""
    alone = [charts.Mark("student alone", ranking.alone.row.last.mean, "alone")] if ranking.alone else []
    return _teacher(ranking) + alone


def _teacher(ranking: Ranking) -> list[charts.Mark]:
    got = ranking.teacher_accuracies
    return [charts.Mark(f"teacher {ranking.teacher}", got.mean, "teacher")] if got else []


def _curves(ranking: Ranking, kinds: Colours) -> Figure | None:
    entries = sorted(first(ranking.entries, theme.SERIES), key=lambda entry: -entry.row.last.mean)
    drawn, seen = [], dict.fromkeys(kinds.values(), 0)
    for entry in entries:
        if (got := curves.curve(entry.row)) is not None:
            kind = kind_of(entry, kinds)
            dash = f" d{min(seen.get(kind, 0), 2)}" if kind != "rest" else ""  # configurations of one method
            seen[kind] = seen.get(kind, 0) + 1
            drawn.append(charts.Curve(entry.name, got.epochs, got.mean, got.low, got.high, kind + dash))
    if not drawn:
        return None
    label = f"Accuracy after each epoch, {ranking.title}"
    drawing = charts.curves(drawn, _teacher(ranking), ("epoch", accuracy_axis(ranking)), label)
    note = "Mean over seeds; the band: from the lowest to the highest seed. The axis is that of the last quarter."
    many = f", {len(drawn)} of {len(ranking.entries)}" if len(drawn) < len(ranking.entries) else ""
    return Figure(f"Learning curves{many}", charts.both(drawing), note=note)


def _cost(ranking: Ranking, entries: Sequence[Entry], kinds: Colours) -> Figure | None:
    """Accuracy against the time of a run; of the untaught, whose nets differ, against their parameters."""
    title, cost = ("minutes of a run", _minutes) if ranking.taught else ("parameters", _parameters)
    known = [(entry, value) for entry in entries if (value := cost(entry.row))]
    values = [value for _, value in known]
    if len(known) < 2 or max(values) < APART * min(values):
        return None
    points = [
        charts.Point(entry.name, value, entry.row.last.mean, kind_of(entry, kinds), standard_error(entry.row.last))
        for entry, value in known
    ]
    label = f"Accuracy against {title}, {ranking.title}"
    drawing = charts.both(charts.scatter(points, _teacher(ranking), (title, accuracy_axis(ranking)), label))
    note = "Mean and standard error over seeds." + " Times compare on one idle machine only." * ranking.taught
    return Figure(f"Accuracy against {title}", drawing, note=note)


def _minutes(row: Row) -> float | None:
    seconds = row.mean("seconds")
    return seconds / 60 if seconds else None


def _parameters(row: Row) -> float | None:
    return row.mean("params")
