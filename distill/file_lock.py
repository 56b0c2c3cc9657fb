"""Locks that are files: one process at a time, of all machines that share the disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_SOON = 60.0  # seconds for which a lock is held that others take in turn
log = logging.getLogger(__name__)


@contextmanager
def file_lock(path: Path, patience: float = _SOON) -> Iterator[None]:
    """Hold a lock, after waiting for who holds it; who that is is said once it takes longer than `patience` seconds."""
    lock = FileLock(path)
    acquire(lock, f"another process holds {path}", patience)
    try:
        yield
    finally:
        lock.release()


def acquire(lock: FileLock, held: str, patience: float) -> None:
    """Wait for a lock. held: what is said after so many seconds of patience. Raises OSError."""
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        log.info("%s: waiting for it%s", held, _unless_gone(Path(lock.lock_file)))
        lock.acquire()


def _unless_gone(path: Path) -> str:
    """Half a sentence for a file system that knows no locks (Lustre without -o flock), where filelock's file names who
    holds it: of another machine nobody can tell whether that is still there, and the file outlives it.
    """
    with suppress(OSError, ValueError):
        pid, host, *_ = path.read_text().split()
        return f" (process {pid} of {host}; where that is no more, delete {path}, which it could not)"
    return ""
