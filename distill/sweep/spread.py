"""The same small work for each run of a large plan, over all cores."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from distill.cores import cores

Item = TypeVar("Item")
_FEW, MOST = 12, 16  # pieces of work for which no processes are started; processes
_work: Callable[[int], Any] | None = None  # of the pool that is at work: what is forked inherits it


def over_cores(work: Callable[[int], Item], count: int) -> Iterator[Item]:
    """work(0), work(1), ... in order, in as many forked processes as there are cores; results are pickled."""
    global _work
    processes = min(cores(), MOST)
    if count < _FEW or processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(work, range(count))
        return
    _work = work
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _one_thread) as pool:
            yield from pool.map(_call, range(count), chunksize=max(1, count // (4 * processes)))
    finally:
        _work = None


def _one_thread() -> None:
    """OpenMP's threads are not forked along: a process that asked for them would wait for ever."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _call(number: int) -> Any:
    assert _work is not None
    return _work(number)
