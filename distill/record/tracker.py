"""The numbers of a run: metrics.jsonl in its folder is the truth; a logger (W&B, TensorBoard) may fail."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distill.files import (
    PASSING,
    SaveError,
    json_ready,
    persist,
    read_mapping,
    refusal,
    remove_temporary,
    replacing,
    write_json,
    write_text,
)
from distill.record.logger import make_logger
from distill.run_folder import RunFolder

_log = logging.getLogger(__name__)


_given: list[list[str]] = []  # the words of runs from Python, which stand in no command line


def command_line() -> str:
    """This program's own command, as it can be typed again; of a run from Python, the one that gives the same."""
    return shlex.join(["python", "-m", "distill", *(_given[-1] if _given else sys.argv[1:])])


def now() -> str:
    """The time as records have it, UTC and to the second: of two the later is the greater text."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def given_as(words: Sequence[str]) -> Iterator[None]:
    """Until the block ends, `command_line` has these words: those of the process are another program's."""
    _given.append(list(words))
    try:
        yield
    finally:
        _given.pop()


class Tracker:
    """Writes each row to metrics.jsonl and shows it to a logger.

    tracking: mode, as make_logger takes it, and what that mode reads. config: the run's resolved one, shown.
    identity: group, id, name, job_type, tags; see `_begun_as`. choices: decided for the machine, see engine.choices.
    resume_at: the global step of the checkpoint that the run goes on from: rows of later steps are dropped, since they
    will be written again; None is a run that starts anew and drops all. Log the row of an epoch before the checkpoint
    of its end is saved. Raises ValueError as make_logger does.
    """

    def __init__(
        self,
        folder: str | Path,
        tracking: Mapping[str, Any],
        config: Mapping[str, Any],
        identity: Mapping[str, Any],
        resume_at: int | None = None,
        choices: Mapping[str, Any] | None = None,
        **timeouts: float,
    ) -> None:
        self.folder = RunFolder(folder)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        identity = _begun_as(self.folder, identity, goes_on=resume_at is not None)
        self.logger = make_logger(self.folder.path, tracking, config, identity, resume_at=resume_at, **timeouts)
        remove_temporary(self.folder.path)
        begun = {"identity": identity, "config": config, "command": command_line(), "choices": choices, "begun": now()}
        persist(lambda: write_json(self.folder.tracking, begun))
        self._kept = {_key(row) for row in persist(lambda: _drop_after(self.folder, resume_at))}
        self._rows = persist(lambda: Rows(self.folder.metrics))

    def log(self, row: Mapping[str, Any]) -> None:
        """Append `row` (kind, phase, epoch, step = the global one, numbers); null for what is not finite.

        A row that was logged before a kill and is logged again after the resume is written once.
        """
        if _key(row) in self._kept:
            return
        values = json_ready(row)
        self._rows.add(json.dumps(values, allow_nan=False))
        self.logger.log(values)

    def flush(self) -> None:
        """Write the rows that a full disk has refused so far. Raises SaveError."""
        self._rows.flush()
        self.logger.flush()

    def finish(self, exit_code: int = 0, summary: Mapping[str, Any] | None = None) -> None:
        """Close file and logger, in bounded time. summary: last and best numbers. Safe to call twice."""
        self._rows.close()
        self.logger.finish(exit_code, json_ready(summary or {}))


class Rows:
    """A file of lines while it is written: one write a line, so that a kill leaves whole ones.

    What a full disk refuses waits for the next line. A file that is deleted or cut meanwhile is said to be, and what
    can be had of it, which is all of a deleted one, is written anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no file: take away what lies there, and the same command goes on")
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (open until close)
        except OSError as error:
            if error.errno not in PASSING:  # what lies there, and not the disk
                raise
            raise refusal(path, error) from error
        self._length = os.fstat(self._file.fileno()).st_size
        self._pending, self._failed = b"", False

    def add(self, line: str) -> None:
        """Append a line, now or with a later one."""
        self._pending += line.encode() + b"\n"
        try:
            self.flush()
        except SaveError as error:
            if not self._failed:
                _log.warning("%s; its rows wait for the next", error)
            self._failed = True

    def flush(self) -> None:
        """Write the lines that wait. Raises SaveError."""
        try:
            self._check_file()
            while self._pending:
                written = self._file.write(self._pending)
                self._pending, self._length = self._pending[written:], self._length + written
        except OSError as error:
            raise refusal(self.path, error) from error
        self._failed = False

    def close(self) -> None:
        """Write what waits, if that can be. Safe to call twice."""
        if not self._file.closed:
            self.add("") if self._pending else None
            self._file.close()

    def _check_file(self) -> None:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return self._write_anew()
        if there.st_ino != os.fstat(self._file.fileno()).st_ino:
            return self._write_anew()
        if there.st_size < self._length:
            _log.warning("%s was cut to %d of %d bytes while the run goes on: rows are missing", self.path,
                         there.st_size, self._length)  # fmt: skip
            self._length = there.st_size

    def _write_anew(self) -> None:
        """A deleted file is still there for who has it open."""
        self._file.seek(0)
        content = self._file.read()
        with replacing(self.path) as file:
            file.write(content)
        self._file.close()
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        _log.warning("%s was deleted or replaced while the run goes on: it is written anew, with all rows", self.path)


def _begun_as(folder: RunFolder, identity: Mapping[str, Any], *, goes_on: bool) -> Mapping[str, Any]:
    """The identity with an id that is this run's alone, and remains so when it goes on.

    W&B never takes rows away: what begins anew under an id that was there, in another folder or after the deletion of
    this one, is mixed with the rows of before (wandb/wandb#3424), and a deleted run's id is refused for good (#4897).
    """
    kept = read_mapping(folder.tracking).get("identity") if goes_on else None
    known = kept.get("id") if isinstance(kept, dict) else None
    return {**identity, "id": known if isinstance(known, str) else f"{identity['id']}-{secrets.token_hex(4)}"}


def _drop_after(folder: RunFolder, step: int | None) -> list[dict[str, Any]]:
    """Leave in metrics.jsonl the whole rows of steps up to `step` (None: none), and return them."""
    whole = folder.rows()
    rows = [row for row in whole if step is not None and _step(row) <= step]
    if folder.metrics.exists():
        lost = folder.metrics.read_bytes().count(b"\n") - len(whole)
        if lost > 0 and step is not None:
            _log.warning("%s: %d damaged lines are left out", folder.metrics, lost)
        write_text(folder.metrics, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("kind", "phase", "epoch", "step"))


def _step(row: Mapping[str, Any]) -> float:
    """The step of a row; of one that was damaged to have none, after all others."""
    return row["step"] if isinstance(row.get("step"), int) else math.inf
