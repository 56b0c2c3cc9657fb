"""What torchrun tells the processes that it starts, read from the environment without torch."""

from __future__ import annotations

import os

_ALL = ("RANK", "MASTER_ADDR", "MASTER_PORT")


def processes() -> int:
    """Return how many processes torchrun has started for this run; 1 where it has not.

    Raises ValueError where the environment says so by half, as when WORLD_SIZE was set by hand.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal():
        raise ValueError(f"WORLD_SIZE={size[:20]} is no number of processes: start with torchrun, or unset it.")
    missing = [name for name in _ALL if name not in os.environ]
    if int(size) > 1 and missing:
        raise ValueError(f"WORLD_SIZE={size[:20]} is set without {missing[0]}: start with torchrun, or unset it.")
    return max(int(size), 1)


def refuse_sweep(what: str = "sweep") -> None:
    """Raise ValueError where each of several processes would start one and the same sweep, or search."""
    if (count := processes()) > 1:
        raise ValueError(
            f"each of torchrun's {count} processes would start this {what}: start it without torchrun, and with "
            "torchrun one run."
        )
