"""Which runs below a folder are done, running, queued, cut off or failed, and the commands that go on with them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from distill.sweep.plan import CUT_OFF
from distill.sweep.states import STATE_FAILED, STATES, Status, statuses
from distill.terminal import printable

_SHOWN = 10  # commands


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill status`."""
    parser.add_argument("folders", nargs="*", metavar="OUTPUT", help="folders with runs (default: outputs)")
    parser.add_argument("--only", choices=[state.replace(" ", "-") for state in STATES], help="runs in this state")


def run(options: argparse.Namespace) -> None:
    """List the runs below some folders. Raises ValueError where there is no such folder."""
    found = [one for folder in options.folders or ["outputs"] for one in statuses(Path(folder))]
    found = [one for one in found if options.only in (None, one.state.replace(" ", "-"))]
    print(printable("\n".join([*_table(found), *resume_commands(found)])))


def _table(found: Iterable[Status]) -> list[str]:
    """A line for each run, and one with how many there are in each state."""
    found = list(found)
    accuracies = ["" if one.accuracy is None else f"{one.accuracy:.2f} %" for one in found]
    cells = [(one.state, one.name, one.epoch, text) for one, text in zip(found, accuracies, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines = [f"{line}  {one.why}".rstrip() for line, one in zip(lines, found, strict=True)]
    counts = [f"{count} {state}" for state in STATES if (count := sum(one.state == state for one in found))]
    return [*lines, f"{len(found)} run{'s' * (len(found) != 1)}{': ' * bool(counts)}{', '.join(counts)}"]


def resume_commands(found: Iterable[Status]) -> Iterator[str]:
    """The commands that go on with the runs that are cut off or failed."""
    stopped = [one for one in found if one.state in (CUT_OFF, STATE_FAILED)]
    commands = list(dict.fromkeys(one.command for one in stopped if one.command))
    if commands:
        yield "\nThese go on where the runs stopped (of those that failed, once the cause is mended):"
        yield from commands[:_SHOWN]
    if len(commands) > _SHOWN:
        yield f"and {len(commands) - _SHOWN} more; the command of a sweep goes on with all its runs that are not done"
    if unknown := sum(not one.command for one in stopped):
        yield f"\nHow {unknown} of them began is not recorded: give the same command again."
