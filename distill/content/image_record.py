"""What a look at one file finds, and where it is kept. Imports no numpy: it is read wherever a run gets its name."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

DIGEST = 16  # bytes
RACY = 2 * 10**9  # ns: a file changed this shortly before a look may have been changed again in the same tick


class ImageRecord(NamedTuple):
    """What a look at a file found; seen: when it began, in ns; damage: why it cannot be decoded, or nothing."""

    seen: int
    digest: bytes
    flags: int = 0
    damage: str = ""


def cache_folder() -> Path:
    """Where what can be found again is kept."""
    if given := os.environ.get("DISTILL_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "distill"
    with contextlib.suppress(RuntimeError):  # no home
        return Path.home() / ".cache" / "distill"
    return Path(".cache") / "distill"
