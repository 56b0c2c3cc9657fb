"""What a sweep says at its end: who won on each pair, by how much, and whether that is more than noise."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from distill.report.collect import CollectedRuns, collect
from distill.report.overview import overview
from distill.report.summary import ALONE, Row, summarize
from distill.report.terminal import console, show_tables

_MORE = "Also as a page with charts: python -m distill report {} --out report.html"


def comparison(folders: Sequence[Path]) -> None:
    """Print the tables of the runs in `folders`; nothing where none of them is done.

    The student alone is looked for beside them as well, among the runs of earlier commands.
    """
    found = collect(folder for folder in folders if folder.exists())
    if not found.runs:
        return
    beside = {place for folder in folders for place in _alone(folder) if place.is_dir()}
    rows = _with_alone(found, collect(sorted(beside)))
    document = overview(found, rows)
    outputs = dict.fromkeys(_shown(folder.parents[3]) for folder in folders if len(folder.parents) > 3)
    document.notes[:1] = [_MORE.format(shlex.join(outputs))]
    document.legend.clear()
    print(flush=True)
    show_tables(document, console())


def _alone(folder: Path) -> list[Path]:
    """Where the student of a run lies trained alone: <output>/<data set>/none-<student>/none-*."""
    if len(folder.parents) < 3:
        return []
    pair = folder.parents[1].name
    ends = [pair[place + 1 :] for place, letter in enumerate(pair) if letter == "-"]  # names may hold dashes
    return [one for end in ends for one in folder.parents[2].glob(f"none-{end}/{ALONE}-*")]


def _with_alone(found: CollectedRuns, earlier: CollectedRuns) -> list[Row]:
    """The rows of `found`, and of `earlier` those that they are measured by."""
    own = {run.key for run in found.runs}
    every = summarize([*found.runs, *(run for run in earlier.runs if run.key not in own)])
    rows = [row for row in every if row.one.key in own]
    used = {row.baseline.one.key for row in rows if row.baseline}
    return [row for row in every if row.one.key in own | used]


def _shown(output: Path) -> str:
    """Relative to the working folder where it lies below."""
    here = Path.cwd()
    return str(output.relative_to(here)) if output.is_relative_to(here) else str(output)
