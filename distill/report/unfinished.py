"""What a report says of runs without a result, and where there are none at all."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from distill.report.collect import CollectedRuns
from distill.report.table import Cell, Table, number, numeric_columns, without_empty, word
from distill.sweep.plan import RUNNING
from distill.sweep.states import STATE_FAILED, STATES, Status

_FIRST = 12  # rows before the fold


def what_to_run(found: CollectedRuns) -> tuple[str, str]:
    """For those who have no result yet: a sentence, and a command or none."""
    if found.unfinished:
        return "No run is finished yet; the same command again goes on with those that were cut off.", ""
    output = next(iter(found.folders), "outputs")
    command = f"python -m distill -m method=none,kd,crd seed=1,2,3 output={shlex.quote(str(output))}"
    return "Nothing has been run here. To begin with, three methods on the digits, three seeds each:", command


def unfinished(found: Sequence[Status]) -> Table:
    """The runs that have no result: running, cut off or failed, each with the last epoch that it finished."""
    cells = []
    for one in found:
        tone = {RUNNING: "good", STATE_FAILED: "bad"}.get(one.state, "over")
        cells.append([Cell(one.state, tone=tone), word(one.name), word(one.epoch), number(one.accuracy), word(one.why)])
    columns, cells = without_empty(["state", "run", "last epoch", "accuracy then", "why"], cells)
    note = "distill status FOLDER lists them with the commands that go on."
    numeric = numeric_columns(cells, len(columns))
    first = _FIRST if len(cells) > _FIRST + 3 else None
    return Table("unfinished", "Not finished", columns, cells, [note], numeric, first=first)


def count_by_kind(found: Sequence[Status]) -> list[str]:
    """`2 running, 1 failed: see Not finished.`"""
    counts = Counter(one.state for one in found)
    named = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return [f"{named}: see the table Not finished."] if named else []
