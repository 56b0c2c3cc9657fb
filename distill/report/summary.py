"""Groups runs over seeds: one row a configuration, with its gaps to the teacher and the student alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.report.collect import Run
from distill.report.gains import Gain, gain, share
from distill.report.stats import Sample, sample

ALONE = "none"  # the method that trains a student without a teacher


@dataclass(frozen=True)
class Row:
    """Seeds of one configuration. Accuracies, gaps: percent; `closed`: a share (1 = teacher reached).

    baseline: the student alone that the row is measured by; None for such a student itself, or where there is none.
    """

    runs: tuple[Run, ...]
    last: Sample
    best: Sample | None
    best_epoch: float | None
    teacher: Sample | None
    baseline: Row | None = None
    gap: float | None = None
    gain: Gain | None = None
    closed: float | None = None

    @property
    def one(self) -> Run:
        """Any run of the row, for what all of them share."""
        return self.runs[0]

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def alone(self) -> Sample | None:
        """The accuracy of the student alone."""
        return self.baseline.last if self.baseline else None

    @property
    def by_seed(self) -> dict[str, float]:
        """The last accuracy of each seed."""
        return {run.seed: run.last for run in self.runs}

    @property
    def pair(self) -> str:
        return f"{self.one.teacher_net} → {self.one.student_net}" if self.one.teacher else self.one.student_net

    def mean(self, name: str) -> float | None:
        """Mean over seeds of a numeric field of Run."""
        values = [getattr(run, name) for run in self.runs]
        if len({*values}) == 1:  # as it is, a whole number or not
            return values[0]  # type: ignore[no-any-return]
        over_seeds = sample(values)
        return over_seeds.mean if over_seeds else None


TableKey = tuple[Any, ...]


def table_key(row: Row) -> TableKey:
    """What rows must share to stand in one table: data set, protocol, epochs, and settings made by hand."""
    run = row.one
    return run.dataset, run.part, run.protocol, run.epochs, run.by_hand


def baseline_key(row: Row) -> TableKey:
    """Where the student alone is a baseline of the row."""
    return *table_key(row), row.one.student_net


def table_title(where: TableKey) -> str:
    """`cifar100, protocol crd, 240 epochs`."""
    dataset, part, protocol, epochs, by_hand = where
    length = [] if epochs is None else [f"{epochs:g} epoch{'s' * (epochs != 1)}"]
    words = [dataset, f"protocol {protocol}", *length]
    return ", ".join(words + ([f"measured on {part}"] if part != "test" else []) + list(by_hand))


def convention(run: Run) -> str:
    """The loss weights in words: `ce 1, kd 0, weight 0.8`."""
    weights = (("ce", run.ce), ("kd", run.kd), ("weight", run.weight))
    return ", ".join(f"{name} {value:g}" for name, value in weights if value is not None) or "not recorded"


def settings(row: Row) -> list[str]:
    """What the commands of all seeds of a row set of its method, student, teacher and precision."""
    own = ("method.", "student.", "teacher.", "precision=")
    kept = [[word for word in run.settings if word.startswith(own)] for run in row.runs]
    return [word for word in kept[0] if all(word in other for other in kept)]


def summarize(runs: Iterable[Run]) -> list[Row]:
    """One row a configuration, sorted by data set, protocol, pair and method (student alone first)."""
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.key].append(run)
    rows = [_row(sorted(group, key=lambda run: run.seed)) for group in groups.values()]
    alone = _alone(rows)
    rows = [_against(row, _baseline(row, alone[baseline_key(row)])) for row in rows]
    return sorted(rows, key=_order)


def _row(runs: list[Run]) -> Row:
    last = sample([run.last for run in runs])
    assert last is not None
    epoch = sample([run.best_epoch for run in runs])
    return Row(tuple(runs), last, sample([run.best for run in runs]), epoch.mean if epoch else None, teachers_of(runs))


def teachers_of(runs: Iterable[Run]) -> Sample | None:
    """The accuracies of the runs' teachers, each teacher once: they are told apart by the last names of the folder that
    they were trained in, which other machines have too, and by their accuracy where that is not recorded.
    """
    found = {(_trained_in(run), run.teacher_accuracy) for run in runs if run.teacher_accuracy is not None}
    placed = {accuracy for place, accuracy in found if place}
    return sample(sorted(accuracy for place, accuracy in found if place or accuracy not in placed))


def _trained_in(run: Run) -> str:
    origin = run.teacher_origin or ""
    return "/".join(Path(origin).parts[-3:]) if origin.startswith("trained in ") else ""


def _alone(rows: list[Row]) -> dict[TableKey, list[Row]]:
    """The students alone of each place and student."""
    found: dict[TableKey, list[Row]] = defaultdict(list)
    for row in rows:
        if row.one.method == ALONE:
            found[baseline_key(row)].append(row)
    return found


def _baseline(row: Row, alone: list[Row]) -> Row | None:
    """Of several students alone the one that is set as the row's student is; of these the one with most seeds."""
    if len(alone) < 2:
        return alone[0] if alone else None
    words = _of_student(row)
    return min(alone, key=lambda one: (_of_student(one) != words, -one.n, one.one.hash))


def _of_student(row: Row) -> frozenset[str]:
    """What the commands of a row set of the student that a run alone has too: its args and start, the precision."""
    return frozenset(word for word in settings(row) if word.startswith(("student.", "precision=")))


def _against(row: Row, alone: Row | None) -> Row:
    """The row with its distances to its teacher and to the student alone."""
    gap = row.teacher.mean - row.last.mean if row.teacher else None
    if alone is None or row.one.method == ALONE:
        return replace(row, gap=gap)
    more = gain(row.by_seed, alone.by_seed)
    return replace(row, baseline=alone, gap=gap, gain=more, closed=share(row.last.mean, alone.last, row.teacher))


def _order(row: Row) -> tuple[Any, ...]:
    run = row.one
    where = (
        run.part != "test",
        run.dataset,
        run.part,
        run.protocol,
        run.epochs or 0,
        run.by_hand,
        run.student_net,
    )
    return *where, run.method != ALONE, run.teacher_net or "", run.method, run.kd or 0.0, run.hash
