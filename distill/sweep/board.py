"""What a terminal shows of a sweep while it runs: each run with its epoch, accuracy and time left, and the whole."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.record.progress import clock
from distill.record.screen import Screen, aligned, bar, fitting
from distill.run_folder import RunFolder, score_in
from distill.sweep.jobs import Job, Sweep

_BESIDE = 6  # lines of a terminal that are left to what is printed
_LOOKS = 100  # at files of runs, a second: a shared disk has other users
SAID = 16_000  # bytes at the end of a log in which its last line is looked for


@dataclass
class RunProgress:
    """One run as its metrics.jsonl tells; read on from where it was read before."""

    job: Job
    offset: int = 0
    epochs: int = 0  # that are done, in all phases
    before: int = 0  # steps that were done when this attempt began
    row: dict[str, Any] = field(default_factory=dict)  # the last one of an epoch
    best: float | None = None
    phases: dict[str, int] = field(default_factory=dict)
    seen: float = 0.0  # when the last epoch was seen
    polled: float = 0.0
    began: float = 0.0  # when its rows did: before that were a queue, loading, perhaps the training of its teacher

    def poll(self) -> None:
        """Read what is new."""
        path = RunFolder(self.job.folder).metrics
        try:
            first, anew = not self.seen, path.stat().st_size < self.offset
            if anew:  # begun anew, or less the rows behind the checkpoint that it goes on from
                self.offset, self.epochs, self.phases, self.row = 0, 0, {}, {}
            with open(path, "rb") as file:
                file.seek(self.offset)
                text = file.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self.offset += len(whole)
        lines = whole.splitlines()
        for line in lines:
            self._take(line)
        if first or anew:
            old = anew or path.stat().st_mtime < self.job.started
            self.before, self.seen = (_steps(_row(lines[-1])) if old and lines else 0), time.time()
            self.began = self.job.started if lines and not anew else self.seen

    def _take(self, line: bytes) -> None:
        if b'"epoch"' not in line[:40] and b'"kind": "epoch"' not in line:
            return
        row = _row(line)
        if row.get("kind") == "epoch":
            self.row, self.epochs, self.seen = row, self.epochs + 1, time.time()
            epochs = row.get("epochs")
            self.phases[str(row.get("phase"))] = epochs if isinstance(epochs, int) else 0

    @property
    def total(self) -> int:
        """The epochs of all phases; of rows of earlier versions, those of the phases that have begun."""
        left = self.row.get("epochs_left")
        return self.epochs + left if isinstance(left, int) else sum(self.phases.values())

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return self.epochs / self.total if self.total else 0.0

    def left(self, now: float) -> float | None:
        """Seconds to its end at the pace of this attempt; None before its first epoch."""
        steps, total = _steps(self.row), self.total
        if steps <= self.before or not total:
            return None
        pace = (self.seen - self.began) / (steps - self.before) * steps / self.epochs  # of an epoch
        return max(pace * (total - self.epochs) - (now - self.seen), 0.0)

    def fields(self, now: float) -> list[str]:
        """Epoch, time left, accuracy, the run's name: what comes later gives way first."""
        left = self.left(now)
        if not self.row:
            began = f"starting, {clock(now - self.job.started)}"  # perhaps its teacher is trained
            return [began, "-:-- left", "", bar(0, 10), self.job.name, _last_line(RunFolder(self.job.folder).log)]
        epoch = f"epoch {self.row.get('epoch')}/{self.row.get('epochs')}"
        phase = str(self.row.get("phase")) if len(self.phases) > 1 else ""
        accuracy = score_in(self.row)
        text = f"{accuracy:.2f} %" if isinstance(accuracy, int | float) else ""
        time_left = "-:-- left" if left is None else f"{clock(left)} left"
        return [epoch, time_left, text, bar(self.share, 10), self.job.name, phase]


class Board(AbstractContextManager["Board"]):
    """Shows the runs of a sweep that run, on a terminal; nothing elsewhere.

    slots: how many run at a time; None: as many as have begun of those that were handed in.
    """

    def __init__(self, sweep: Sweep, slots: int | None = None) -> None:
        self.sweep, self.slots = sweep, slots
        self.followed: dict[tuple[Job, int], RunProgress] = {}
        self.started = time.time()
        self.screen: Screen | None = None

    def __enter__(self) -> Board:
        if sys.stdout.isatty():
            self.screen = Screen(self.lines)
        return self

    def __exit__(self, *_: object) -> None:
        if self.screen is not None:
            self.screen.close()

    def lines(self, width: int) -> list[str]:
        """A line for each run, and one for the sweep."""
        now, jobs = time.time(), [job for job in self.sweep.jobs if job.running]
        runs = [self.followed.setdefault((job, job.attempts), RunProgress(job)) for job in jobs]
        for one in runs:
            if now - one.polled >= len(runs) / _LOOKS:
                one.polled = now
                one.poll()
        most = max(shutil.get_terminal_size().lines - _BESIDE, 1)
        begun = sorted(runs, key=lambda one: not one.row)[:most]
        more = [f"and {len(runs) - most} more"] if len(runs) > most else []
        rows = [[_name(field, width) if field == one.job.name else field for field in one.fields(now)] for one in begun]
        return [*aligned(rows, width), *more, self._sweep_line(runs, now, width)] if runs else []

    def _sweep_line(self, runs: Sequence[RunProgress], now: float, width: int) -> str:
        ended, count = self.sweep.ended, len(self.sweep.jobs)
        share = (ended + sum(one.share for one in runs)) / max(count, 1)
        left = self.left(runs, now)
        text = "-:-- left" if left is None else f"{clock(left)} left"
        return fitting([f"sweep {ended}/{count} ended", text, f"{clock(now - self.started)} so far", bar(share)], width)

    def left(self, runs: Sequence[RunProgress], now: float) -> float | None:
        """Seconds to the end of the sweep: what the running ones still need, and as many again for each that waits."""
        known = [(one.left(now), now - one.job.started) for one in runs]
        timed = [(left, left + so_far) for left, so_far in known if left is not None]
        ended, waiting = self.sweep.ended, len(self.sweep.jobs) - self.sweep.ended - len(runs)
        if not timed and not ended:
            return None
        whole, slots = [total for _, total in timed], self.slots or max(sum(bool(one.row) for one in runs), 1)
        each = sum(whole) / len(whole) if whole else (now - self.started) * slots / ended
        rest = sum(left for left, _ in timed) + each * (len(runs) - len(timed)) + each * max(waiting, 0)
        return rest / min(slots, max(len(runs) + max(waiting, 0), 1))


def _row(line: bytes) -> dict[str, Any]:
    """A line of metrics.jsonl; nothing where it is none."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _steps(row: Mapping[str, Any]) -> int:
    """How many steps of the run a row has behind it."""
    step = row.get("step")
    return step if isinstance(step, int) else 0


def _last_line(log: Path) -> str:
    """What a run last said, in a line; nothing where it has not said anything."""
    try:
        with open(log, "rb") as file:
            file.seek(max(log.stat().st_size - SAID, 0))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line and not line.startswith("---")), "")


def _name(name: str, width: int) -> str:
    """A run's name; a long one keeps its end, which tells it apart."""
    room = max(width - 50, 12)
    return name if len(name) <= room else f"…{name[-room + 1:]}"
