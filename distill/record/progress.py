"""What a person sees of a run: a bar on a terminal, a plain line an epoch elsewhere, a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

MARKS = {
    "loss": "loss {:.3f}",
    "train_accuracy": "train {:.1f} %",
    "test_accuracy": "test {:.2f} %",
    "best_accuracy": "best {:.2f} %",
    "images_per_second": "{:.0f} images/s",
    "waiting": "waiting for data {:.0%}",
}
NEGLIGIBLE = 0.05  # share of the time waited for data that nobody needs to know of


class Progress:
    """Shows loss, accuracies in percent, images/s and the time left.

    total_epochs: the epochs that are still to be run, in all phases; steps: those of an epoch.
    quiet: None shows a bar on a terminal and a line an epoch elsewhere, False always lines, True nothing.
    Use it as a context manager, or call `close`: the bar hides the cursor.
    """

    def __init__(self, total_epochs: int, steps: int, quiet: bool | None = None) -> None:
        self.total, self.steps, self.done = total_epochs, max(steps, 1), 0
        self._lines = quiet is False or (quiet is None and not sys.stdout.isatty())
        self._title, self._seen = "", dict.fromkeys(MARKS)
        self._start = time.monotonic()
        self._bar = _bar(total_epochs) if quiet is None and not self._lines else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def epoch_start(self, phase: str, epoch: int, epochs: int, steps: int | None = None) -> None:
        """`epoch` of `epochs` (1-based, in the phase) begins; `steps` where this phase has its own number."""
        self._title, self.steps = f"{phase} epoch {epoch}/{epochs}", max(steps or self.steps, 1)
        self._show(self.done)

    def update(
        self, step: int, loss: float, accuracy: float | None, images_per_second: float, waiting: float | None = None
    ) -> None:
        """`step` steps of the epoch are done. Not for each step: reading the numbers waits for the device."""
        self._seen |= {"loss": loss, "train_accuracy": accuracy, "images_per_second": images_per_second}
        self._seen["waiting"] = waiting
        self._show(self.done + min(step / self.steps, 1.0))

    def epoch_end(self, row: Mapping[str, Any]) -> None:
        """The epoch is over; `row` may hold the numbers that MARKS names, and others."""
        self.done += 1
        self._seen |= {name: row.get(name, self._seen[name]) for name in MARKS}
        self._show(self.done)
        if self._lines:
            print(self._title, status(row), f"{self._left()} left", sep="  ", flush=True)

    def close(self) -> None:
        """Leave the bar as it stands and give the terminal back. Safe to call twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, completed: float) -> None:
        if self._bar is not None:
            fields = {"description": self._title, "status": status(self._seen)}
            self._bar.update(self._bar.task_ids[0], completed=completed, **fields)

    def _left(self) -> str:
        """Time for the epochs left, at the pace of those done."""
        seconds = (time.monotonic() - self._start) / self.done * max(self.total - self.done, 0)
        return clock(seconds)


def status(values: Mapping[str, Any]) -> str:
    """The known ones of `values`: loss 0.512  train 91.2 %  test 93.40 %  best 93.40 %  5210 images/s."""
    known = {name: values[name] for name in MARKS if values.get(name) is not None}
    if known.get("waiting", 0) < NEGLIGIBLE:
        known.pop("waiting", None)
    return "  ".join(MARKS[name].format(value) for name, value in known.items())


def clock(seconds: float) -> str:
    """0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def final_table(
    rows: Mapping[str, Any] | Sequence[Sequence[Any]], columns: Sequence[str] = (), title: str = ""
) -> None:
    """Print a small table: a mapping's names and values, or `rows` under `columns`; None is an empty cell."""
    from rich.console import Console
    from rich.table import Table

    lines = list(rows.items()) if isinstance(rows, Mapping) else list(rows)
    table = Table(title=title or None, title_justify="left", show_header=bool(columns))
    for head in columns or [""] * max(map(len, lines), default=0):
        table.add_column(head, overflow="fold")
    for line in lines:
        table.add_row(*("" if cell is None else str(cell) for cell in line))
    Console(markup=False, highlight=False, soft_wrap=True).print(table)


def _bar(total: int) -> Any:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[status]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
        refresh_per_second=4,
    )
    bar.add_task("", total=total, status="")
    bar.start()
    return bar
