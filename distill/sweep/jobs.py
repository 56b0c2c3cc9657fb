"""The jobs of a sweep: which are to run, what became of each attempt, and what Hydra is told in the end."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

import distill.config as config
import distill.errors as errors
import distill.sweep.failures as failures
import distill.sweep.launched as launched
from distill.files import PASSING
from distill.record.progress import clock
from distill.record.tracker import now
from distill.run_folder import RunFolder
from distill.strict_json import parse_json
from distill.sweep.compose import Composer, job_arguments, left_out
from distill.terminal import printable

WORDS = {
    errors.DONE: "done",
    errors.FAILED: "failed",
    errors.USAGE: "usage error",
    errors.NONFINITE: "loss not finite",
    errors.NO_CHECKPOINT: "no valid checkpoint",
    errors.STOPPED: "stopped",
    errors.INTERRUPTED: "stopped",
}
ATTEMPTS = "sweep.jsonl"  # in the output folder: a line an attempt
_FINAL = set(WORDS) - {errors.FAILED}  # another attempt would end the same way, or is not wanted


@dataclass(eq=False)
class Job:
    """One run of a sweep that is not done yet."""

    name: str  # what sets it apart from the others of the sweep
    overrides: list[str]
    argv: list[str]  # the command line that runs it alone
    folder: Path
    attempts: int = 0
    started: float = 0.0
    running: bool = False  # or handed in
    mark: int = 0  # where this attempt's part of the log begins

    @property
    def log(self) -> Path:
        return RunFolder(self.folder).log

    def start(self) -> None:
        """Note that an attempt begins now."""
        self.attempts, self.started, self.running = self.attempts + 1, time.time(), True
        self.mark = self.log.stat().st_size if self.log.exists() else 0

    @property
    def obstacle(self) -> str | None:
        """What keeps the job's process from its folder and its log, in a sentence; None where nothing does."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.log.exists() and not self.log.is_file():  # a pipe would keep whoever writes there
                return f"{self.log} is no file: take away what lies there, or choose another output="
            with open(self.log, "a", encoding="utf-8"):
                return None
        except OSError as error:
            if error.errno in PASSING:  # a full disk: the run itself waits for it
                return None
            where = error.filename or self.folder
            return f"{where} cannot be written ({error.strerror}): take away what lies there, or choose another output="


class Sweep:
    """All jobs of one launch. `jobs` are those to run: not what is done, and each run once.

    master: the sweep's configuration; overrides: those of each job; retries: more attempts after a crash.
    """

    def __init__(
        self, master: DictConfig, composer: Composer, overrides: Sequence[Sequence[str]], retries: int
    ) -> None:
        self.output, self.retries = Path(str(master.hydra.sweep.dir)), retries
        self.overrides = [list(one) for one in overrides]
        self.folders: list[Path | None] = []
        self.jobs: list[Job] = []
        self.ended = 0
        self._unwritten: list[bytes] = []  # lines of sweep.jsonl
        seen: set[Path | None] = {None}
        names = job_names(self.overrides)
        for one, name in zip(self.overrides, names, strict=True):
            skip = left_out(master, one)
            folder = None if skip else _folder(composer.load_sweep_config(master, one), name)
            self.folders.append(folder)
            if folder is not None and folder not in seen:
                if RunFolder(folder).done:
                    RunFolder(folder).remove_leftovers()
                else:
                    self.jobs.append(Job(name, one, job_arguments(master, one), folder))
            seen.add(folder)
        self.doubles = doubles(names, self.folders)
        launched.note_launched(self.folders)
        self.output.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()

    def announce(self, how: str) -> None:
        """Say what is to be run; `how` tells where."""
        runs, count = len({*self.folders} - {None}), len(self.jobs)
        known = f"{runs - count} done already, " if runs > count else ""
        print(f"{runs} runs: {known}{count} to run{how if count else ''}", flush=True)
        if self.doubles:
            print(f"  {self.doubles}", flush=True)
        if count:
            attempts = self.output / ATTEMPTS
            print(f"  output of each: log.txt in its folder; attempts: {attempts}", flush=True)

    def finish(
        self, job: Job, code: int, why: str = "", again: bool = True, stopping: bool = False, **where: Any
    ) -> bool:
        """Record the end of an attempt; returns whether the job should be tried again.

        code: an exit code, or a signal's number with a minus; again: whether crashes may be tried again;
        stopping: the whole sweep was told to stop; where: more for the line of sweep.jsonl.
        """
        job.running = False
        if code == errors.DONE and not RunFolder(job.folder).done:
            code, why = errors.FAILED, "it left no result here: data, weights or plugins are not those of the launch"
        why = "" if code == errors.DONE else why or _reason(job.log, job.mark, code)
        again = again and not stopping and code not in _FINAL and job.attempts <= self.retries
        self._write(job, code, why, again, where)
        self._print(job, code, why, again)
        if code != errors.DONE and not again and not (stopping and code in (errors.STOPPED, errors.INTERRUPTED)):
            failures.note_failure(code if code >= 0 else errors.FAILED, job.name, f"{why} (log: {job.log})")
        return again

    def _write(self, job: Job, code: int, why: str, again: bool, where: dict[str, Any]) -> None:
        line = {
            "time": now(),
            "host": socket.gethostname(),
            "overrides": job.overrides,
            "folder": str(job.folder),
            "command": shlex.join(["python", "-m", "distill", *job.argv]),
            "attempt": job.attempts,
            "outcome": _word(code),
            "code": code,
            "why": why,
            "seconds": round(time.time() - job.started, 1),
            "again": again,
            **where,
        }
        self._unwritten.append((json.dumps(line) + "\n").encode())
        self._append()

    def _append(self) -> None:
        """Write the lines that there are, one a call so that those of two sweeps do not mix; what is refused waits, the
        rest of a line too, for which a full disk had no room.
        """
        path = self.output / ATTEMPTS
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                while self._unwritten:
                    written = os.write(handle, self._unwritten[0])
                    self._unwritten[0] = self._unwritten[0][written:]
                    if not self._unwritten[0]:
                        self._unwritten.pop(0)
            finally:
                os.close(handle)
        except OSError as error:
            print(f"  {path} cannot be written ({error.strerror}): its lines wait for the next", flush=True)

    def _print(self, job: Job, code: int, why: str, again: bool) -> None:
        took = clock(time.time() - job.started)
        if again:
            print(printable(f"  {_word(code)} after {took}, to be tried again: {job.name}: {why}"), flush=True)
            return
        self.ended += 1
        value = _value(job.folder) if code == errors.DONE else math.nan
        result = _word(code).upper() if math.isnan(value) else f"{value:.2f} %"  # of a run that measures nothing: done
        left = len(self.jobs) - self.ended
        pace = (time.monotonic() - self._started) / self.ended
        took += f", about {clock(pace * left)} left" if left else ""
        tail = f": {why}" if why else ""
        print(printable(f"[{self.ended}/{len(self.jobs)}] {result}  {job.name}  ({took}){tail}"), flush=True)

    def returns(self) -> list[JobReturn]:
        """What the sweeper gets, job by job: the last test accuracy in percent, NaN where it failed."""
        found = []
        for overrides, folder in zip(self.overrides, self.folders, strict=True):
            one = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
            one.return_value = _value(folder) if folder else math.nan
            found.append(one)
        return found


def _folder(cfg: DictConfig, name: str) -> Path | None:
    try:
        return Path(config.identity(cfg)["folder"]).absolute()
    except ValueError as error:  # this combination cannot be: the others can
        failures.note_failure(errors.USAGE, name, str(error))
        return None


def job_names(overrides: Sequence[Sequence[str]]) -> list[str]:
    """A name for each job: its overrides less those that all have."""
    shared = set(overrides[0]).intersection(*overrides) if len(overrides) > 1 else set()
    return [" ".join(text for text in one if text not in shared) for one in overrides]


def doubles(names: Sequence[str], folders: Sequence[Path | None]) -> str:
    """A sentence on jobs that stand for the run of an earlier one, which is run as that says; nothing without any."""
    first: dict[Path, int] = {}
    found = [(at, first.setdefault(folder, at)) for at, folder in enumerate(folders) if folder is not None]
    again = [(names[at], names[before]) for at, before in found if at != before]
    if not again:
        return ""
    name, before = again[0]
    differs = f"{name} as {before}, from which it differs in no result"
    what = f"{name or 'one run'} stands twice" if name == before else differs
    return f"{len(again)} of {len(names)} jobs are the runs of others, and run once: {what}"


_KINDS = {"folder": str, "command": str, "why": str, "outcome": str, "code": int}  # what readers of a line count on


def last_attempts(output: Path) -> dict[Path, dict[str, Any]]:
    """The last line of sweep.jsonl on each run, by the run's folder, wherever `output` has been moved since."""
    path = output / ATTEMPTS
    found: dict[Path, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError, AttributeError):  # half a line, on a full disk; or no object
            row = parse_json(line)
            if not all(isinstance(row.get(key), kind) for key, kind in _KINDS.items()):
                continue
            found[output.joinpath(*Path(row["folder"]).parts[-4:])] = row
    return found


def _value(folder: Path) -> float:
    """The last test accuracy of a finished run in percent, or NaN."""
    run = RunFolder(folder)
    last = run.read_result().score.last if run.done else None
    return math.nan if last is None else last


def _word(code: int) -> str:
    """How an attempt ended, in a word or two: done, failed, killed by SIGKILL ..."""
    if code < 0:
        names = {item.value: item.name for item in signal.Signals}
        return f"killed by {names.get(-code, f'signal {-code}')}"
    return WORDS.get(code, f"exit code {code}")


def _reason(log: Path, mark: int, code: int) -> str:
    """Why an attempt failed: the last sentence of ours in its part of the log, else its last line."""
    try:
        with open(log, "rb") as file:
            file.seek(max(mark, log.stat().st_size - 20_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    if code < 0:
        return _word(code) + (" (out of memory?)" if code == -signal.SIGKILL else "")
    messages = [line.removeprefix("distill: ") for line in lines if line.startswith("distill: ")]
    rest = [line for line in lines if line.strip()]
    return re.sub(r" \(traceback in [^)]*\)$", "", (messages or rest or [_word(code)])[-1])
