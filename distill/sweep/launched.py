"""The folders of the runs that this command stands for, done before or not: what it compares at its end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_folders: dict[Path, None] = {}  # in order, each once


def note_launched(folders: Iterable[Path | None]) -> None:
    """Add folders; None is a run that cannot be."""
    _folders.update((folder, None) for folder in folders if folder is not None)


def take_launched() -> list[Path]:
    """All that were noted since the last call."""
    found = list(_folders)
    _folders.clear()
    return found
