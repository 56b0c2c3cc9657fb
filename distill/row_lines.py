"""The lines of a metrics.jsonl as rows: of many lines most are of a kind that is not asked for. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.strict_json import parse_json


def row_lines(path: Path, kind: str | None) -> list[str]:
    """The lines that may be rows of a kind: those of steps are many, and parsing is what takes the time."""
    if not path.is_file():  # a pipe would never end
        return []
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return [line for line in lines if _may_be(line, kind)]
    except OSError:
        return []


def _may_be(line: str, kind: str | None) -> bool:
    """False for most lines of another kind."""
    return kind is None or '"kind": "' not in line or f'"kind": "{kind}"' in line


def read_row(line: str, kind: str | None) -> dict[str, Any] | None:
    """The row in a line; None for one of another kind, and for what is none."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    ours = isinstance(row, dict) and _is_ours(row) and kind in (None, row.get("kind"))
    return row if ours else None


_NUMBERS = ("step", "epoch", "epochs", "epochs_left", "epoch_step", "loss", "test_accuracy", "best_accuracy",
            "knn_accuracy", "images_per_second")  # fmt: skip


def _is_ours(row: dict[str, Any]) -> bool:
    """Whether what readers count on is of its kind."""
    numbers, words = ([row.get(key) for key in keys] for keys in (_NUMBERS, ("kind", "phase")))
    fine = all(isinstance(value, int | float | None) and not isinstance(value, bool) for value in numbers)
    return fine and all(isinstance(value, str | None) for value in words)
