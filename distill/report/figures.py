"""Which charts a report shows: accuracy against cost, gaps to the teacher, learning curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from distill.report import svg
from distill.report.curves import Curve, curve
from distill.report.summary import ALONE, Place, Row, convention, place, place_title

CURVES, CHARTS, BARS = 8, 16, 40  # curves in a chart, charts of a kind, bars in a chart
COSTS: list[tuple[str, str, Callable[[Row], float | None]]] = [
    ("parameters", "parameters of the student", lambda row: row.one.params),
    ("MACs", "multiply-accumulates of an image", lambda row: row.one.macs),
    ("time", "seconds of a run", lambda row: row.mean("seconds")),
]


@dataclass(frozen=True)
class Figure:
    """A chart with its legend: (colour index, name)."""

    title: str
    drawing: Markup
    legend: list[tuple[int, str]]
    note: str = ""


@dataclass(frozen=True)
class Section:
    title: str
    figures: list[Figure]
    note: str = ""


def sections(rows: Sequence[Row]) -> list[Section]:
    """The sections that have anything to show."""
    every = [_costs(rows), _gaps(rows), _curves(rows)]
    return [section for section in every if section.figures]


def names(rows: Sequence[Row]) -> dict[int, str]:
    """A name for each row (by id): its method, and what tells it from others of that method."""
    found = {}
    for row in rows:
        alike = [one for one in rows if one.one.method == row.one.method]
        differ = [key for key in ("kd", "ce", "weight") if len({getattr(one.one, key) for one in alike}) > 1]
        told = [f"{key} {getattr(row.one, key):g}" for key in differ if getattr(row.one, key) is not None]
        same = [one for one in alike if all(getattr(one.one, key) == getattr(row.one, key) for key in differ)]
        told += [row.one.hash[:6]] if len(same) > 1 else []
        found[id(row)] = f"{row.one.method} ({', '.join(told)})" if told else row.one.method
    return found


def _groups(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """By data set, protocol and pair; the student alone joins each of its pairs."""
    ordered = [row for row in rows if row.one.method != ALONE and row.one.teacher]
    alone: dict[tuple[Place, str], list[Row]] = {}
    for row in rows:
        if row.one.method == ALONE:
            alone.setdefault((place(row), row.one.student), []).append(row)
    groups = []
    for (where, pair, student), group in groupby(
        ordered, lambda row: (place(row), row.pair, row.one.student)
    ):
        groups.append((f"{pair}, {place_title(where)}", [*alone.get((where, student), []), *group]))
    return groups


def _costs(rows: Sequence[Row]) -> Section:
    figures = []
    for where, group in groupby(rows, place):
        members = list(group)
        pairs = list(dict.fromkeys(row.pair for row in members if row.one.method != ALONE))
        colour = {pair: index for index, pair in enumerate(pairs)}
        for short, title, cost in COSTS:
            points = [
                svg.Point(
                    value, row.last.mean, colour.get(row.pair, svg.SERIES), _describe(row), row.last.std
                )
                for row in members
                if (value := cost(row)) is not None and value > 0
            ]
            if len({point.x for point in points}) > 1:
                legend = [(index, pair) for index, pair in enumerate(pairs[: svg.SERIES])]
                legend.append(
                    (svg.SERIES, "student alone" + (", other pairs" if len(pairs) > svg.SERIES else ""))
                )
                drawing = svg.scatter(points, title, "test accuracy, %")
                figures.append(Figure(f"accuracy against {short}, {place_title(where)}", drawing, legend))
    return Section(
        "Accuracy against cost", figures[: 3 * CHARTS], "Last epoch; whiskers are one standard deviation."
    )


def _describe(row: Row) -> str:
    spread = f" ± {row.last.std:.2f}" if row.last.std is not None else ""
    return f"{row.one.method}, {row.pair}: {row.last.mean:.2f}{spread} %, n = {row.n}, {convention(row.one)}"


def _gaps(rows: Sequence[Row]) -> Section:
    figures = []
    for title, group in _groups(rows):
        teacher = next((row.teacher for row in group if row.teacher), None)
        if teacher is None:
            continue
        called = names(group)
        ordered = sorted(group, key=lambda row: row.last.mean, reverse=True)[:BARS]
        values = []
        for row in ordered:
            gap = (row.teacher or teacher).mean - row.last.mean
            values.append(
                svg.Bar(
                    called[id(row)], gap, 1 if row.one.method == ALONE else 0, _describe(row), row.last.std
                )
            )
        legend = [(0, "distilled"), (1, "student alone")]
        note = f"the best {BARS} of {len(group)}" if len(group) > BARS else ""
        figures.append(Figure(title, svg.bars(values, "percent points below the teacher"), legend, note))
    note = "Teacher minus student, last epoch; shorter is better, left of zero is above the teacher."
    return Section("Gap to the teacher", figures[:CHARTS], note + _left_out(len(figures)))


def _curves(rows: Sequence[Row]) -> Section:
    groups = _groups(rows)
    figures: list[Figure] = []
    colours: dict[str, int] = {}
    for title, group in groups:
        if len(figures) == CHARTS:
            break
        called = names(group)
        ordered = sorted(group, key=lambda row: (row.one.method != ALONE, -row.last.mean))[:CURVES]
        drawn = [(row, got) for row in ordered if (got := curve(row)) is not None]
        if drawn:
            shown = _coloured([called[id(row)] for row, _ in drawn], colours)
            curves = [_line(index, name, got) for (index, name), (_, got) in zip(shown, drawn, strict=True)]
            cut = f"the student alone and the best, {CURVES} of {len(group)}" if len(group) > CURVES else ""
            figures.append(Figure(title, svg.lines(curves, "epoch", "test accuracy, %"), shown, cut))
    note = "Mean over seeds; the band is the range from the lowest to the highest seed."
    return Section("Learning curves", figures, note + (_left_out(len(groups)) if figures else ""))


def _coloured(labels: Sequence[str], colours: dict[str, int]) -> list[tuple[int, str]]:
    """A colour for each label, the same in all charts as far as the colours reach (at most CURVES labels)."""
    shown: list[tuple[int, str]] = []
    for label in labels:
        taken = {index for index, _ in shown}
        wanted = colours.setdefault(label, len(colours)) % CURVES
        shown.append((next(i for i in [wanted, *range(CURVES)] if i not in taken), label))
    return shown


def _line(index: int, name: str, got: Curve) -> svg.Line:
    return svg.Line(got.epochs, got.mean, got.low, got.high, index, f"{name}, n = {got.n}")


def _left_out(count: int) -> str:
    return f" The first {CHARTS} of {count} pairs are drawn." if count > CHARTS else ""
