"""Runs side by side in one process: one pass over the data, one forward of the teacher, a step of each student."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import distill.errors as errors
import distill.runtime as runtime
from distill.batch import Batch, Source
from distill.config import RunSpec, thawed
from distill.data import ArraySource
from distill.data.arrays import SharedSource
from distill.engine.cuda_graphs import GraphedTeacher
from distill.engine.state import Options
from distill.engine.static_buffers import StaticBuffers
from distill.files import one_line
from distill.locking import run_lock
from distill.method import TeacherForward
from distill.models import FeatureNet
from distill.run import Experiment, Inputs, make_inputs
from distill.run_folder import RunFolder
from distill.signals import StopSignals
from distill.sweep.jobs import Job, Sweep
from distill.teachers.cache import HOLDS
from distill.teachers.forward import ForwardMemo

# of schedule: what batches depend on, and how many there are
BATCHES = ("batch_size", "epochs", "mixup", "cutmix", "repeats", "last_batch", "rule", "resize", "crop")


def pack_key(spec: RunSpec) -> str:
    """What runs must have in common to be packed: data, teachers, order and size of the batches, length, machine."""
    common = [spec.dataset, spec.machine, spec.seed, _begun(spec), _decides(spec)]
    teachers = [[replace(each, training=None), each.training and each.training.hash] for each in spec.teachers]
    schedule = {key: getattr(spec.schedule, key) for key in BATCHES}
    asked = [*teachers, spec.cache, _keeps(spec)] if teachers else None
    return json.dumps([common, asked, schedule], sort_keys=True, default=str)


def _keeps(spec: RunSpec) -> bool:
    """Whether a cache that is asked for holds what the run's method reads: it rounds what precision=fp32 computes, so
    that of a pack all or none have it.
    """
    return spec.method.reads <= HOLDS.get(spec.cache, frozenset())


def _begun(spec: RunSpec) -> list[Any]:
    """What a run that goes on had decided for its machine."""
    begun = RunFolder(spec.folder).choices
    return [begun.get(key) for key in ("precision", "threads", "trained", "frozen")]


def _decides(spec: RunSpec) -> list[Any]:
    """What the precision of a run on a CPU is decided by, where it is left to that: its student (`engine.choices`)."""
    kind = spec.machine.device.partition(":")[0]
    on_cpu = kind == "cpu" or (kind == "auto" and not torch.cuda.is_available())
    return [spec.student.model, thawed(spec.student.args)] if on_cpu and spec.machine.precision == "auto" else []


def packs(jobs: Sequence[tuple[Job, RunSpec]]) -> list[list[tuple[Job, RunSpec]]]:
    """Group jobs by `pack_key`; those without a teacher join the first pack that agrees in all the rest."""
    found: dict[str, list[tuple[Job, RunSpec]]] = {}
    for job, spec in sorted(jobs, key=lambda pair: not pair[1].teachers):
        key = pack_key(spec)
        rest = json.loads(key)
        if rest[1] is None:
            joined = (
                other for other in found if [json.loads(other)[0], json.loads(other)[2]] == [rest[0], rest[2]]
            )
            key = next(joined, key)
        found.setdefault(key, []).append((job, spec))
    return list(found.values())


class Member:
    """One run of a pack. Its random numbers are its own: what the others draw does not reach it.

    done: another launch had the folder and finished the run, so that there is nothing left to do.
    """

    def __init__(
        self, job: Job, spec: RunSpec, stop: StopSignals, inputs: Inputs | None, sharing: Sequence[RunSpec]
    ) -> None:
        self.job, self.exits = job, ExitStack()
        job.start()
        with self.exits:
            self.exits.enter_context(run_lock(job.folder))
            self.done = RunFolder(job.folder).result is not None
            if self.done:
                return
            inputs = inputs or shared_inputs(make_inputs(spec, sharing))
            self.experiment = Experiment(replace(spec, folder=job.folder), stop, inputs=inputs, quiet=True)
            self.exits.enter_context(self.experiment.logged())
            self.rng = runtime.rng_state()
            self.steps = self.experiment.fit.steps()
            self.exits = self.exits.pop_all()

    def step(self) -> bool:
        """Take one step; returns False when the run has ended, its result being written."""
        runtime.set_rng_state(self.rng)
        more = next(self.steps, self) is not self
        if not more:
            self.experiment.finish()
        self.rng = runtime.rng_state()
        return more

    def close(self, error: BaseException | None = None) -> None:
        """Release lock and log; what went wrong is in the log."""
        self.exits.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


def shared_inputs(inputs: Inputs) -> Inputs:
    """Let batches and teachers serve several runs that step in turn."""
    options, teachers = Options(inputs.autocast, graph=inputs.graph), inputs.teachers
    forward, source = shared(teachers, inputs.source, teachers.nets, options, inputs.buffers)
    return replace(inputs, source=source, teachers=teachers.with_forward(forward))


def shared(
    forward: TeacherForward, source: Any, teachers: Sequence[FeatureNet], options: Options, buffers: StaticBuffers
) -> tuple[TeacherForward, Source]:
    """Return a way of asking teachers, and a source, that loops in step can share.

    Where steps are recorded, all loops find a batch in one place, and what the teachers say of it in another: they
    are asked, by graphs of their own, before any of the loops takes its step. Nets that a method makes for itself, and
    any net about batches that a loop has for itself, are asked within its steps.
    """
    asked = GraphedTeacher(forward, buffers, options.graph) if options.graph else forward
    of_all = {id(teacher) for teacher in teachers}

    def shares(teacher: FeatureNet, batch: Batch) -> bool:
        kind = batch.inputs.device.type
        with options.autocast():
            usual = torch.is_autocast_enabled(kind)  # it is off where a method prepares a phase
        alike = id(teacher) in of_all and torch.is_autocast_enabled(kind) == usual
        return alike and (not options.graph or batch in buffers)

    memo = ForwardMemo(asked, forward, shares)

    def prepare(batch: Batch) -> Batch:
        batch = buffers(batch)
        with options.autocast(), torch.no_grad():
            for teacher in teachers:
                memo(teacher, batch)
        return batch

    if kind := _shared_kind(source):
        source = kind(**source.settings, **({"prepare": prepare} if options.graph else {}))
    return memo, source


def _shared_kind(source: Any) -> Any:
    """The class of a source like this one that gathers each batch once."""
    if type(source) is ArraySource:
        return SharedSource
    from distill.data.folder import FolderSource
    from distill.data.shared_folder import SharedFolder

    return SharedFolder if type(source) is FolderSource else None


class Pack:
    """Runs the jobs of one group, as many at a time as fit."""

    def __init__(self, sweep: Sweep, jobs: Sequence[tuple[Job, RunSpec]], most: int | None) -> None:
        self.sweep, self.waiting, self.most = sweep, list(jobs), most
        self.sharing = [spec for _, spec in jobs]

    def run(self, stop: StopSignals) -> None:
        """Run all jobs to their ends. A member that fails is dropped and reported; the others go on."""
        while self.waiting and stop.received is None:
            members = self._gather(stop)
            for member in members:
                member.experiment.packed = len(members)
            while members:
                stepped, members = members, [member for member in members if self._step(member)]
                _join(stepped)

    def _gather(self, stop: StopSignals) -> list[Member]:
        """Open runs until none is left, a signal has come, `most` are open, or the next would not fit into memory or is
        another launch's: who waits for that holds no run, for which that might wait.
        """
        members: list[Member] = []
        device = self.waiting[0][1].machine.device if self.waiting else "cpu"
        largest, free = 0, free_memory(device)
        while self.waiting and stop.received is None and (self.most is None or len(members) < self.most):
            if self.most is None and members and needed(members, largest) > free:
                break
            if members and RunFolder(self.waiting[0][0].folder).locked:
                break
            job, spec = self.waiting.pop(0)
            try:
                member = Member(job, spec, stop, members[0].experiment.inputs if members else None, self.sharing)
                if member.done:
                    self.sweep.finish(job, errors.DONE)
                    continue
                if self.most is None and not self._step(member):  # a step shows what a run needs
                    continue
                members.append(member)
                _join(members)
            except (Exception, errors.Stopped) as error:
                failed(self.sweep, job, error)
            left = free_memory(device)
            largest, free = max(largest, free - left), left
        return members

    def _step(self, member: Member) -> bool:
        try:
            if member.step():
                return True
            member.close()
            self.sweep.finish(member.job, errors.DONE)
        except (Exception, errors.Stopped) as error:
            _close(member, error)
            failed(self.sweep, member.job, error)
        return False


def failed(sweep: Sweep, job: Job, error: BaseException) -> None:
    """Report what a job failed of; it is not tried again."""
    with suppress(OSError), open(job.log, "a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    stopping = isinstance(error, errors.Stopped)
    sweep.finish(job, errors.exit_code(error), one_line(error), again=False, stopping=stopping)


def _join(members: Sequence[Member]) -> None:
    """Let the next batch wait for the steps of all runs, since it is written where they read."""
    for member in members:
        member.experiment.fit.join()


def _close(member: Member, error: BaseException) -> None:
    try:
        member.close(error)
    except BaseException as again:  # logged() lets the error through once it has closed the log
        if again is not error:
            raise


def needed(members: Sequence[Member], largest: int) -> int:
    """Bytes that are to be free for one more run, where a step takes as many as `largest`: a graph of the short last
    batch of an epoch takes up to as much again in each run, and is recorded later.
    """
    recorded = members[0].experiment.inputs.graph is not None
    return (3 + len(members) * recorded) * largest


def free_memory(device: str) -> int:
    """Bytes that are free: of the GPU that runs on this device (auto, cuda, cuda:1) take, else of the machine."""
    kind, _, number = device.partition(":")
    if kind in ("auto", "cuda") and torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count():
        return torch.cuda.mem_get_info(int(number) if number else None)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def run_all(sweep: Sweep, runs: Sequence[tuple[Job, RunSpec]], most: int | None) -> Iterator[Any]:
    """Run jobs of a sweep pack by pack. Yields after each pack."""
    with StopSignals(at_once=True) as stop:
        for jobs in packs(runs):
            with suppress(errors.Stopped):  # it came between two runs
                Pack(sweep, jobs, most).run(stop)
            yield stop.received
