"""What a person sees of a run: a bar on a terminal, a plain line an epoch elsewhere, a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from distill.record.screen import Screen, bar, fitting

MARKS = {
    "loss": "loss {:.3f}",
    "train_accuracy": "train {:.1f} %",
    "test_accuracy": "test {:.2f} %",
    "best_accuracy": "best {:.2f} %",
    "knn_accuracy": "kNN {:.2f} %",
    "best_knn_accuracy": "best {:.2f} %",
    "images_per_second": "{:.0f} images/s",
    "waiting": "waiting for data {:.0%}",
}
ON_A_LINE = ("test_accuracy", "best_accuracy", "knn_accuracy", "best_knn_accuracy", "loss", "train_accuracy",
             "images_per_second", "waiting")  # by weight  # fmt: skip
_ENOUGH = 10_000  # columns: in a file or a pipe nothing is broken over lines
NEGLIGIBLE = 0.05  # share of the time waited for data that nobody needs to know of


class Progress:
    """Shows loss, accuracies in percent, images/s and the time left.

    total_epochs: the epochs that are still to be run, in all phases; steps: those of an epoch.
    begun: the share of the first of them that an earlier process has done.
    quiet: None shows a bar on a terminal and a line an epoch elsewhere, False always lines, True nothing.
    Use it as a context manager, or call `close`: the bar hides the cursor.
    """

    def __init__(self, total_epochs: int, steps: int, quiet: bool | None = None, begun: float = 0.0) -> None:
        self.total, self.steps, self.done = total_epochs, max(steps, 1), 0
        self._lines = quiet is False or (quiet is None and not sys.stdout.isatty())
        self._title, self._seen, self._completed = "", dict.fromkeys(MARKS), 0.0
        self._start, self._begun = time.monotonic(), begun
        self._screen = Screen(lambda width: [self.line(width)]) if quiet is None and not self._lines else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def epoch_start(self, phase: str, epoch: int, epochs: int, steps: int | None = None) -> None:
        """`epoch` of `epochs` (1-based, in the phase) begins; `steps` where this phase has its own number."""
        self._title, self.steps = f"{phase} epoch {epoch}/{epochs}", max(steps or self.steps, 1)
        self._completed = self.done

    def update(
        self, step: int, loss: float, accuracy: float | None, images_per_second: float, waiting: float | None = None
    ) -> None:
        """`step` steps of the epoch are done. Not for each step: reading the numbers waits for the device."""
        self._seen |= {"loss": loss, "train_accuracy": accuracy, "images_per_second": images_per_second}
        self._seen["waiting"] = waiting
        self._completed = self.done + min(step / self.steps, 1.0)

    def epoch_end(self, row: Mapping[str, Any]) -> None:
        """The epoch is over; `row` may hold the numbers that MARKS names, and others."""
        self.done += 1
        self._seen |= {name: row.get(name, self._seen[name]) for name in MARKS}
        self._completed = self.done
        if self._lines:
            print(self._title, status(row), f"{self._left()} left", sep="  ", flush=True)

    def close(self) -> None:
        """Leave the bar as it stands and give the terminal back. Safe to call twice."""
        if self._screen is not None:
            self._screen.close()
            self._screen = None

    def line(self, width: int) -> str:
        """What a terminal of a width shows: the epoch and the time left always, then the rest as far as it fits."""
        left = f"{self._left()} left"
        known = [status({name: self._seen[name]}) for name in ON_A_LINE]
        title = self._title  # without the phase, then without the word, where it would push the time left out
        while len(f"{title}  {left}") > width and " " in title:
            title = title.partition(" ")[2]
        return fitting([title, left, *known[:2], bar(self._completed / max(self.total, 1)), *known[2:]], width)

    def _left(self) -> str:
        """Time for the epochs left, at the pace of this process, if it has one yet."""
        done = self._completed - self._begun
        if done <= 0:
            return "-:--"
        pace = (time.monotonic() - self._start) / done
        return clock(pace * max(self.total - self._completed, 0))


def status(values: Mapping[str, Any]) -> str:
    """The known ones of `values`: loss 0.512  train 91.2 %  test 93.40 %  best 93.40 %  5210 images/s."""
    known = {name: values[name] for name in MARKS if values.get(name) is not None}
    if known.get("waiting", 0) < NEGLIGIBLE:
        known.pop("waiting", None)
    if known.get("images_per_second") == 0:  # not known yet
        known.pop("images_per_second")
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
    width = None if sys.stdout.isatty() else _ENOUGH
    Console(markup=False, highlight=False, width=width).print(table)
