"""hydra/launcher=ray: jobs as tasks of a Ray cluster, or of one that is started on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

import distill.errors as errors
from distill.files import one_line
from distill.signals import leave
from distill.sweep.launcher import ComposingLauncher

if TYPE_CHECKING:
    from distill.sweep.jobs import Job, Sweep


class RayLauncher(ComposingLauncher):
    """init: arguments of ray.init; remote: what each job needs (num_cpus, num_gpus, memory ...).

    Each job has a worker process of its own; one that dies is tried again `retries` times.
    """

    def __init__(self, init: Any = None, remote: Any = None, retries: int = 1) -> None:
        self.init, self.remote, self.retries = _plain(init), _plain(remote), int(retries)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from distill.sweep.jobs import Sweep
        from distill.sweep.slots import visible_gpus

        sweep = Sweep(self.config, self.composer, job_overrides, self.retries)
        sweep.announce(" on Ray")
        if sweep.jobs:
            self.tell_time(sweep, timed=self._is_here() and not visible_gpus())
            self._connect()
            import ray

            try:
                self._run(sweep)
            finally:
                ray.shutdown()
        return sweep.returns()

    def _connect(self) -> None:
        """Join the cluster, or start one. Raises ValueError where there is none at the address."""
        import ray

        try:
            ray.init(**self.init, ignore_reinit_error=True)
        except ConnectionError as error:
            why = f"there is no Ray cluster to join ({one_line(error)}): start one, or give hydra.launcher.init.address"
            raise ValueError(why) from error

    def _is_here(self) -> bool:
        """Whether the cluster is this machine alone."""
        return not (self.init.get("address") or os.environ.get("RAY_ADDRESS"))

    def _run(self, sweep: Sweep) -> None:
        import ray

        from distill.signals import StopSignals
        from distill.sweep.board import Board
        from distill.sweep.worker import run_in

        task = ray.remote(**self.remote, max_calls=1, max_retries=0)(run_in)
        with StopSignals() as stop, Board(sweep):
            running = {_start(task, job): job for job in sweep.jobs}
            cancelled = False
            while running:
                for reference in ray.wait(list(running), timeout=1)[0]:
                    job = running.pop(reference)
                    if sweep.finish(job, *_outcome(reference), stopping=stop.received is not None):
                        running[_start(task, job)] = job
                if stop.received is not None and not cancelled:
                    cancelled = True
                    for reference in running:
                        ray.cancel(reference)
        if stop.received is not None:
            leave(stop.received)


def _plain(node: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node or {})
    return {key: value for key, value in plain.items() if value is not None}  # type: ignore[union-attr, misc]


def _start(task: Any, job: Job) -> Any:
    job.start()
    return task.remote(job.argv, str(job.folder), os.getcwd())


def _outcome(reference: Any) -> tuple[int, str]:
    """Exit code of a task that is over; Ray's word for one that left none."""
    import ray

    try:
        return int(ray.get(reference)), ""
    except ray.exceptions.TaskCancelledError:
        return errors.STOPPED, "cancelled"
    except ray.exceptions.RayError as error:
        return errors.FAILED, f"{type(error).__name__}: {str(error).strip().splitlines()[-1].strip()}"
