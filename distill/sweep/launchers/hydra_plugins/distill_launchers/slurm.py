"""hydra/launcher=slurm: jobs as an array on a Slurm cluster, through hydra-submitit-launcher."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
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

if TYPE_CHECKING:
    from distill.sweep.jobs import Job

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as _Base
except ImportError:  # the extra `slurm` is not installed; the command line says so
    _Base = Launcher

_SHARED = {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
           "stderr_to_stdout"}  # fmt: skip
QUEUED_AGAIN = 600  # seconds in which a preempted job is in the queue again, where PreemptMode is REQUEUE


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
        with StopSignals() as stop, Board(sweep):
            while left and stop.received is None:
                queue, ends = self._submit(left, sweep.output), Ends()
                left = []
                while queue and stop.received is None:
                    for job in [job for job, submitted in queue.items() if ends.has(submitted)]:
                        submitted = queue.pop(job)
                        if sweep.finish(job, *_outcome(submitted), slurm=submitted.job_id):
                            left.append(job)
                    time.sleep(min(1 + len(queue) / 50, 30))
            if stop.received is not None:
                _leave(stop.received, sorted({one.job_id.partition("_")[0] for one in queue.values()}))
        return sweep.returns()

    def _submit(self, jobs: Sequence[Job], output: Path) -> dict[Job, Any]:
        """Hand in an array of jobs; returns submitit's job of each. Raises ValueError for what sbatch does not take."""
        from submitit import AutoExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from distill.sweep.worker import Task

        params = dict(self.params)
        params["setup"] = [*(params.get("setup") or []), *_exports(output)]
        folder, timeouts = params.pop("submitit_folder"), params.pop("max_num_timeout")
        executor = AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=timeouts)
        executor.update_parameters(
            **{key if key in _SHARED else f"slurm_{key}": value for key, value in params.items()}
        )
        for job in jobs:
            job.start()
        try:
            with executor.batch():
                submitted = [executor.submit(Task(job.argv, str(job.folder))) for job in jobs]
        except (FailedJobError, FailedSubmissionError) as error:
            why = f"sbatch does not take the jobs ({one_line(error)}): give hydra.launcher keys that this cluster has"
            raise ValueError(why) from error
        print(f"  submitted as {submitted[0].job_id.partition('_')[0]}", flush=True)
        return dict(zip(jobs, submitted, strict=True))


def _exports(output: Path) -> list[str]:
    """The shell lines by which a job finds the code of now, whatever becomes of the working tree."""
    import distill.sweep.snapshot as snapshot

    env = snapshot.search_path(snapshot.take_snapshot(output))
    return [f"export {name}={shlex.quote(value)}" for name, value in env.items()]


class Ends:
    """Which of submitit's jobs are over. Of one that was preempted submitit waits for the next start, which never comes
    where PreemptMode is CANCEL.
    """

    def __init__(self) -> None:
        self._preempted: dict[str, float] = {}  # since when, on the monotonic clock

    def has(self, submitted: Any) -> bool:
        """Whether a job has left a result, has ended without one, or was preempted and not queued again in time."""
        if submitted.done():
            return True
        if "PREEMPTED" not in submitted.state:
            self._preempted.pop(submitted.job_id, None)
            return False
        return time.monotonic() - self._preempted.setdefault(submitted.job_id, time.monotonic()) >= QUEUED_AGAIN


def _outcome(submitted: Any) -> tuple[int, str]:
    """Exit code and reason of a job that is over; Slurm's word for one that left no result."""
    if not submitted.done():  # submitit would wait for its result
        return errors.FAILED, f"Slurm says {submitted.state}, and did not queue it again ({submitted.paths.folder})"
    try:
        return int(submitted.result()), ""
    except Exception as error:  # submitit's two kinds, with the whole log in their text
        message = str(error)
    if "timed-out too many times" in message:
        return errors.STOPPED, f"it timed out once more than max_num_timeout: {GOES_ON}"
    state = submitted.state
    over = "TIMEOUT" in state or "CANCELLED" in state
    return errors.STOPPED if over else errors.FAILED, f"Slurm says {state} ({submitted.paths.folder})"


def _leave(number: int, ids: list[str]) -> None:
    stay = f"its jobs stay in the queue, and a new launch hands them in once more: scancel {' '.join(ids)} before it"
    leave(number, stay if ids else "nothing is queued")
