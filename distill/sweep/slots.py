"""Runs the jobs of a sweep on this machine, each in a process of its own, so many at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from typing import Any

import distill.errors as errors
from distill.config.output_folder import check_output
from distill.cores import cores
from distill.files import Backoff, SaveError
from distill.run_folder import RunFolder
from distill.signals import StopSignals, leave
from distill.sweep.board import Board
from distill.sweep.jobs import Job, Sweep
from distill.sweep.worker import process


class Slots:
    """`count` places for jobs; place i has GPU `gpus[i % len(gpus)]` for its own, and `threads` CPU threads.

    The processes are forked from one that has imported torch already and holds no CUDA context.
    """

    def __init__(self, sweep: Sweep, count: int, gpus: list[str], threads: int | None) -> None:
        self.sweep, self.gpus, self.threads = sweep, gpus, threads
        self.free = deque(range(count))
        self.waiting = deque(sweep.jobs)
        self.running: dict[BaseProcess, tuple[Job, int]] = {}
        self._full = Backoff()
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["distill.sweep.fork_server", "distill.sweep.preload"])
        forkserver.ensure_running()  # it imports torch while others go on

    def run(self) -> None:
        """Run all jobs. A first signal lets them save and raises SystemExit, a second SIGINT kills them."""
        with StopSignals() as stop, Board(self.sweep, len(self.free)):
            notified = False
            try:
                while self.running or (self.waiting and stop.received is None):
                    while self.free and self.waiting and stop.received is None and self._has_room():
                        self._start(self._next(), self.free.popleft())
                    self._collect(stopping=stop.received is not None)
                    if stop.received is not None and not notified:
                        notified = self._tell()
            except BaseException:
                for child in self.running:
                    _kill(child)
                raise
        if stop.received is not None:
            self._leave(stop.received)

    def _next(self) -> Job:
        """The first job that waits and is not at work already: two launches of a sweep, on two machines, share it."""
        job = next((job for job in self.waiting if not RunFolder(job.folder).locked), self.waiting[0])
        self.waiting.remove(job)
        return job

    def _has_room(self) -> bool:
        """Whether the disk takes another run; jobs wait for one that is full, which is said, and looked at again."""
        if self._full.wait and not self._full.due:
            return False
        try:
            check_output(self.sweep.output)
        except SaveError as error:
            print(f"  {error}; {len(self.waiting)} runs wait, for {self._full.failed():.0f} s at first", flush=True)
            return False
        except ValueError:  # not the disk: the jobs themselves say what
            pass
        self._full.succeeded()
        return True

    def _start(self, job: Job, slot: int) -> None:
        env = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        argv = list(job.argv)
        if self.threads and not any(text.lstrip("+").startswith("threads=") for text in argv):
            argv.append(f"threads={self.threads}")
        job.start()
        if why := job.obstacle:
            self.sweep.finish(job, errors.USAGE, why)
            return self.free.append(slot)
        child: Any = self.context.Process(target=process, args=(argv, str(job.folder), env), name=job.name)
        child.start()
        self.running[child] = (job, slot)

    def _collect(self, stopping: bool) -> None:
        """Wait, half a second at most, for a job to end, and record those that did."""
        sentinels = {child.sentinel: child for child in self.running}
        for sentinel in connection.wait(list(sentinels), timeout=0.5):
            child = sentinels[sentinel]  # type: ignore[index]
            job, slot = self.running.pop(child)
            child.join()
            code = errors.FAILED if child.exitcode is None else child.exitcode
            if code < 0:
                _kill(child)  # what it started itself
            if stopping and code == -signal.SIGTERM:  # it had nothing to save yet
                code = errors.STOPPED
            gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
            if self.sweep.finish(job, code, stopping=stopping, slot=slot, gpu=gpu):
                self.waiting.append(job)
            self.free.append(slot)

    def _tell(self) -> bool:
        left = f"{len(self.running)} runs save and leave"
        print(f"stopping: {left}; Ctrl-C once more ends them at once", file=sys.stderr)
        for child in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid or 0, signal.SIGTERM)
        return True

    def _leave(self, number: int) -> None:
        leave(number, f"{len(self.waiting)} runs were not started")


def _kill(child: BaseProcess) -> None:
    for kill in (os.killpg, os.kill):  # it leads a group as soon as it runs
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child.pid or 0, signal.SIGKILL)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES spells them; MIG slices count singly."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"UUID: (MIG-[^)\s]+)", listed) or re.findall(r"UUID: (GPU-[^)\s]+)", listed)


def chosen(names: Sequence[Any], seen: Sequence[str]) -> list[str]:
    """GPUs that are named as CUDA spells them, or by their number among those seen, and are to be given to jobs.

    Raises ValueError for one that is not among those seen.
    """
    wanted = [str(name) for name in names]
    if gone := [name for name in wanted if name not in seen and not (name.isdecimal() and int(name) < len(seen))]:
        there = f"there are {', '.join(seen)[:100]}" if seen else "none is to be seen here"
        raise ValueError(f"hydra.launcher.gpus={wanted}: no GPU {gone[0]}: {there}")
    return [name if name in seen else seen[int(name)] for name in wanted]


def threads_per_slot(slots: int) -> int | None:
    """The CPU threads of one slot; None (torch's choice) for a single one or with OMP_NUM_THREADS."""
    if slots == 1 or os.environ.get("OMP_NUM_THREADS"):
        return None
    return max(cores() // slots, 1)
