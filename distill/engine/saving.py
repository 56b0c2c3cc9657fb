"""When a loop's state is saved, beside its steps, and what becomes of a disk or a state that does not do."""

from __future__ import annotations

import logging
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

import distill.parallel as parallel
from distill.engine.checkpoint import Checkpoints, refused, snapshot
from distill.engine.state import Options
from distill.files import Backoff, SaveError

log = logging.getLogger(__name__)
SHARE = 0.02  # of the time, which checkpoints after short epochs may take


class Saving:
    """The clock of a loop's checkpoints, and the thread that writes them.

    began, took: when the last one was, and for how many seconds training stood still for it.
    """

    def __init__(self, checkpoints: Checkpoints, options: Options) -> None:
        self.checkpoints, self.options = checkpoints, options
        self.began, self.took = time.monotonic(), 0.0
        self._refused = Backoff()  # by the disk, the last time
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[bool] | None = None

    @property
    def due(self) -> bool:
        """Whether to save within an epoch. Of several processes the first tells: it knows what a checkpoint takes."""
        late = time.monotonic() - self.began > self.options.save_seconds or self._refused.due
        return late and parallel.rank() == 0

    @property
    def due_after_epoch(self) -> bool:
        """Whether to save where an epoch has ended, as `due`."""
        pause = max(self.options.epoch_seconds, self.took / SHARE)
        return parallel.rank() == 0 and time.monotonic() - self.began >= min(pause, self.options.save_seconds)

    def latest(self) -> dict[str, Any] | None:
        """The newest state, or None. Raises NoValidCheckpoint."""
        state = self.checkpoints.latest()
        if state and state["threads"] != (threads := torch.get_num_threads()):
            log.warning("resuming with %d threads what ran with %d: results will differ in the last digits",
                        threads, state["threads"])  # fmt: skip
        return state

    def begin(self) -> None:
        """Start the clock anew: every process does, and one of them writes."""
        self.began = time.monotonic()

    def write(self, state: dict[str, Any], step: int, flush: Callable[[], None], *, wait: bool) -> bool:
        """Write a state behind the rows, which `flush` writes; False, with a warning, where the disk refuses it.

        wait: until it is written; else a copy of it is, while training goes on.
        """
        self.close()
        try:
            flush()
            if not wait:
                self._writing = self._writer.submit(self._write, snapshot(state), step)
            return not wait or self._write(state, step)
        except SaveError as error:
            return self._later(error)
        finally:
            self.took = time.monotonic() - self.began

    def close(self) -> None:
        """Wait for what is being written."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _write(self, state: dict[str, Any], step: int) -> bool:
        try:
            self.checkpoints.save(state, step)
        except SaveError as error:
            return self._later(error)
        self._refused.succeeded()
        return True

    def _later(self, error: SaveError) -> bool:
        log.warning("%s; training goes on, and it is tried again in %.0f s", error, self._refused.failed())
        return False

    @contextmanager
    def fitting(self, state: Mapping[str, Any]) -> Iterator[None]:
        """Turn what a state of another version ends in into a sentence: it is whole, for its checksum was right."""
        try:
            yield
        except torch.OutOfMemoryError:  # says nothing about the state
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            folder = self.checkpoints.folder
            reason = textwrap.shorten(str(error), 200, placeholder=" ...")
            why = f"the newest checkpoint in {folder} is whole and does not fit this run ({reason})"
            raise refused(state, folder, why) from error
