"""Which runs below an output folder are done, running, cut off or failed, and the commands that go on with them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import errors
from distill.run_folder import RunFolder, find_runs
from distill.sweep.jobs import last_attempts
from distill.sweep.plan import CUT_OFF, DONE, RUNNING
from distill.terminal import printable

FAILED = "failed"
STATES = (DONE, RUNNING, CUT_OFF, FAILED)  # in this order: what asks for something is read last
STOPPED = (errors.DONE, errors.STOPPED, errors.INTERRUPTED)  # ends of an attempt that are no failure
SHOWN = 10  # commands


@dataclass(frozen=True)
class Status:
    """A run's state, the epoch that it has come to, its last test accuracy in percent, and why it failed."""

    state: str
    name: str
    epoch: str
    accuracy: float | None
    why: str = ""
    command: str | None = None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill status`."""
    parser.add_argument("folders", nargs="*", metavar="OUTPUT", help="folders with runs (default: outputs)")
    parser.add_argument("--only", choices=[state.replace(" ", "-") for state in STATES], help="runs in this state")


def run(options: argparse.Namespace) -> None:
    """List the runs below some folders. Raises ValueError where there is no such folder."""
    found = [one for folder in options.folders or ["outputs"] for one in statuses(Path(folder))]
    found = [one for one in found if options.only in (None, one.state.replace(" ", "-"))]
    print(printable("\n".join([*table(found), *how_to_go_on(found)])))


def statuses(top: Path) -> list[Status]:
    """The status of every run below `top`, by state and name. Raises ValueError where there is no such folder."""
    if not top.is_dir():
        raise ValueError(f"there is no folder {top}: give the output folder of some runs, such as outputs")
    runs = {folder.path.resolve(): folder for folder in find_runs(top) if folder.is_run}
    attempts: dict[Path, dict[str, Any]] = {}
    for output in {top.resolve(), *(path.parents[3] for path in runs if len(path.parents) > 3)}:
        attempts |= last_attempts(output)
    found = [_status(top, folder, attempts.get(path, {})) for path, folder in runs.items()]
    return sorted(found, key=lambda one: (STATES.index(one.state), one.name))


def _status(top: Path, folder: RunFolder, attempt: Mapping[str, Any]) -> Status:
    """The status of one run; attempt: the last line that a sweep wrote on it."""
    rows = folder.rows("epoch")
    measured = [row["test_accuracy"] for row in rows if row.get("test_accuracy") is not None]
    state, why = _state(folder, attempt)
    result = folder.result if state == DONE else None
    return Status(
        state,
        str(folder.path.relative_to(top)),
        _epoch(rows),
        result.accuracy.last if result else next(reversed(measured), None),
        why,
        None if state in (DONE, RUNNING) else attempt.get("command") or folder.command,
    )


def _state(folder: RunFolder, attempt: Mapping[str, Any]) -> tuple[str, str]:
    """A run's state, and why it failed."""
    if folder.locked:
        return RUNNING, ""
    if folder.done:
        return DONE, ""
    if damage := folder.damage:
        return FAILED, damage
    if attempt.get("code", errors.DONE) in STOPPED:
        return CUT_OFF, ""
    return FAILED, str(attempt.get("why") or attempt.get("outcome"))


def _epoch(rows: list[dict[str, Any]]) -> str:
    """The last epoch that was finished: `epoch 3 of 20`, and the phase where there are several."""
    if not rows:
        return "epoch 0"
    last = rows[-1]
    phase = f" of phase {last.get('phase')}" if len({row.get("phase") for row in rows}) > 1 else ""
    return f"epoch {last.get('epoch')} of {last.get('epochs')}{phase}"


def table(found: Iterable[Status]) -> list[str]:
    """A line for each run, and one with how many there are in each state."""
    found = list(found)
    accuracies = ["" if one.accuracy is None else f"{one.accuracy:.2f} %" for one in found]
    cells = [(one.state, one.name, one.epoch, text) for one, text in zip(found, accuracies, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines = [f"{line}  {one.why}".rstrip() for line, one in zip(lines, found, strict=True)]
    counts = [f"{count} {state}" for state in STATES if (count := sum(one.state == state for one in found))]
    return [*lines, f"{len(found)} run{'s' * (len(found) != 1)}{': ' * bool(counts)}{', '.join(counts)}"]


def how_to_go_on(found: Iterable[Status]) -> Iterator[str]:
    """The commands that go on with the runs that are cut off or failed."""
    stopped = [one for one in found if one.state in (CUT_OFF, FAILED)]
    commands = list(dict.fromkeys(one.command for one in stopped if one.command))
    if commands:
        yield "\nThese go on where the runs stopped (of those that failed, once the cause is mended):"
        yield from commands[:SHOWN]
    if len(commands) > SHOWN:
        yield f"and {len(commands) - SHOWN} more; the command of a sweep goes on with all its runs that are not done"
    if unknown := sum(not one.command for one in stopped):
        yield f"\nHow {unknown} of them began is not recorded: give the same command again."
