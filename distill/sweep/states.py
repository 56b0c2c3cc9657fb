"""Which runs below a folder are done, running, queued, stopped early by a search, cut off or failed: from their
folders, sweep.jsonl and Slurm's queue.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distill.errors as errors
from distill.files import read_mapping
from distill.run_folder import RunFolder, find_runs, score_in
from distill.sweep.jobs import last_attempts
from distill.sweep.plan import CUT_OFF, QUEUED, RUNNING, STATE_DONE
from distill.sweep.queued import place, queued_below

STOPPED_EARLY, STATE_FAILED = "stopped early", "failed"
STATES = (STATE_DONE, RUNNING, QUEUED, STOPPED_EARLY, CUT_OFF, STATE_FAILED)  # what asks for something is read last
_STOPPED = (errors.DONE, errors.STOPPED, errors.INTERRUPTED)  # ends of an attempt that are no failure


@dataclass(frozen=True)
class Status:
    """A run's state, the epoch that it has come to, its last test accuracy in percent, and why it failed."""

    state: str
    name: str
    epoch: str
    accuracy: float | None
    why: str = ""
    command: str | None = None


def statuses(top: Path, done: bool = True) -> list[Status]:
    """The status of every run below `top`, by state and name; done: those that are finished as well.

    Raises ValueError where there is no such folder.
    """
    if not top.is_dir():
        raise ValueError(f"there is no folder {top}: give the output folder of some runs, such as outputs")
    runs = {folder.path.resolve(): folder for folder in find_runs(top) if folder.is_run}
    attempts: dict[Path, dict[str, Any]] = {}
    queue: set[str] = set()
    for output in {top.resolve(), *(path.parents[3] for path in runs if len(path.parents) > 3)}:
        attempts |= last_attempts(output)
        queue |= queued_below(output)
    asked = [(path, folder) for path, folder in runs.items() if done or not folder.done]
    found = [_status(top, folder, attempts.get(path, {}), queue) for path, folder in asked]
    found += [_status(top.resolve(), *one, queue) for one in _without_folder(top.resolve(), attempts, {*runs}, queue)]
    return sorted(found, key=lambda one: (STATES.index(one.state), one.name))


def _without_folder(
    top: Path, attempts: Mapping[Path, dict[str, Any]], known: Collection[Path], queue: Collection[str]
) -> Iterator[tuple[RunFolder, dict[str, Any]]]:
    """The runs below `top` that have left nothing in a folder yet: those that wait, and those that failed before."""
    waiting = [path for path in map(Path, sorted(queue)) if path.is_relative_to(top) and path not in known]
    yield from ((RunFolder(path), attempts.get(path, {})) for path in waiting)
    for path, row in attempts.items():
        if path in waiting:
            continue
        if path.is_relative_to(top) and not path.exists() and row.get("code", errors.DONE) not in _STOPPED:
            yield RunFolder(path), row


def _status(top: Path, folder: RunFolder, attempt: Mapping[str, Any], queue: Collection[str]) -> Status:
    """The status of one run; attempt: the last line that a sweep wrote on it; queue: runs by `place`."""
    state, why = _state(folder, attempt, queue)
    result = folder.result if state == STATE_DONE else None
    return Status(
        state,
        str(folder.path.relative_to(top)),
        _epoch(folder),
        result.score.last if result else _measured(folder),
        why,
        None if state in (STATE_DONE, RUNNING, QUEUED) else attempt.get("command") or folder.command,
    )


def _state(folder: RunFolder, attempt: Mapping[str, Any], queue: Collection[str]) -> tuple[str, str]:
    """A run's state, and why it failed."""
    if folder.locked:
        return RUNNING, ""
    if folder.done:
        return STATE_DONE, ""
    if damage := folder.damage:
        return STATE_FAILED, damage
    if place(folder.path) in queue:
        return QUEUED, ""
    if folder.given_up:
        return STOPPED_EARLY, ""
    if attempt.get("code", errors.DONE) in _STOPPED or _begun_since(folder, attempt):
        return CUT_OFF, ""
    return STATE_FAILED, str(attempt.get("why") or attempt.get("outcome"))


def _begun_since(folder: RunFolder, attempt: Mapping[str, Any]) -> bool:
    """Whether a process has begun to work on a run after an attempt of a sweep had ended."""
    begun, ended = read_mapping(folder.tracking).get("begun"), attempt.get("time")
    return isinstance(begun, str) and isinstance(ended, str) and begun > ended


def _measured(folder: RunFolder) -> float | None:
    """The accuracy of the last epoch that was measured."""
    return next((score for row in folder.latest("epoch") if (score := score_in(row)) is not None), None)


def _epoch(folder: RunFolder) -> str:
    """The last epoch that was finished: `epoch 3 of 20`, and the phase where there are several."""
    last = next(folder.latest("epoch"), None)
    if last is None:
        return "epoch 0"
    phase = f" of phase {last.get('phase')}" if folder.has_phases("epoch") else ""
    return f"epoch {last.get('epoch')} of {last.get('epochs')}{phase}"
