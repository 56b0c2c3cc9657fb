"""One process, or one group of them, on a run's folder at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

import distill.parallel as parallel
from distill.run_folder import RunFolder

log = logging.getLogger(__name__)


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
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process works in %s: waiting for it%s", folder, _unless_gone(Path(lock.lock_file)))
        lock.acquire()
    except OSError as error:
        why = f"{folder} cannot be written ({error.strerror}): choose another folder with output=..."
        raise ValueError(why) from error
    try:
        parallel.barrier()
        yield
        parallel.barrier()
    finally:
        lock.release()


def _unless_gone(path: Path) -> str:
    """Half a sentence for a file system that knows no locks (Lustre without -o flock), where filelock's file names who
    holds it: of another machine nobody can tell whether that is still there, and the file outlives it.
    """
    with suppress(OSError, ValueError):
        pid, host, *_ = path.read_text().split()
        return f" (process {pid} of {host}; where that is no more, delete {path}, which it could not)"
    return ""
