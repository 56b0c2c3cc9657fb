"""How many processors this process may use, and how many processes decode images for it."""

from __future__ import annotations

import os

MOST_WORKERS = 8  # of `auto`: what one run can use before its own loop is what takes longest


def cores() -> int:
    """Processors that this process may use: those of its affinity, where the system tells it, which taskset,
    Slurm and containers set."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_of(asked: object) -> int:
    """Of dataset.workers, the processes: `auto` is one for each processor, at most eight; nothing is none."""
    return min(cores(), MOST_WORKERS) if asked == "auto" else int(str(asked or 0))
