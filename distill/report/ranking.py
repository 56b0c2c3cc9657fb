"""Who won on each pair: the configurations of a pair, best first, each against the student alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from distill.report.gains import Gain, corrected
from distill.report.names import row_names
from distill.report.stats import Sample
from distill.report.summary import ALONE, Row, TableKey, table_key, teachers_of


@dataclass(frozen=True)
class Entry:
    """A configuration in a ranking; `gain` over the student alone, its p-value corrected for the pair's methods."""

    name: str
    row: Row
    gain: Gain | None = None

    @property
    def alone(self) -> bool:
        """Is this a student trained alone?"""
        return self.row.one.method == ALONE

    @property
    def below(self) -> bool:
        """Does the distilled student end below the student alone?"""
        return self.gain is not None and self.gain.difference < 0


@dataclass(frozen=True)
class Ranking:
    """What ran of one data set, protocol and pair, best first. teacher None: nets that nobody taught."""

    where: TableKey
    teacher: str | None
    student: str
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """`resnet56 → resnet20`."""
        return f"{self.teacher} → {self.student}" if self.teacher else self.student

    @property
    def teacher_accuracies(self) -> Sample | None:
        """The accuracies of the teacher, as the runs measured them: one, where they had one teacher."""
        runs = [run for entry in self.entries for run in entry.row.runs if run.teacher_net == self.teacher]
        return teachers_of(runs)

    @property
    def alone(self) -> Entry | None:
        """The student alone that the others are measured by."""
        used = {entry.row.baseline.one.key for entry in self.entries if entry.row.baseline}
        alone = [entry for entry in self.entries if entry.alone]
        return next((entry for entry in alone if entry.row.one.key in used), alone[0] if alone else None)

    @property
    def taught(self) -> bool:
        """Is there a method among the entries, rather than nets that were only trained alone?"""
        return any(not entry.alone for entry in self.entries)

    @property
    def comparisons(self) -> int:
        """How many methods were tested against the student alone."""
        return sum(entry.gain is not None and entry.gain.p is not None for entry in self.entries)


def rankings(rows: Iterable[Row]) -> list[Ranking]:
    """A ranking for each pair of each place, in the order of `rows`; then the nets that were only trained alone.

    What has no teacher (the student alone, a method of self-distillation) stands in every ranking of its student.
    """
    return [one for where, group in groupby(rows, table_key) for one in _of_table(where, list(group))]


def _of_table(where: TableKey, rows: list[Row]) -> list[Ranking]:
    pairs: dict[tuple[str | None, str], list[Row]] = {
        (row.one.teacher_net, row.one.student_net): [] for row in rows if row.one.teacher_net
    }
    students = {student for _, student in pairs}
    untaught = (row.one.student_net for row in rows if not row.one.teacher_net and row.one.method != ALONE)
    pairs |= {(None, student): [] for student in untaught if student not in students}
    for row in rows:
        for (teacher, student), members in pairs.items():
            if row.one.student_net == student and row.one.teacher_net in (None, teacher):
                members.append(row)
    found = [_ranked(where, teacher, student, members) for (teacher, student), members in pairs.items()]
    left = [row for row in rows if row.one.student_net not in {student for _, student in pairs}]
    return found + ([_trained_alone(where, left)] if left else [])


def _ranked(where: TableKey, teacher: str | None, student: str, rows: list[Row]) -> Ranking:
    called = row_names(rows)
    gains = corrected([row.gain for row in rows])
    entries = [Entry(called[id(row)], row, one) for row, one in zip(rows, gains, strict=True)]
    return Ranking(where, teacher, student, tuple(sorted(entries, key=_best_first)))


def _trained_alone(where: TableKey, rows: list[Row]) -> Ranking:
    """Nets that were trained alone and that nothing was distilled into: often the teachers."""
    entries = []
    for student in dict.fromkeys(row.one.student_net for row in rows):
        own = [row for row in rows if row.one.student_net == student]
        called = row_names(own)
        entries += [Entry(f"{student}{called[id(row)].removeprefix('student alone')}", row) for row in own]
    return Ranking(where, None, "Trained alone", tuple(sorted(entries, key=_best_first)))


def _best_first(entry: Entry) -> tuple[float, str, str]:
    return -entry.row.last.mean, entry.name, entry.row.one.hash


def first(entries: Sequence[Entry], count: int) -> list[Entry]:
    """The best `count` entries; the student alone is always among them, last where it is not."""
    kept = list(entries[:count])
    alone = next((entry for entry in entries if entry.alone), None)
    if alone is not None and alone not in kept:
        kept[-1] = alone
    return kept


def best_two(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """The greatest value and the greatest of those below it."""
    there = sorted({value for value in values if value is not None}, reverse=True)
    return (there[0] if there else None, there[1] if len(there) > 1 else None)
