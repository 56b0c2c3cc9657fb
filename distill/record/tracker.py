"""The numbers of a run: metrics.jsonl in its folder is the truth; a logger (W&B, TensorBoard) may fail."""

from __future__ import annotations

import json
import logging
import math
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.files import plain, sweep, write_json, write_text
from distill.record.logger import make_logger
from distill.run_folder import RunFolder

_log = logging.getLogger(__name__)


def command_line() -> str:
    """This program's own command, as it can be typed again."""
    return shlex.join(["python", "-m", "distill", *sys.argv[1:]])


class Tracker:
    """Writes each row to metrics.jsonl and shows it to a logger.

    tracking: mode, as make_logger takes it, and what that mode reads. config: the run's resolved one, shown.
    identity: group, id, name, job_type, tags. resume_at: the global step of the checkpoint that the run goes
    on from: rows of later steps are dropped, since they will be written again; None is a run that starts anew and drops
    all. Log the row of an epoch before the checkpoint of its end is
    saved. Raises ValueError as make_logger does.
    """

    def __init__(
        self,
        folder: str | Path,
        tracking: Mapping[str, Any],
        config: Mapping[str, Any],
        identity: Mapping[str, Any],
        resume_at: int | None = None,
        **timeouts: float,
    ) -> None:
        self.folder = RunFolder(folder)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self.logger = make_logger(self.folder.path, tracking, config, identity, resume_at=resume_at, **timeouts)
        sweep(self.folder.path)
        write_json(self.folder.tracking, {"identity": identity, "config": config, "command": command_line()})
        self._kept = {_key(row) for row in _drop_after(self.folder, resume_at)}
        self._file = open(self.folder.metrics, "ab", buffering=0)  # noqa: SIM115 (open until finish)
        self._pending, self._warned = b"", False

    def log(self, row: Mapping[str, Any]) -> None:
        """Append `row` (kind, phase, epoch, step = the global one, numbers); null for what is not finite.

        A row that was logged before a kill and is logged again after the resume is written once.
        """
        if _key(row) in self._kept:
            return
        values = plain(row)
        self._pending += json.dumps(values, allow_nan=False).encode() + b"\n"
        self._write()
        self.logger.log(values)

    def finish(self, exit_code: int = 0, summary: Mapping[str, Any] | None = None) -> None:
        """Close file and logger, in bounded time. summary: last and best numbers. Safe to call twice."""
        if not self._file.closed:
            self._write()
            self._file.close()
        self.logger.finish(exit_code, plain(summary or {}))

    def _write(self) -> None:
        """One write a row, so that a kill leaves whole lines; what a full disk refuses waits for the next."""
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            if not self._warned:
                _log.warning("%s cannot be written (%s): its rows wait for the next", self._file.name, error)
            self._warned = True


def _drop_after(folder: RunFolder, step: int | None) -> list[dict[str, Any]]:
    """Leave in metrics.jsonl the whole rows of steps up to `step` (None: none), and return them."""
    rows = [row for row in folder.rows() if step is not None and _step(row) <= step]
    if folder.metrics.exists():
        write_text(folder.metrics, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("kind", "phase", "epoch", "step"))


def _step(row: Mapping[str, Any]) -> float:
    """The step of a row; of one that was damaged to have none, after all others."""
    return row["step"] if isinstance(row.get("step"), int) else math.inf
