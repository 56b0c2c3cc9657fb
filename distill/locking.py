"""One process, or one group of them, on a run's folder at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import distill.parallel as parallel
from distill.file_lock import acquire
from distill.run_folder import RunFolder


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, after waiting for another process that holds it.

    Of the processes that torchrun started the first holds it for all.
    """
    if parallel.rank() > 0:
        parallel.barrier()
        yield
        parallel.barrier()
        return
    lock = RunFolder(folder).lock
    try:
        folder.mkdir(parents=True, exist_ok=True)
        acquire(lock, f"another process works in {folder}", 0.0)
    except OSError as error:
        why = f"{folder} cannot be written ({error.strerror}): choose another folder with output=..."
        raise ValueError(why) from error
    try:
        parallel.barrier()
        yield
        parallel.barrier()
    finally:
        lock.release()
