"""--dry-run: which runs a command stands for, what is done of them, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import RunSpec, plain
from distill.record.progress import clock
from distill.run_folder import RunFolder
from distill.sweep.checked import Checked, before, checked_all, seed_and_rest
from distill.sweep.compose import Plan
from distill.sweep.jobs import doubles, job_names
from distill.sweep.queued import place, queued_below
from distill.sweep.speeds import NOT_KNOWN, Estimate, Speeds, read_speeds
from distill.sweep.steps import FEW_RUNS, Steps
from distill.teachers.bundled import is_bundled

STATE_DONE, RUNNING, QUEUED, CUT_OFF, TO_RUN, CANNOT = (
    "done", "running", "queued", "cut off", "to run", "cannot run",
)  # fmt: skip
WHAT = {STATE_DONE: "done", RUNNING: "running now", QUEUED: "in Slurm's queue", CUT_OFF: "cut off", TO_RUN: "to run",
        CANNOT: "that cannot run"}  # fmt: skip


@dataclass(frozen=True)
class _Item:
    """A run of the plan: its state, with a word more on it, and what is still to be done of it."""

    name: str
    folder: Path | None
    state: str
    more: str = ""
    left: Estimate = Estimate(0.0, "")
    teacher: bool = False
    told: tuple[str, ...] = ()  # on values that may not be what is wanted


def show_plan(plan: Plan) -> int:
    """Print the runs of a command, the teachers that they need among them, and the time for each state; return how many
    of them cannot run.
    """
    output = str(plain(plan[0][1](), "output")) if plan else "outputs"
    steps = Steps(few=len({seed_and_rest(job)[1] for job, _ in plan}) <= FEW_RUNS)
    speeds = Speeds(read_speeds(output), steps.seconds)
    checked = checked_all(plan)
    items = list(items_of(plan, speeds, checked))
    steps.keep()
    width = max((len(_label(item)) for item in items), default=0)
    for item in items:
        print(f"{_label(item):<{width}}  {item.name}{_time(item)}")
    print("\n" + "\n".join(summary(items, speeds)))
    places = [_folder(each.spec) if each.spec else None for each in checked]
    more = doubles(job_names([job for job, _ in plan]), places)
    for told in dict.fromkeys([more] * bool(more) + [told for item in items for told in item.told]):
        print(told)
    return sum(item.state == CANNOT for item in items)


def items_of(plan: Plan, speeds: Speeds, checked: Sequence[Checked] | None = None) -> Iterator[_Item]:
    """Each run once, teachers that are not there yet before the first run that needs them.

    checked: the runs of the jobs, where they have been checked already.
    """
    seen: set[Path] = set()
    checked = checked_all(plan) if checked is None else checked
    wanted = {_folder(each.spec) for each in checked if each.spec}
    outputs = {each.spec.output for each in checked if each.spec}
    queue = {run for output in outputs for run in queued_below(output)}
    for name, each in zip(job_names([job for job, _ in plan]), checked, strict=True):
        if (spec := each.spec) is None or each.reason:
            yield _Item(name or "this run", None, CANNOT, each.reason)
            continue
        for words, needed in () if RunFolder(_folder(spec)).done else before(spec):
            folder = _folder(needed)
            taught = words.startswith("teacher")
            if folder not in seen | wanted and not (RunFolder(folder).done or taught and is_bundled(needed)):
                yield _item(words, needed, speeds, queue, teacher=taught)
            seen.add(folder)
        if _folder(spec) not in seen - wanted:
            yield _item(name or "this run", spec, speeds, queue)
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


def _item(name: str, spec: RunSpec, speeds: Speeds, queue: Collection[str], teacher: bool = False) -> _Item:
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
    elif place(folder) in queue:
        state = QUEUED
    return _Item(name, folder, state, more, left, teacher, spec.cautions)


def _progress(rows: list[dict[str, Any]], spec: RunSpec, whole: Estimate) -> tuple[str, Estimate]:
    """Where a run was cut off, in words, and the time that is left of the whole, or by its own speed so far."""
    epochs = spec.schedule.epochs
    if not rows:
        return f"at epoch 0 of {epochs}", whole
    last, phases = rows[-1], {row.get("phase"): int(row.get("epochs", epochs)) for row in rows}
    to_come = last.get("epochs_left")  # in rows of versions before, none
    total = max(sum(phases.values()), epochs) if to_come is None else len(rows) + int(to_come)
    phase = f" of phase {last.get('phase')}" if phases != {last.get("phase"): epochs} else ""
    words, share = f"at epoch {last.get('epoch')} of {last.get('epochs', epochs)}{phase}", len(rows) / total
    if rate := last.get("images_per_second"):
        batch = spec.method.node["batch_size"] if spec.method.is_data_free else spec.schedule.batch_size
        images = float(last["step"]) * batch
        return words, Estimate(images / rate * (1 / share - 1), "measured, the run itself")
    return words, Estimate(None if whole.seconds is None else whole.seconds * (1 - share), whole.source)


def _folder(spec: RunSpec) -> Path:
    return spec.folder.absolute()


def _label(item: _Item) -> str:
    return f"{item.state} {item.more}" if item.more and item.state in (CUT_OFF, RUNNING, QUEUED) else item.state


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
