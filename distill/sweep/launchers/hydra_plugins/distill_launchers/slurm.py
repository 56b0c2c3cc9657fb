"""hydra/launcher=slurm: jobs as an array on a Slurm cluster, through hydra-submitit-launcher."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

import distill.errors as errors
from distill.files import one_line
from distill.signals import GOES_ON, leave
from distill.sweep.launcher import ComposingLauncher
from distill.sweep.queued import (
    Ends,
    handing_in,
    has_result,
    largest_array,
    left_in_queue,
    note_folder,
    outside_job,
    place,
)
from distill.sweep.worker import Task

if TYPE_CHECKING:
    from distill.signals import StopSignals
    from distill.sweep.jobs import Job

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as _Base
except ImportError:  # the extra `slurm` is not installed; the command line says so
    _Base = Launcher

_SHARED = {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
           "stderr_to_stdout"}  # fmt: skip


class SlurmLauncher(ComposingLauncher, _Base):  # type: ignore[misc, valid-type]
    """Its parameters are those of hydra-submitit-launcher, and `retries`: more attempts after a crash.

    Unlike its base it submits command lines instead of pickled Hydra objects, of runs that are not done only,
    from a snapshot of the code, and waits for all jobs even if some fail.
    """

    def __init__(self, retries: int = 1, **params: Any) -> None:
        super().__init__(**params)
        self.retries = int(retries)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        _Base.setup(self, hydra_context=hydra_context, task_function=task_function, config=config)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from distill.signals import StopSignals
        from distill.sweep.board import Board
        from distill.sweep.jobs import Sweep

        sweep = Sweep(self.config, self.composer, job_overrides, self.retries)
        sweep.announce(" on Slurm")
        left = sweep.jobs
        if left:
            self.tell_time(sweep, timed=False)  # a cluster's nodes are not the machine that hands in its jobs
            note_folder(sweep.output, str(self.params["submitit_folder"]))
        exports = _exports(sweep.output) if left else []
        with StopSignals() as stop, Board(sweep):
            while left and stop.received is None:
                queue, ends = self._queued(left, exports), Ends()
                left = []
                while queue and stop.received is None:
                    for job, submitted in ends.among(queue):
                        del queue[job]
                        if sweep.finish(job, *_outcome(submitted), slurm=submitted.job_id):
                            left.append(job)
                    _pause(min(1 + len(queue) / 50, 30), stop)
            if stop.received is not None:
                _leave(stop.received, sorted({_array(one) for one in queue.values()}))
        return sweep.returns()

    def _queued(self, jobs: Sequence[Job], exports: list[str]) -> dict[Job, Any]:
        """submitit's job of each: what an earlier launch, or one beside this, has left in the queue, and the rest
        handed in now. Raises ValueError for what sbatch does not take, and where squeue does not tell.
        """
        folder = str(self.params["submitit_folder"])
        with handing_in(folder):
            known = left_in_queue(folder)
            there = {job: known[place(job.folder)] for job in jobs if place(job.folder) in known}
            tasks = {job: Task(job.argv, str(job.folder), f"{exports} {dict(self.params)}") for job in jobs}
            for job in jobs:
                job.start()
            if there:
                _tell({job: tasks[job].is_like(one.submission().function) for job, one in there.items()}, there)
            rest = {job: task for job, task in tasks.items() if job not in there}
            return there | (self._submit(rest, exports) if rest else {})

    def _submit(self, tasks: Mapping[Job, Task], exports: list[str]) -> dict[Job, Any]:
        """Hand in jobs, as one array where the cluster takes one so large; returns submitit's job of each. Raises
        ValueError for what sbatch does not take.
        """
        jobs, most, at_once = list(tasks), largest_array(), int(self.params["array_parallelism"])
        arrays = -(-len(jobs) // most)
        if arrays > at_once:
            raise ValueError(
                f"this cluster takes {most:,} jobs an array, so that {len(jobs):,} are {arrays} arrays, of which "
                f"hydra.launcher.array_parallelism={at_once} is for {at_once}: give at least {arrays}"
            )
        found: dict[Job, Any] = {}
        for k in range(arrays):
            found |= self._submit_array({job: tasks[job] for job in jobs[k::arrays]}, exports, (at_once + k) // arrays)
        return {job: found[job] for job in jobs}

    def _submit_array(self, tasks: Mapping[Job, Task], exports: list[str], at_once: int) -> dict[Job, Any]:
        """Hand in an array of jobs, so many of which run at a time."""
        from submitit import AutoExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        params = {**self.params, "array_parallelism": at_once}
        params["setup"] = [*(params.get("setup") or []), *exports]
        folder, timeouts = params.pop("submitit_folder"), params.pop("max_num_timeout")
        executor = AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=timeouts)
        executor.update_parameters(
            **{key if key in _SHARED else f"slurm_{key}": value for key, value in params.items()}
        )
        try:
            with outside_job(), executor.batch():
                submitted = [executor.submit(task) for task in tasks.values()]
        except (FailedJobError, FailedSubmissionError) as error:
            why = f"sbatch does not take the jobs ({one_line(error)}): give hydra.launcher keys that this cluster has"
            raise ValueError(why) from error
        print(f"  submitted as {_array(submitted[0])}", flush=True)
        return dict(zip(tasks, submitted, strict=True))


def _exports(output: Path) -> list[str]:
    """The shell lines by which a job finds the code of now, whatever becomes of the working tree."""
    import distill.sweep.snapshot as snapshot

    env = snapshot.search_path(snapshot.take_snapshot(output))
    return [f"export {name}={shlex.quote(value)}" for name, value in env.items()]


def _outcome(submitted: Any) -> tuple[int, str]:
    """Exit code and reason of a job that is over; Slurm's word for one that left no result."""
    if has_result(submitted):
        try:
            return int(submitted.result()), ""
        except Exception as error:  # submitit's two kinds, with the whole log in their text
            if "timed-out too many times" in str(error):
                return errors.STOPPED, f"it timed out once more than max_num_timeout: {GOES_ON}"
    state = submitted.state
    over = "TIMEOUT" in state or "CANCELLED" in state
    return errors.STOPPED if over else errors.FAILED, f"Slurm says {state} ({submitted.paths.folder})"


def _array(submitted: Any) -> str:
    return str(submitted.job_id).partition("_")[0]


def _tell(alike: Mapping[Job, bool], there: Mapping[Job, Any]) -> None:
    """Say which jobs are in the queue already, and which of them this launch would hand in otherwise."""
    arrays = sorted({_array(one) for one in there.values()})
    print(f"  {len(there)} in the queue already, as {', '.join(arrays)}: not handed in again", flush=True)
    if other := sorted({_array(there[job]) for job, same in alike.items() if not same}):
        print(f"  {sum(not same for same in alike.values())} of them with the code, settings or hydra.launcher keys of "
              f"another launch: scancel {' '.join(other)} before this hands them in anew", flush=True)  # fmt: skip


def _pause(seconds: float, stop: StopSignals) -> None:
    """Wait, or until a signal comes, which a sleep does not end for."""
    end = time.monotonic() + seconds
    while stop.received is None and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))


def _leave(number: int, ids: list[str]) -> None:
    stay = f"its jobs stay in the queue, where a new launch finds them (scancel {' '.join(ids)} ends them)"
    leave(number, stay if ids else "nothing is queued")
