"""How many processors this process may use, and how many processes decode images for it."""

from __future__ import annotations

import os

MOST_WORKERS = 8  # of `auto`: what one run can use before its own loop is what takes longest


def cores() -> int:
    """Processors that this process may use: those of its affinity, where the system tells it, which taskset,
    Slurm and containers set."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores() -> int:
    """A process's share of them, one at least: those that torchrun has started on this machine share its processors."""
    return max(cores() // _processes_here(), 1)


def workers_of(asked: object) -> int:
    """Of dataset.workers, the processes: `auto` is one for each processor of a process's own, at most eight; nothing
    is none.
    """
    if asked == "auto":
        return min(own_cores(), MOST_WORKERS)
    return int(str(asked or 0))


def _processes_here() -> int:
    """How many processes torchrun has started on this machine; 1 where it has not."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(int(count), 1) if count.isdecimal() else 1
