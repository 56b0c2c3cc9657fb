"""Work that is spread over forked processes."""

from __future__ import annotations

import torch

from distill.sweep.spread import over_cores


def test_processes_compute_though_their_parent_has_threads() -> None:
    """OpenMP's threads stay behind when a process is forked: 520 runs' dry run waited for them for ever."""
    torch.set_num_threads(2)
    try:
        numbers = torch.ones(1 << 20)
        assert numbers.add(1).sum() == 2 << 20  # by two threads
        assert list(over_cores(lambda n: numbers.add(n).sum().item(), 12)) == [(n + 1) * 2**20 for n in range(12)]
    finally:
        torch.set_num_threads(1)
