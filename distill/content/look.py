"""What a look at one file finds. Imports nothing, for it is read wherever a run is given its name."""

from __future__ import annotations

from typing import NamedTuple

DIGEST = 16  # bytes


class Look(NamedTuple):
    """What a look at a file found; seen: when it began, in ns; damage: why it cannot be decoded, or nothing."""

    seen: int
    digest: bytes
    flags: int = 0
    damage: str = ""
