"""How long a sweep that begins will take, as --dry-run tells it: by what is measured, or a timed step of each net."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from distill.config import RunSpec, resolve
from distill.record.progress import clock
from distill.run_folder import RunFolder
from distill.sweep.checked import before, seed_and_rest
from distill.sweep.speeds import NOT_KNOWN, Speeds, read_speeds
from distill.sweep.steps import Steps
from distill.teachers.bundled import is_bundled

if TYPE_CHECKING:
    from distill.sweep.jobs import Sweep
    from distill.sweep.launcher import ComposingLauncher


def forecast(sweep: Sweep, launcher: ComposingLauncher, *, timed: bool) -> str:
    """A line on the time of all jobs, one after the other, the teachers that they need among them.

    timed: nets may be timed here, where no run has told; not where that would take a GPU from the jobs. Jobs that
    differ in the seed alone are resolved once; one that cannot be says so itself.
    """
    rests = Counter(seed_and_rest(job.overrides)[1] for job in sweep.jobs)
    first = {seed_and_rest(job.overrides)[1]: job for job in reversed(sweep.jobs)}
    runs: list[tuple[RunSpec, int]] = []
    needed: dict[Path, RunSpec] = {}
    for rest, count in rests.items():
        with suppress(ValueError):
            spec = resolve(launcher.composer.load_sweep_config(launcher.config, first[rest].overrides))
            needed |= {each.folder: each for _, each in before(spec)}
            runs.append((spec, count))
    runs += [(each, 1) for each in needed.values() if not (RunFolder(each.folder).done or is_bundled(each))]
    steps = Steps(quiet=True)
    speeds = Speeds(read_speeds(sweep.output), steps.seconds if timed else None)
    found = [(speeds.estimate(spec), count) for spec, count in runs]
    steps.keep()
    known = sum(each.seconds * count for each, count in found if each.seconds is not None)
    without = sum(count for each, count in found if each.seconds is None)
    sources = [source for source in dict.fromkeys(each.source for each, _ in found) if source != NOT_KNOWN]
    if not sources:
        return "  no estimate of the time: no run has ended yet"
    more = f", {without} runs without an estimate" if without else ""
    return f"  about {clock(known)} one after the other{more} ({'; '.join(sources)})"
