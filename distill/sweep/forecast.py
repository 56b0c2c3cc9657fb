"""How long a sweep that begins will take, as --dry-run tells it: by what is measured, or timed steps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import RunSpec, resolve
from distill.content.data_sets import KNOWN_SETS
from distill.record.progress import clock
from distill.run_folder import RunFolder
from distill.sweep.checked import before, reached_by_seed, seed_and_rest, with_seed
from distill.sweep.speeds import NOT_KNOWN, Speeds, read_speeds
from distill.sweep.steps import FEW_RUNS, Steps
from distill.teachers.bundled import is_bundled

MINUTES = 300_000  # images of a sweep that takes minutes on a CPU: a shorter one has ended by then, or told itself

if TYPE_CHECKING:
    from distill.sweep.jobs import Job, Sweep


def forecast(sweep: Sweep, compose: Callable[[list[str]], Any], *, timed: bool, worth: float = 0) -> str:
    """A line on the time of all jobs, one after the other, the teachers that they need among them.

    compose: makes the configuration of a job of its overrides. timed: steps may be timed here, where no run has told;
    not where that would take a GPU from the jobs. worth: as many images must be trained on, else nothing is timed, nor
    said. Jobs that differ in the seed alone are timed once; one that cannot be says so itself.
    """
    alike: dict[tuple[str, ...], list[Job]] = defaultdict(list)
    for job in sweep.jobs:
        alike[seed_and_rest(job.overrides)[1]].append(job)
    runs: list[tuple[RunSpec, int]] = []
    needed: dict[Path, RunSpec] = {}
    for group in alike.values():
        with suppress(ValueError):
            specs = _resolved(group, compose)
            needed |= {each.folder: each for spec in specs for _, each in before(spec)}
            runs.append((specs[0], len(group)))
    runs += [(each, 1) for each in needed.values() if not (RunFolder(each.folder).done or is_bundled(each))]
    timed, short = timed and _images(runs) >= worth, _images(runs) < worth
    steps = Steps(quiet=True, few=len(runs) <= FEW_RUNS)
    speeds = Speeds(read_speeds(sweep.output), steps.seconds if timed else None)
    found = [(speeds.estimate(spec), count) for spec, count in runs]
    steps.keep()
    known = sum(each.seconds * count for each, count in found if each.seconds is not None)
    without = sum(count for each, count in found if each.seconds is None)
    sources = [source for source in dict.fromkeys(each.source for each, _ in found) if source != NOT_KNOWN]
    if not sources:
        return "" if short else "  no estimate of the time: no run has ended yet"
    more = f", {without} runs without an estimate" if without else ""
    return f"  about {clock(known)} one after the other{more} ({'; '.join(sources)})"


def _resolved(group: Sequence[Job], compose: Callable[[list[str]], Any]) -> list[RunSpec]:
    """The runs of jobs that differ in the seed alone, of which the first is resolved, and others by their seeds; each
    where the seed reaches more than the run's own draws.
    """
    cfg = compose(group[0].overrides)
    first = resolve(cfg)
    if reached_by_seed(cfg):
        return [first, *(resolve(compose(job.overrides)) for job in group[1:])]
    seeds = (seed_and_rest(job.overrides)[0] for job in group[1:])
    return [first, *(with_seed(first, seed) for seed in seeds if seed is not None)]


def _images(runs: Iterable[tuple[RunSpec, int]]) -> float:
    """Images that runs are trained on, of all epochs; without end where a data set is not known by its name."""
    return sum(
        count * spec.schedule.epochs * spec.dataset.fraction * known.images
        if (known := KNOWN_SETS.get(spec.dataset.kind)) else math.inf
        for spec, count in runs
    )  # fmt: skip
