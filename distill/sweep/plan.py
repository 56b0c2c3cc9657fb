"""--dry-run: which runs a command stands for, what is done of them, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from distill.config import RunSpec, plain, resolve
from distill.config.check import check
from distill.config.groups import config_unchanged
from distill.record.progress import clock
from distill.run_folder import RunFolder
from distill.sweep.compose import Plan
from distill.sweep.jobs import job_names
from distill.sweep.speeds import NOT_KNOWN, Estimate, Speeds, read_speeds
from distill.sweep.spread import over_cores
from distill.sweep.steps import Steps
from distill.teachers.bundled import is_bundled
from distill.terminal import counted

STATE_DONE, RUNNING, CUT_OFF, TO_RUN, CANNOT = "done", "running", "cut off", "to run", "cannot run"
WHAT = {STATE_DONE: "done", RUNNING: "running now", CUT_OFF: "cut off", TO_RUN: "to run", CANNOT: "that cannot run"}


@dataclass(frozen=True)
class _Item:
    """A run of the plan: its state, with a word more on it, and what is still to be done of it."""

    name: str
    folder: Path | None
    state: str
    more: str = ""
    left: Estimate = Estimate(0.0, "")
    teacher: bool = False


def show_plan(plan: Plan) -> int:
    """Print the runs of a command, the teachers that they need among them, and the time for each state; return how many
    of them cannot run.
    """
    output = str(plain(plan[0][1](), "output")) if plan else "outputs"
    steps = Steps()
    speeds = Speeds(read_speeds(output), steps.seconds)
    items = list(items_of(plan, speeds))
    steps.keep()
    width = max((len(_label(item)) for item in items), default=0)
    for item in items:
        print(f"{_label(item):<{width}}  {item.name}{_time(item)}")
    print("\n" + "\n".join(summary(items, speeds)))
    return sum(item.state == CANNOT for item in items)


def items_of(plan: Plan, speeds: Speeds) -> Iterator[_Item]:
    """Each run once, teachers that are not there yet before the first run that needs them."""
    seen: set[Path] = set()
    specs = resolved_all(plan)
    wanted = {_folder(spec) for spec in specs if isinstance(spec, RunSpec)}
    reasons = unfit(specs)
    for name, spec in zip(job_names([job for job, _ in plan]), specs, strict=True):
        if isinstance(spec, str) or spec.hash in reasons:
            yield _Item(name or "this run", None, CANNOT, spec if isinstance(spec, str) else reasons[spec.hash])
            continue
        for words, needed in before(spec):
            folder = _folder(needed)
            taught = words.startswith("teacher")
            if folder not in seen | wanted and not (RunFolder(folder).done or taught and is_bundled(needed)):
                yield _item(words, needed, speeds, teacher=taught)
            seen.add(folder)
        if _folder(spec) not in seen - wanted:
            yield _item(name or "this run", spec, speeds)
            wanted.discard(_folder(spec))
            seen.add(_folder(spec))


def summary(items: Iterable[_Item], speeds: Speeds) -> list[str]:
    """How many runs there are in each state, the time that is left, and where the estimates come from."""
    items = list(items)
    lines = [f"{len(items)} run{'s' * (len(items) != 1)}"]
    for state in WHAT:
        if some := [item for item in items if item.state == state]:
            lines.append(f"  {len(some)} {WHAT[state]}{_teachers_among(some)}{_total(some)}")
    left = [item for item in items if item.left.source]
    if not left:
        return lines
    lines.append(f"Time left, one run after the other: {_sum(left)}")
    for source in dict.fromkeys(item.left.source for item in left):
        same = [item for item in left if item.left.source == source]
        lines.append(f"  {len(same)} {source}{_total(same) if source != NOT_KNOWN else ''}")
    return [*lines, f"Measured on {speeds.device}." if speeds.device else "No finished run to measure by yet."]


def _item(name: str, spec: RunSpec, speeds: Speeds, teacher: bool = False) -> _Item:
    folder = _folder(spec)
    run = RunFolder(folder)
    if run.done:
        return _Item(name, folder, STATE_DONE, teacher=teacher)
    if damage := run.damage:
        return _Item(name, folder, CANNOT, damage, teacher=teacher)
    state, more, left = TO_RUN, "", speeds.estimate(spec)
    if run.cut_off:
        state, more, left = CUT_OFF, *_progress(run.rows("epoch"), spec, left)
    if run.locked:
        state = RUNNING
    return _Item(name, folder, state, more, left, teacher)


def _progress(rows: list[dict[str, Any]], spec: RunSpec, whole: Estimate) -> tuple[str, Estimate]:
    """Where a run was cut off, in words, and the time that is left of the whole, or by its own speed so far."""
    epochs = spec.schedule.epochs
    if not rows:
        return f"at epoch 0 of {epochs}", whole
    last, phases = rows[-1], {row.get("phase"): int(row.get("epochs", epochs)) for row in rows}
    total = max(sum(phases.values()), epochs)
    phase = f" of phase {last.get('phase')}" if phases != {last.get("phase"): epochs} else ""
    words, share = f"at epoch {last.get('epoch')} of {last.get('epochs', epochs)}{phase}", len(rows) / total
    if rate := last.get("images_per_second"):
        images = float(last["step"]) * spec.schedule.batch_size
        return words, Estimate(images / rate * (1 / share - 1), "measured, the run itself")
    return words, Estimate(None if whole.seconds is None else whole.seconds * (1 - share), whole.source)


def before(spec: RunSpec) -> Iterator[tuple[str, RunSpec]]:
    """The runs that must be done before one, each with a name: its teachers, and its student's first training."""
    yield from ((_teacher_name(teacher), teacher) for teacher in _teachers(spec))
    if (upstream := spec.student.upstream) is not None:
        yield f"upstream {upstream.student.name} seed={spec.seed}", upstream


def _teachers(spec: RunSpec) -> Iterator[RunSpec]:
    """The runs that train a run's teachers, those that they learn from first."""
    for teacher in (each.training for each in spec.teachers if each.training):
        yield from _teachers(teacher)
        yield teacher


def _teacher_name(spec: RunSpec) -> str:
    taught = f" taught by {spec.teacher}" if spec.teacher else ""
    return f"teacher {spec.student.name}{taught} seed={spec.seed}"


def resolved_all(plan: Plan) -> list[RunSpec | str]:
    """The run of each job, or why there is none. Jobs that differ in their seeds alone are resolved once."""
    keys = [_seed_and_rest(job) for job, _ in plan]
    first = {rest: number for number, (_, rest) in reversed(list(enumerate(keys)))}
    rests = list(dict.fromkeys(rest for _, rest in keys))

    def work(number: int) -> RunSpec | str:
        return resolved(plan[first[rests[number]]][1]())

    whole = chain(map(work, range(min(len(rests), 1))), over_cores(lambda n: work(n + 1), len(rests) - 1))
    known = dict(zip(rests, counted(whole, len(rests), "configurations checked"), strict=True))
    found = [(seed, known[rest]) for seed, rest in keys]
    return [spec if seed is None or isinstance(spec, str) else with_seed(spec, seed) for seed, spec in found]


def _seed_and_rest(job: Sequence[str]) -> tuple[int | None, tuple[str, ...]]:
    seed = next((int(text[5:]) for text in job if text.startswith("seed=") and text[5:].isdecimal()), None)
    return seed, tuple(text for text in job if seed is None or not text.startswith("seed="))


def unfit(specs: Sequence[RunSpec | str]) -> dict[str, str]:
    """Why runs that have not begun cannot be, by their hashes: found out once for all seeds, over all cores."""
    begun = [spec for spec in specs if isinstance(spec, RunSpec) and not RunFolder(spec.folder).begun]
    tried = sorted({spec.hash: spec for spec in begun}.values(), key=_pair)  # each core builds its pairs once

    if not tried:
        return {}
    from distill.preflight import refusal_of_command  # imports torch, once for all cores

    def work(number: int) -> str:
        return refusal_of_command(tried[number])

    reasons = counted(over_cores(work, len(tried)), len(tried), "runs tried without training")
    return {spec.hash: why for spec, why in zip(tried, reasons, strict=True) if why}


def _pair(spec: RunSpec) -> tuple[str, str, str]:
    return spec.dataset.name, str(spec.teacher), spec.student.name


def with_seed(spec: RunSpec, seed: int) -> RunSpec:
    """The same run from another seed, which no hash depends on."""
    below = str(Path(spec.below).with_name(f"s{seed}"))
    alone = spec.alone.with_name(f"s{seed}") if spec.alone else None
    upstream = with_seed(spec.student.upstream, seed) if spec.student.upstream else None
    student = replace(spec.student, upstream=upstream)
    folder = spec.folder.with_name(f"s{seed}")
    return replace(spec, seed=seed, below=below, folder=folder, alone=alone, student=student)


def resolved(cfg: DictConfig) -> RunSpec | str:
    """The run that a configuration describes, or why there is none."""
    try:
        with config_unchanged(cfg):
            check(cfg)
            return resolve(cfg)
    except ValueError as error:
        return str(error)


def _folder(spec: RunSpec) -> Path:
    return spec.folder.absolute()


def _label(item: _Item) -> str:
    return f"{item.state} {item.more}" if item.more and item.state in (CUT_OFF, RUNNING) else item.state


def _time(item: _Item) -> str:
    if item.state == CANNOT:
        return f": {item.more}"
    if item.left.seconds is None:
        return f"  ({item.left.source})"
    return f"  ~{clock(item.left.seconds)} ({item.left.source})" if item.left.source else ""


def _teachers_among(items: list[_Item]) -> str:
    count = sum(item.teacher for item in items)
    return f", {count} of them teacher{'s' * (count > 1)}" if count else ""


def _total(items: list[_Item]) -> str:
    return f": {_sum(items)}" if any(item.left.source for item in items) else ""


def _sum(items: list[_Item]) -> str:
    known = [item.left.seconds for item in items if item.left.seconds is not None]
    missing = len(items) - len(known)
    more = f" and {missing} without an estimate" if missing else ""
    return f"about {clock(sum(known))}{more}" if known else "no estimate"
